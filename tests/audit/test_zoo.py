"""The zoo: the auditor says of each loss what is true of it, all of it, and nothing else."""

import math
import random
import re
import subprocess
import sys

import pytest
import torch

from audit import zoo_known, zoo_truth
from audit.zoo import ENTRIES, RIGHT, WRONG
from audit.zoo_family import EDITS, STYLES, untold
from audit.zoo_run import seen

NAMES = tuple(ENTRIES)


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    """Certified values of this module's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARFOCAL_CACHE", str(tmp_path_factory.mktemp("truths")))
        yield


def xfail(reasons, key):
    """A mark where something is known to be wrong."""
    return [pytest.mark.xfail(strict=True, reason=reasons[key])] if key in reasons else []


def but(reasons):
    """All entries, those marked of which something is known to be wrong."""
    return [pytest.param(name, marks=xfail(reasons, name)) for name in NAMES]


def test_the_zoo_is_large():
    assert len(RIGHT) >= 30
    assert len(WRONG) >= 30


@pytest.mark.parametrize("name", but(zoo_known.REFUSED))
def test_every_statement_is_true(name):
    """But for those of a kind that is known to be false."""
    false = [
        claim
        for claim in seen(name).false
        if not any(known.matches(claim) for known in zoo_known.FALSE)
    ]
    assert not false, "\n".join(f"{c.kind}: {c.words}\n    {c.why}" for c in false[:8])


@pytest.mark.parametrize("name", but(zoo_known.REFUSED | zoo_known.MISSED))
def test_what_is_true_is_found(name):
    assert not seen(name).missed


@pytest.mark.parametrize("name", but(zoo_known.REFUSED))
def test_it_is_clean_if_and_only_if_it_is_right(name):
    noted = {"alpha_the_other_way"}  # a convention like another, which is told
    if name not in noted:
        assert (seen(name).report.status == 0) == ENTRIES[name].clean


@pytest.mark.parametrize(
    "known",
    [
        pytest.param(known, marks=pytest.mark.xfail(strict=True, reason=known.reason))
        for known in zoo_known.FALSE
    ],
    ids=lambda known: known.example,
)
def test_statements_that_are_known_to_be_false(known):
    """Where this passes it is mended: take it out of `zoo_known.py`."""
    assert not any(known.matches(claim) for claim in seen(known.example).false)


@pytest.mark.parametrize(
    ("edit", "style"),
    [
        pytest.param(edit, style, marks=xfail(zoo_known.UNTOLD, (edit, style)))
        for edit in ("none", *EDITS)
        for style in STYLES
    ],
)
def test_each_edit_is_found_and_named_and_no_other(edit, style):
    assert untold(style, edit) == []


@pytest.mark.parametrize("soft", ["linear", "mixture", "margin", "entropy"])
@pytest.mark.parametrize("y", [1.0, 0.0, 0.375])
def test_the_truth_of_the_zoo_is_the_textbook_s(soft, y):
    """mpmath's jets against automatic differentiation in float64, at mild logits."""
    x = torch.tensor([-2.5, -0.75, 0.5, 3.0], dtype=torch.float64, requires_grad=True)
    p, gamma = torch.sigmoid(x), 1.7
    ce = -y * p.log() - (1 - y) * (1 - p).log()
    loss = {
        "linear": (y * (1 - p) + (1 - y) * p) ** gamma * ce,
        "mixture": -y * (1 - p) ** gamma * p.log() - (1 - y) * p**gamma * (1 - p).log(),
        "margin": torch.sigmoid(-(2 * y - 1) * x) ** gamma * ce,
        "entropy": (1 - torch.exp(-ce)) ** gamma * ce,
    }[soft]
    (slope,) = torch.autograd.grad(loss.sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x)
    jets = [zoo_truth.truth(logit, y, gamma, soft=soft) for logit in x.tolist()]
    for i, expected in enumerate((loss, slope, bend)):
        found = torch.tensor([float(jet[i]) for jet in jets], dtype=torch.float64)
        torch.testing.assert_close(found, expected.detach(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("detached", [False, True])
@pytest.mark.parametrize("y", [1.0, 0.0])
def test_the_truth_of_a_scan_is_mpmath_s(y, detached):
    x = torch.tensor([-300.0, -40.0, -1.0, 0.25, 17.0, 120.0], dtype=torch.float64)
    for gamma in (0.0, 0.5, 2.0):
        many = zoo_truth.truths(x, y, gamma, detached=detached)
        for i, logit in enumerate(x.tolist()):
            one = zoo_truth.truth(logit, y, gamma, detached=detached)
            for quantity, found in many.items():
                expected = float(getattr(one, quantity))
                assert found[i].item() == pytest.approx(expected, rel=1e-12, abs=1e-300)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_lines_of_python_print_what_is_stated(dtype):
    """A sample of all losses whose lines run by themselves."""
    names = [
        name for name in NAMES if name not in zoo_known.REFUSED and dtype in ENTRIES[name].dtypes
    ]
    drawn = random.Random(0).sample(names, min(len(names), 24))
    findings = []
    for name in drawn:
        shown = [
            f for f in seen(name).report.findings if f.dtype == dtype and f.computed is not None
        ]
        if ENTRIES[name].takes != "log-probabilities":
            findings += random.Random(name).sample(shown, min(len(shown), 2))
    assert len(findings) >= 4
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "\n".join(f.reproduce for f in findings)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    printed = [line for line in run.stdout.splitlines() if re.search(r"[0-9]|nan|inf", line)]
    for finding, line in zip(findings, printed, strict=True):
        digits = re.search(r"-?(?:nan|inf|[0-9.]+(?:e[+-]?\d+)?)", line).group()
        number, rounding = float(digits), 0.0 if "e" in digits else 5.1e-5
        same = math.isnan(number) and math.isnan(finding.computed)
        near = number == pytest.approx(finding.computed, rel=1e-3, abs=rounding)
        assert same or near, (finding.reproduce, line, finding.computed)
