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
        ((f"{PLANTED}:plain", "--option", "gamma"), "NAME=VALUE"),
        ((), "either a TARGET or --installed"),
    ],
)
def test_what_cannot_be_audited_exits_with_2(cache, arguments, words):
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in result.output
