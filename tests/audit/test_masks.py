"""A loss's own masks: what the auditor says of them is what the losses themselves give."""

import functools
import math
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from audit import masked_losses
from parfocal.audit import audit
from parfocal.audit.discover import discover
from parfocal.audit.known import known
from parfocal.audit.masks.findings import mask_findings
from parfocal.audit.masks.trials import try_masks
from parfocal.audit.subject import Subject

LOSSES = Path(masked_losses.__file__)
GAMMAS = (0.0, 0.5, 2.0)
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

# Of positions that are left out.
SIZES = {
    "calm": (0.75, 3.0),
    "extreme": (9.0, 25.0, 100.0, 1e4),
    "not finite": (math.nan, math.inf),
}


class Case(NamedTuple):
    """A loss, the argument that leaves positions out, and its settings.

    settings: ignored targets, or entries that leave out: True, False, or 0.0 of weights.
    ones: how many dimensions of one the loss takes more.
    """

    name: str
    argument: str | None
    settings: tuple
    is_binary: bool = False
    ones: int = 0

    def call(self, x, y, out, gamma, setting, reduction=None):
        """The loss of logits and targets, of which some are left out."""
        loss = getattr(masked_losses, self.name)
        options = {"gamma": gamma}
        if reduction is not None:
            options["reduction"] = reduction
        on_call = {}
        if type(setting) is int:
            y = torch.where(out, setting, y)
            on_call = {self.argument: setting} if self.argument else {}
        elif type(setting) is bool:
            on_call = {self.argument: out == setting}
        else:
            on_call = {self.argument: torch.where(out, 0.0, 1.0).to(x.dtype)}
        y = y.to(x.dtype) if self.is_binary else y
        x, y = (t.reshape(*t.shape, *(1,) * self.ones) for t in (x, y))
        if self.ones:
            on_call = {
                name: value.reshape(y.shape) if isinstance(value, torch.Tensor) else value
                for name, value in on_call.items()
            }
        if isinstance(loss, type):
            return loss(**options)(x, y, **on_call)
        return loss(x, y, **options, **on_call)

    @property
    def reduction(self):
        """What asks for the loss of each position."""
        loss = getattr(masked_losses, self.name)
        code = (loss.__init__ if isinstance(loss, type) else loss).__code__
        return "none" if "reduction" in code.co_varnames else None


INDICES = (-100, 255, 1)
CASES = {
    case.name: case
    for case in (
        *(Case(name, "ignore_index", INDICES) for name in (
            "selects", "over_all", "at_least_one", "multiplied", "where_after", "through_nan",
            "never_read", "negative_alone", "one_hot_first", "smoothed_still", "value_stays",
            "shared", "InForward",
        )),
        Case("not_a_class", "ignore_index", (-100,)),
        Case("by_default", None, (-100,)),
        Case("by_cross_entropy", None, (-100,)),
        Case("drops", "ignore_index", INDICES, is_binary=True),
        Case("binary_never_read", "ignore_index", INDICES, is_binary=True),
        Case("of_probabilities", "ignore_index", INDICES, is_binary=True),
        Case("masked", "mask", (False,), is_binary=True),
        Case("masked_late", "valid_mask", (False,), is_binary=True),
        Case("padded", "padding_mask", (True,)),
        Case("masked_logits", "mask", (False,), is_binary=True),
        Case("weighed", "sample_weight", (0.0,), is_binary=True),
        Case("MaskedCall", "mask", (False,), is_binary=True),
        Case("of_maps", "ignore_index", INDICES, ones=2),
        Case("padded_maps", "padding_mask", (True,), ones=2),
        Case("of_column", "mask", (False,), is_binary=True, ones=1),
        Case("of_log_probabilities", "ignore_index", INDICES),
    )
}  # fmt: skip


@functools.cache
def trials(name):
    """The subject, and what was found in all dtypes."""
    subject = discover(f"{LOSSES}:{name}").subject
    return subject, try_masks(subject, GAMMAS, DTYPES)


@functools.cache
def found(name):
    """The findings of a loss."""
    subject, tried = trials(name)
    return tuple(mask_findings(subject, tried.faults))


def batch(case, setting, sizes, dtype):
    """Six positions that count, and for each size, sign, class and target one that doesn't."""
    generator = torch.Generator().manual_seed(5)
    classes = 2 if case.is_binary else 3
    spikes = [
        (torch.where(torch.arange(classes) == c, sign * size, 0.0), y)
        for size in sizes
        for sign in (1, -1)
        for c in range(classes)
        for y in range(classes)
    ]
    if case.is_binary:
        spikes = [(row[:1], y) for row, y in spikes if row[0] != 0]
    kept = torch.randn(6, 1 if case.is_binary else classes, generator=generator)
    rows = torch.cat([kept.double(), torch.stack([row for row, _ in spikes]).double()])
    allowed = [c for c in range(classes) if type(setting) is not int or c != setting]
    y = [allowed[i % len(allowed)] for i in range(6)] + [y for _, y in spikes]
    out = torch.arange(len(rows)) >= 6
    rows = rows[:, 0] if case.is_binary else rows
    return rows.to(dtype), torch.tensor(y), out


def results(case, rows, y, out, gamma, setting):
    """Losses and gradients; the loss of probabilities is given these."""
    taken = {"of_probabilities": torch.sigmoid, "of_log_probabilities": torch.nn.LogSoftmax(1)}
    x = taken.get(case.name, torch.clone)(rows)
    x.requires_grad_()
    loss = case.call(x, y, out, gamma, setting, case.reduction)
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    return loss.detach(), gradient.reshape(len(rows), -1)


def first_stage(case, setting, dtype, gamma):
    """At which logits of what is left out the loss is first wrong; empty if at none."""
    for stage, sizes in SIZES.items():
        if stage == "not finite" and type(setting) is float:
            continue
        rows, y, out = batch(case, setting, sizes, dtype)
        try:
            loss, gradient = results(case, rows, y, out, gamma, setting)
        except (RuntimeError, IndexError):
            return "fails"
        if bool((gradient[out] != 0).any()):
            return stage
        if len(loss) == len(rows) and bool((loss[out] != 0).any()):
            return stage
        rows[out] = 0.25
        _, other = results(case, rows, y, out, gamma, setting)
        near = torch.isclose(gradient[~out], other[~out], rtol=1e-3, atol=1e-6)
        if not bool((near if dtype.itemsize > 2 else gradient[~out].isfinite()).all()):
            return stage
    return ""


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_what_the_loss_gives(name):
    """In each dtype, at each gamma and setting."""
    case = CASES[name]
    expected = {
        (setting, str(dtype).removeprefix("torch."), gamma): first_stage(
            case, setting, dtype, gamma
        )
        for setting in case.settings
        for dtype in DTYPES
        for gamma in GAMMAS
    }
    if case.argument is None:  # nothing was promised: a line says it
        expected = {key: stage for key, stage in expected.items() if stage != "not finite"}
    told = {}
    for fault in trials(name)[1].faults:
        mask = fault.mask
        setting = mask.ignored if mask.ignored is not None else case.settings[0]
        assert mask.name == (case.argument or "")
        if type(setting) is bool:
            assert mask.marks is setting
        told[setting, fault.dtype, fault.gamma] = fault.stage
    assert told == {key: stage for key, stage in expected.items() if stage}


@pytest.mark.parametrize("name", CASES)
def test_findings_are_errors_unless_no_numbers_alone_fail(name):
    case = CASES[name]
    for finding in found(name):
        setting = int(finding.target) if type(case.settings[0]) is int else case.settings[0]
        stages = {
            first_stage(case, setting, getattr(torch, finding.dtype), gamma)
            for gamma in finding.gammas
        }
        assert stages == {"not finite"} or finding.severity == "error"
        assert stages != {"not finite"} or finding.severity == "warning"
        assert (finding.kind == "fails") == (stages == {"fails"})
        assert finding.kind in ("fails", "masked leak")


@pytest.mark.parametrize("name", CASES)
def test_a_line_says_what_is_0_if_the_loss_has_it(name):
    case = CASES[name]
    clean = [
        setting for setting in case.settings
        if all(first_stage(case, setting, dtype, gamma) in ("", "not finite")
               for dtype in DTYPES for gamma in GAMMAS)
    ]  # fmt: skip
    lines = [line for line in trials(name)[1].lines if "exactly 0" in line]
    assert len(lines) == bool(clean)
    if not clean or type(clean[0]) is float:
        return
    reaches = all(
        first_stage(case, setting, dtype, gamma) == ""
        for setting in clean for dtype in DTYPES for gamma in GAMMAS
    )  # fmt: skip
    assert ("NaN" in lines[0]) == reaches
    assert ("at finite logits" in lines[0]) != reaches


MEANS = [
    name for name, case in CASES.items()
    if case.reduction and name not in (
        "multiplied", "where_after", "never_read", "binary_never_read", "smoothed_still",
        "value_stays", "shared", "masked_late",
    )
]  # fmt: skip


@pytest.mark.parametrize("name", MEANS)
def test_what_a_mean_divides_by(name):
    case = CASES[name]
    setting = 1 if name == "one_hot_first" else case.settings[0]
    rows, y, out = batch(case, setting, (0.5, 2.0), torch.float64)
    total = case.call(rows, y, out, 2.0, setting, "none")
    total = total.sum() if len(total) < len(rows) else total[~out].sum()
    divisor = float(total / case.call(rows, y, out, 2.0, setting, "mean"))
    words = {len(rows): "ones too", 6: "that are left"}[round(divisor, 6)]
    lines = [line for line in trials(name)[1].lines if "mean divides" in line]
    assert len(lines) == 1
    assert lines[0].endswith(words)


@pytest.mark.parametrize("name", MEANS)
def test_a_mean_of_nothing(name):
    case = CASES[name]
    setting = 1 if name == "one_hot_first" else case.settings[0]
    rows, y, out = batch(case, setting, (0.5, 2.0), torch.float64)
    mean = float(case.call(rows[out], y[out], out[out], 2.0, setting, "mean"))
    words = "is NaN" if math.isnan(mean) else f"is {mean:g}"
    lines = [line for line in trials(name)[1].lines if "all are left out" in line]
    assert len(lines) == 1
    assert lines[0].endswith(words)


def test_an_argument_that_nothing_depends_on_is_told():
    for name in ("never_read", "binary_never_read", "negative_alone"):
        assert all("no result that was tried depends on" in f.cause for f in found(name))
    others = [f for name in CASES for f in found(name) if "depends" in f.cause]
    assert len(others) == sum(
        len(found(name)) for name in ("never_read", "binary_never_read", "negative_alone")
    )
    _, tried = trials("unread_mask")
    assert tried.lines == ("mask: no result that was tried depends on it",)
    x, y = torch.tensor([0.5, -2.0]), torch.tensor([0.0, 1.0])
    masks = [None, torch.tensor([True, False]), torch.tensor([0.0, 1.0])]
    losses = [masked_losses.unread_mask(x, y, 2.0, mask) for mask in masks]
    assert all(torch.equal(loss, losses[0]) for loss in losses)


def test_the_change_of_another_position_is_told():
    """A norm of all logits: its gradient is that with the norm that an ignored one makes."""
    told = [f for f in found("shared") if f.dtype == "float64"]
    assert len(told) == 1
    assert "the gradient of another position changes" in told[0].cause
    assert told[0].computed != pytest.approx(told[0].truth, rel=1e-2)


def test_a_refused_setting_is_a_line():
    lines = trials("not_a_class")[1].lines
    for index in (255, 1):
        with pytest.raises(ValueError, match="expected ignore_index < 0"):
            masked_losses.not_a_class(torch.zeros(2, 3), torch.tensor([0, 2]), 2.0, index)
        words = f"ignore_index={index} is refused: ValueError: expected ignore_index < 0"
        assert words in lines


def test_a_factor_of_each_class_is_no_mask():
    """Entries beyond the classes are taken by the loss, and read by none."""
    assert trials("class_weighed")[1] == ((), ())


def test_lines_of_python_print_what_is_stated():
    findings = [finding for name in CASES for finding in found(name)]
    assert len(findings) > 40
    program = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        "for line in sys.stdin.read().splitlines():\n"
        "    try: exec(line, {})\n"
        "    except Exception as error: print(f'{type(error).__name__}: {error}')\n"
        "    print('~')\n"
    )
    lines = "\n".join("import torch; torch.set_printoptions(precision=12); " + f.reproduce
                      for f in findings)  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-c", program], input=lines, capture_output=True, text=True, check=True
    )
    printed = run.stdout.split("~\n")[:-1]
    for finding, words in zip(findings, printed, strict=True):
        if finding.kind == "fails":
            error, _, message = words.partition(": ")
            assert f"{error}: {message.splitlines()[0][:60]}" in finding.cause, words
            continue
        shown = words.partition("dtype")[0].partition("grad_fn")[0]
        digits = re.findall(r"-?nan|-?inf|[-+]?\d+\.?\d*(?:e[-+]?\d+)?", shown)
        numbers = torch.tensor([float(word) for word in digits], dtype=torch.float64)
        stated = torch.tensor(finding.computed, dtype=torch.float64)
        near = torch.isclose(numbers, stated, rtol=1e-4, atol=1e-9, equal_nan=True)
        assert bool(near.any()), (finding.reproduce, words, finding.computed)
        assert finding.truth != finding.computed


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("over_weights", "divides"),  # with weights of 0 and 1 the sum and the number are the same
        ("no_mean", "mean"),
    ],
)
def test_what_an_experiment_does_not_decide_is_not_said(name, words):
    _, tried = trials(name)
    assert tried.faults == ()
    assert not [line for line in tried.lines if words in line]


def test_what_is_no_number_without_a_mask_too_is_not_said():
    """Where 1 is ignored no positive is left."""
    loss = masked_losses.over_positives
    assert not bool(loss(torch.tensor([0.5]), torch.tensor([0.0])).isfinite())
    subject = Subject("over_positives", f"{LOSSES}:over_positives", loss, reduced="mean")
    lines, faults = try_masks(subject, GAMMAS, DTYPES)
    assert faults == ()
    assert lines[0].endswith("(255, -100 tried)")


def test_a_loss_that_refuses_three_positions_does_not_fail_at_what_is_ignored():
    with pytest.raises(ValueError, match="another batch"):
        masked_losses.picky(torch.zeros(3, 3), torch.tensor([0, 1, 2]))
    assert trials("picky")[1].faults == ()


def test_size_average_is_a_mean():
    x = torch.tensor([[0.5, 1.0, -1.0], [2.0, 0.0, 0.0]])
    y = torch.tensor([255, 255])
    assert bool(masked_losses.of_size_average(x, y).isnan())
    lines = trials("of_size_average")[1].lines
    assert "ignore_index: a mean in which all are left out is NaN" in lines
    assert "ignore_index: mean divides by the number of elements that are left" in lines


def test_an_audit_has_the_findings_and_the_lines():
    report = audit(f"{LOSSES}:where_after", quick=True, gammas=(0.5,), dtypes=[torch.float32])
    leaks = [f for f in report.findings if f.mode == "ignore_index"]
    assert [(f.kind, f.severity, f.dtype) for f in leaks] == [("masked leak", "error", "float32")]
    report = audit(f"{LOSSES}:over_all", quick=True, gammas=(2.0,), dtypes=[torch.float32])
    assert (
        "ignore_index: mean divides by the number of elements, ignored ones too" in report.meaning
    )
    assert not [f for f in report.findings if f.mode == "ignore_index"]


@pytest.mark.parametrize("name", ["parfocal, sigmoid", "parfocal, softmax"])
def test_our_own_masks_are_clean(name):
    tried = try_masks(known(name).subject(), GAMMAS, DTYPES)
    assert tried.faults == ()
    assert sum("also where its logits are NaN" in line for line in tried.lines) == (
        2 if "softmax" in name else 1
    )


def test_cross_entropy_hands_nan_through():
    """PyTorch's own: a warning, and its mean of nothing is NaN."""
    x = torch.tensor([[0.5, 1.0, -1.0], [math.nan, 0.0, 0.0]], requires_grad=True)
    y = torch.tensor([0, -100])
    loss = torch.nn.functional.cross_entropy(x, y, reduction="none")
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    assert bool(gradient[1].isnan().any())
    assert bool(torch.nn.functional.cross_entropy(x[:1], y[1:]).isnan())
    subject = discover("torch.nn.functional:cross_entropy").subject
    tried = try_masks(subject, (subject.fixed_gamma,), [torch.float32])
    assert {finding.severity for finding in mask_findings(subject, tried.faults)} == {"warning"}
    assert "ignore_index: a mean in which all are left out is NaN" in tried.lines


def test_trials_leave_the_threads_as_they_were():
    before = torch.get_num_threads()
    trials("selects")
    assert torch.get_num_threads() == before


def test_trials_take_little_time():
    subject, _ = trials("selects")
    start = time.process_time()
    try_masks(subject, GAMMAS, DTYPES)
    assert (
        time.process_time() - start < 2
    )  # a fifth of a second on a machine that does nothing else
