"""The zoo: the auditor says of each loss what is true of it, all of it, and nothing else."""

import math
import random
import re
import subprocess
import sys

import pytest
import torch
from sampled import sampled

from audit import zoo_truth
from audit.zoo import ENTRIES, RIGHT, WRONG
from audit.zoo_family import EDITS, STYLES, untold
from audit.zoo_results import defects
from audit.zoo_run import seen

NAMES = tuple(ENTRIES)

# Of four million float32, in which errors are scattered.
SMALLEST = "65,536 numbers are looked at for a nearer one, and not all"


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    """Certified values of this module's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARFOCAL_CACHE", str(tmp_path_factory.mktemp("truths")))
        yield


def test_the_zoo_is_large():
    assert len(RIGHT) >= 30
    assert len(WRONG) >= 30


@pytest.mark.parametrize("name", sampled(NAMES, NAMES[::3].__contains__))
def test_what_is_said_is_true_and_all_that_is_true_is_said(name):
    """In one test, as an audit is made once."""
    found = seen(name)
    assert not found.false, "\n".join(f"{c.kind}: {c.words}\n    {c.why}" for c in found.false[:8])
    assert not found.missed
    # alpha of the other class is a convention like another, and told as that.
    assert name == "alpha_the_other_way" or (found.report.status == 0) == ENTRIES[name].clean


@pytest.mark.parametrize(
    "target",
    [pytest.param(1.0, marks=pytest.mark.xfail(strict=False, reason=SMALLEST)), 0.0],
)
def test_no_float32_before_a_scattered_cliff_is_off(target):
    """All of them, from half of the cliff on: four million numbers."""
    report = seen("by_subtraction").report
    cell = next(
        c
        for c in report.cells
        if (c.quantity, c.dtype, c.target, c.gamma) == ("gradient", "float32", target, 2.0)
    )
    ends = torch.tensor([abs(cell.percent.logit) / 2, abs(cell.percent.logit)])
    first, last = ends.view(torch.int32).tolist()
    for start in range(first, last, 1 << 20):
        patterns = torch.arange(start, min(start + (1 << 20), last), dtype=torch.int32)
        x = patterns.view(torch.float32) * (1 if target else -1)
        wrong = defects(ENTRIES["by_subtraction"], x, target, 2.0)["gradient"]["off"]
        assert not bool(wrong.any()), x[wrong][0].item()


@pytest.mark.parametrize("style", sampled(STYLES, lambda style: style == next(iter(STYLES))))
@pytest.mark.parametrize("edit", ["none", *EDITS])
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


# Of many conventions.
PRINTED = (
    "by_subtraction", "by_log_softmax", "class_probabilities", "numpy_pair", "alpha_the_other_way",
    "clamp_of_logits", "MeanFirstWithAlpha", "log_1e8", "half_constant", "asymmetric_focusing",
    "of_log_probabilities", "map_by_subtraction", "integers_by_subtraction",
    "map_of_classes_by_subtraction",
)  # fmt: skip


@pytest.mark.parametrize(
    "dtype", sampled(["float64", "float32", "float16", "bfloat16"], "bfloat16".__eq__)
)
def test_lines_of_python_print_what_is_stated(dtype):
    """Two findings of each of some losses."""
    findings = []
    for name in PRINTED:
        shown = [f for f in seen(name).report.findings if f.computed is not None]
        shown = [f for f in shown if f.dtype == dtype]
        findings += random.Random(name).sample(shown, min(len(shown), 2))
    assert len(findings) >= 4
    program = "\nprint('~')\n".join(finding.reproduce for finding in findings)
    command = [sys.executable, "-W", "ignore", "-c", program]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    for finding, line in zip(findings, run.stdout.split("~"), strict=True):
        # One tensor, or the two arrays of a pair.
        shown = re.findall(r"[\[(]\s*(-?nan|-?inf|[-+]?\d[-+.\de]*)", line)
        assert any(is_shown(digits, finding.computed) for digits in shown), (
            finding.reproduce, line, finding.computed,
        )  # fmt: skip


def is_shown(digits, number):
    """Whether these digits are printed of a number, of which PyTorch shows four."""
    rounding = 0.0 if "e" in digits else 5.1e-5
    printed = float(digits)
    same = math.isnan(printed) and math.isnan(number)
    return same or printed == pytest.approx(number, rel=1e-3, abs=rounding)
