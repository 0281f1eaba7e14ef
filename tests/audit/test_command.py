"""`parfocal audit` as it is called from a shell."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from parfocal.audit import AuditReport, audit, isolated
from parfocal.audit.output.baseline import compare, read_baseline, write_baseline
from parfocal.cli import cli

PLANTED = Path(__file__).with_name("planted.py")


def run(*arguments):
    return CliRunner().invoke(cli, ["audit", *map(str, arguments)])


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PARFOCAL_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_findings_are_written_and_exit_with_1(cache, monkeypatch):
    names = ("report.json", "report.xml", "report.html", "table.md", "baseline.json")
    paths = [cache / name for name in names]
    options = ("--json", "--junit", "--html", "--markdown", "--write-baseline")
    pairs = [word for pair in zip(options, paths, strict=True) for word in pair]
    one_gamma = ("--quick", "--option", "gamma=0.5", "--fixed-gamma", "0.5")
    result = run(f"{PLANTED}:plain", *one_gamma, *pairs)
    assert result.exit_code == 1, result.output
    for words in ("not finite, gradient", "float32 16.6355", "gamma is the keyword gamma", "!!!"):
        assert words in result.output
    report = AuditReport.from_json(paths[0].read_text())
    assert report.status == 1
    assert all(path.stat().st_size > 100 for path in paths)
    # What is known passes, and nothing else; the same is found again, without looking for it.
    monkeypatch.setattr(isolated, "audit_isolated", lambda *_: report)
    known = run(f"{PLANTED}:plain", *one_gamma, "--baseline", paths[4])
    assert known.exit_code == 0, known.output


def test_baseline_is_strict(cache):
    report = audit(f"{PLANTED}:plain", quick=True, gammas=(0.5,), dtypes=[torch.float32])
    path = cache / "baseline.json"
    write_baseline(path, [report])
    assert compare(read_baseline(path), [report]) == ((), ())
    entries = json.loads(path.read_text())["findings"]
    path.write_text(json.dumps({"findings": [*entries[1:], "fixed long ago"]}))
    assert compare(read_baseline(path), [report]) == ((entries[0],), ("fixed long ago",))
    path.write_text("[]")
    with pytest.raises(ValueError, match="is no baseline"):
        read_baseline(path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("no_such_file.py:loss",), "no file no_such_file.py"),
        (("[/red].py:loss",), "no file [/red].py"),
        ((f"{PLANTED}:plain", "--option", "gamma"), "NAME=VALUE"),
        ((), "either a TARGET or --installed"),
    ],
)
def test_what_cannot_be_audited_exits_with_2(cache, arguments, words):
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in result.output


def test_serious_losses_exit_with_0_and_say_why_they_are_remarked_on(cache):
    """PyTorch's own, whose gradient of a sure answer is 0, and its second derivative too."""
    one = ("torch.nn.functional:binary_cross_entropy_with_logits", "--quick", "--dtype", "float32")
    result = run(*one)
    assert result.exit_code == 0, result.output
    assert "Trains safely in float32 at gamma 0" in result.output
    assert "remark: dead gradient, gradient in float32" in result.output
    assert "error:" not in result.output


def test_what_is_looked_at_and_what_fails_is_chosen(cache):
    path = cache / "report.json"
    chosen = ("--quick", "--gamma", "2", "--gamma", "1", "--dtype", "float32", "--dtype", "float16",
              "--quantity", "gradient", "--json", path)  # fmt: skip
    assert run(f"{PLANTED}:plain", *chosen).exit_code == 0
    cells = AuditReport.from_json(path.read_text()).cells
    assert {(c.gamma, c.dtype, c.quantity) for c in cells} == {
        (gamma, dtype, "gradient") for gamma in (1.0, 2.0) for dtype in ("float32", "float16")
    }


@pytest.mark.parametrize(
    ("fail_on", "status"),
    [("error", 0), ("warning", 1), ("dead-gradient", 1), ("wrong-sign, not-finite", 1),
     ("wrong-sign,masked-leak", 0), ("another-function", 0)],
)  # fmt: skip
def test_fail_on_takes_severities_and_kinds(cache, monkeypatch, fail_on, status):
    """Of a report that has dead gradients and overflows as remarks."""
    chosen = {"gammas": (2.0,), "dtypes": [torch.float32], "quantities": ("gradient",)}
    report = audit(f"{PLANTED}:plain", quick=True, **chosen)
    assert {f.kind for f in report.findings} == {"dead gradient", "not finite"}
    monkeypatch.setattr(isolated, "audit_isolated", lambda *_: report)
    assert run(f"{PLANTED}:plain", "--fail-on", fail_on).exit_code == status


def test_fail_on_refuses_other_words(cache):
    result = run(f"{PLANTED}:plain", "--fail-on", "nonsense")
    assert result.exit_code == 2
    assert "expected some of error, warning, not-finite" in result.output


@pytest.mark.parametrize("content", ["null", "{}", "not JSON", '{"findings": null}', None])
def test_a_baseline_that_is_none_is_told_in_a_line_before_the_audit(cache, monkeypatch, content):
    path = cache / "known.json"
    if content is not None:
        path.write_text(content)
    monkeypatch.setattr(isolated, "audit_isolated", None)
    result = run(f"{PLANTED}:plain", "--baseline", path)
    assert result.exit_code == 2
    assert result.output.count("\n") == 1
    assert "is no baseline" in result.output
