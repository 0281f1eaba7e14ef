"""The auditor against losses with planted defects, and right ones written in other ways."""

import functools
import json
import math
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

import parfocal
from parfocal.audit import AuditReport, SubjectError, audit
from parfocal.audit.definitions import BASES, Definition, derivatives
from parfocal.audit.discover import discover
from parfocal.audit.isolated import Job, audit_isolated
from parfocal.audit.known import KNOWN
from parfocal.audit.oracle import focal_truth
from parfocal.audit.output.junit import junit
from parfocal.audit.output.page import page
from parfocal.audit.truth_cache import cache_folder, truths
from parfocal.testing import assert_accurate

PLANTED = Path(__file__).with_name("planted.py")
GAMMAS = (0.5, 2.0)


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    """Certified values of this module's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARFOCAL_CACHE", str(tmp_path_factory.mktemp("truths")))
        yield


def judged(name, **options):
    return audit(f"{PLANTED}:{name}", quick=True, **{"gammas": GAMMAS, **options})


@functools.cache
def planted(name):
    """The report of a loss with a planted defect, whichever of its findings is looked at."""
    return judged(name)


def kinds(report, severity="error"):
    return {f.kind for f in report.findings if f.severity == severity}


@pytest.mark.parametrize(
    ("name", "kind", "quantity", "severity"),
    [
        ("plain", "not finite", "gradient", "error"),
        ("plain", "masked leak", "gradient", "error"),
        # Of answers that are right and sure, where the true gradient is small.
        ("plain", "dead gradient", "gradient", "warning"),
        ("plain", "inaccurate", "gradient", "warning"),
        ("flipped", "wrong sign", "value", "error"),
        # Of wrong answers too, which a training lives by.
        ("clamped", "dead gradient", "gradient", "error"),
        ("nudged", "biased", "gradient", "warning"),
        ("tiny", "vanishing constant", "value", "error"),
    ],
)
def test_planted_defects_are_found_and_named(name, kind, quantity, severity):
    found = [f for f in planted(name).findings if f.kind == kind and f.quantity == quantity]
    assert found, kind
    assert severity in {f.severity for f in found}
    assert severity == "error" or "error" not in {f.severity for f in found}


def test_other_modes_are_compared():
    report = judged("by_mode")
    assert {(f.kind, f.mode) for f in report.findings if f.kind == "mode mismatch"} == {
        ("mode mismatch", "autocast")
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("detached", "detached factor"),
        ("unknown", "unknown function"),
    ],
)
def test_another_function_is_named_and_not_called_inaccurate(name, words):
    report = judged(name, dtypes=[torch.float64])
    notes = [f for f in report.findings if f.kind == "another definition"]
    assert len(notes) == 1
    assert words in notes[0].cause
    assert "biased" not in kinds(report)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("smoothed", "0.001 is added to 1 - p_t"),
        ("nudged", "1e-07 is added to 1 - p_t"),
    ],
)
def test_a_constant_that_was_added_is_the_cause_of_the_bias(name, words):
    """Held to the focal loss, whose values it changes by more than 1 %."""
    report = judged(name, dtypes=[torch.float64])
    assert words in report.meaning
    biased = [f for f in report.findings if f.kind == "biased"]
    assert biased
    assert all(words in f.cause for f in biased)


@pytest.mark.parametrize("name", ["right_by_hand", "RightInLogSpace", "right_with_alpha"])
def test_right_losses_are_clean_however_they_are_written(name):
    report = judged(name)
    assert report.status == 0, report.findings
    assert len(report.certificates) == 4


@pytest.mark.parametrize("name", ["sigmoid_focal_loss", "softmax_focal_loss", "SigmoidFocalLoss"])
def test_our_own_losses_are_clean(name):
    """In every cell: the whole grid is in docs/ecosystem.md."""
    report = audit(f"parfocal:{name}", quick=True, gammas=(0.0, 0.1, 0.5, 2.0))
    assert report.status == 0, report.findings
    assert all(cell.is_clean for cell in report.cells)


def test_cliffs_are_two_neighbouring_numbers():
    """Those of torchvision, as they were measured by other means."""
    report = judged("plain", gammas=(0.5,))
    for dtype, target, expected in (
        (torch.float64, 1.0, 36.74),
        (torch.float32, 1.0, 16.64),
        (torch.float32, 0.0, 17.33),
        (torch.bfloat16, 1.0, 6.25),
    ):
        name = str(dtype).removeprefix("torch.")
        [cell] = [
            c for c in report.cells if (c.quantity, c.dtype, c.target) == ("gradient", name, target)
        ]
        assert abs(cell.cliff.logit) == pytest.approx(expected, abs=0.01)
        ends = torch.tensor([cell.cliff.before, cell.cliff.logit], dtype=dtype)
        assert torch.nextafter(ends[0], ends[1] * 2) == ends[1]
        x = ends.clone().requires_grad_()
        y = torch.full_like(x, target, requires_grad=False)
        p = torch.sigmoid(x)
        ce = torch.nn.functional.binary_cross_entropy_with_logits(x, y, reduction="none")
        loss = ce * (1 - (p * y + (1 - p) * (1 - y))) ** 0.5
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        assert gradient.isfinite().tolist() == [True, False]


def test_before_a_scattered_cliff_all_is_well():
    """Errors by a subtraction are scattered; the number before the first is right all the same."""
    report = judged("plain", gammas=(2.0,), dtypes=[torch.float32, torch.bfloat16], modes=[])
    cliffs = [(c, c.percent) for c in report.cells
              if c.quantity == "gradient" and c.target in (0, 1) and c.percent]  # fmt: skip
    assert len(cliffs) == 4
    for cell, cliff in cliffs:
        dtype = getattr(torch, cell.dtype)
        ends = torch.tensor([cliff.before, cliff.logit], dtype=torch.float64)
        x = ends.to(dtype).requires_grad_()
        p, y = torch.sigmoid(x), torch.full_like(x, cell.target, requires_grad=False)
        ce = torch.nn.functional.binary_cross_entropy_with_logits(x, y, reduction="none")
        loss = ce * (1 - (p * y + (1 - p) * (1 - y))) ** 2
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        truth = focal_truth(ends.tolist(), cell.target, 2.0).gradient.hi
        off = ((gradient.double() - truth) / truth).abs() > 0.01
        assert off.tolist() == [False, True], (cell.dtype, cell.target, cliff)


def test_all_logits_of_sixteen_bits_make_a_certificate():
    report = audit("parfocal:sigmoid_focal_loss", gammas=(0.5,), dtypes=[torch.bfloat16])
    assert all(cell.certified and cell.points == 65_280 for cell in report.cells)
    [line] = report.certificates
    assert "certified on all 65,280" in line
    assert max(c.worst for c in report.cells if c.quantity != "curvature") <= 1
    sampled = audit("parfocal:sigmoid_focal_loss", gammas=(0.5,), dtypes=[torch.float32])
    assert "sampled" in sampled.certificates[0]


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("plain", {"kind": "binary", "gamma": "gamma", "reduced": "none"}),
        ("right_with_alpha", {"gamma": "focal_gamma", "targets_first": True, "reduced": "sum"}),
        ("RightInLogSpace", {"is_class": True, "gamma": "gamma"}),
        ("multiclass", {"kind": "multiclass"}),
        ("mean_alone", {"reduced": "mean"}),
    ],
)
def test_signatures_are_understood(name, fields):
    found = discover(f"{PLANTED}:{name}")
    assert {key: getattr(found.subject, key) for key in fields} == fields
    assert found.lines


def test_a_loss_with_one_exponent_is_judged_there():
    """torch's own cross-entropy, which loses the gradient of easy positives."""
    report = audit(
        "torch.nn.functional:binary_cross_entropy_with_logits", quick=True, dtypes=[torch.float32]
    )
    assert "its exponent is 0" in report.meaning
    assert {c.gamma for c in report.cells} == {0.0}
    dead = next(f for f in report.findings if f.kind == "dead gradient")
    assert (dead.target, dead.logit) == (1.0, pytest.approx(16.6355, abs=1e-3))


@pytest.mark.parametrize(
    ("name", "options"),
    [("multiclass", {}), ("mean_alone", {}), ("of_probabilities", {"takes": "probabilities"})],
)
def test_every_kind_of_loss_is_judged(name, options):
    """At its own cliff: 1 - p_t rounds to 0 from 16.64 on."""
    report = judged(name, gammas=(0.5,), dtypes=[torch.float32], **options)
    found = [f for f in report.findings if f.kind == "not finite" and f.quantity == "gradient"]
    assert abs(found[0].logit) == pytest.approx(16.64, abs=0.7)
    assert found[0].severity == "error"


def test_modes_have_names():
    with pytest.raises(ValueError, match="expected modes from"):
        judged("plain", modes=("jit",))


def test_soft_targets_have_four_meanings():
    """Each in ball arithmetic, held to the textbook in float64 at mild logits."""
    x = torch.linspace(-3, 3, 7, dtype=torch.float64, requires_grad=True)
    y, gamma = 0.375, 1.7
    p = torch.sigmoid(x)
    ce = -y * p.log() - (1 - y) * (1 - p).log()
    formulas = {
        "linear": (y * (1 - p) + (1 - y) * p) ** gamma * ce,
        "mixture": -y * (1 - p) ** gamma * p.log() - (1 - y) * p**gamma * (1 - p).log(),
        "margin": torch.sigmoid(-(2 * y - 1) * x) ** gamma * ce,
        "entropy": (1 - torch.exp(-ce)) ** gamma * ce,
    }
    for base in BASES:
        [truth] = derivatives(x.tolist(), y, [gamma], Definition(base))
        loss = formulas[base]
        (slope,) = torch.autograd.grad(loss.sum(), x, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), x, retain_graph=True)
        for found, expected in zip(truth, (loss, slope, curvature), strict=True):
            torch.testing.assert_close(found.hi, expected.detach(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("y", [0.0, 1.0, 0.375])
def test_two_oracles_agree(y):
    """The fast one has limits far from 0, and shares work over gammas."""
    points = [-3e38, -65504.0, -1024.0, -1000.0, -40.0, -0.5, 0.0, 2.0, 88.0, 1024.0, 1e38]
    gammas = [0.0, 1e-3, 0.5, 1.0, 2.0, 5.0]
    for truth, gamma in zip(derivatives(points, y, gammas), gammas, strict=True):
        other = focal_truth(points, y, gamma)
        for found, expected in zip(truth, other, strict=False):
            torch.testing.assert_close(found.hi, expected.hi, rtol=1e-15, atol=1e-300)


def test_certified_values_are_cached_and_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("PARFOCAL_CACHE", str(tmp_path))
    x = torch.tensor([-1.0, 0.0, 2.0])
    first = truths(x, 1.0, [0.5], Definition())
    [path] = cache_folder().glob("*.truth")
    content = path.read_bytes()
    path.write_bytes(content[:-8] + b"\0" * 8)  # a disk that failed
    again = truths(x, 1.0, [0.5], Definition())
    assert torch.equal(first[0].gradient.hi, again[0].gradient.hi)
    assert path.read_bytes() == content
    mirrored = truths(x, 0.0, [0.5], Definition())
    [truth] = derivatives(x.tolist(), 0.0, [0.5])
    assert torch.equal(mirrored[0].gradient.hi, truth.gradient.hi)


def test_reports_are_frozen_and_survive_json():
    report = judged("plain", gammas=(0.5,), dtypes=[torch.float32])
    with pytest.raises(FrozenInstanceError):
        report.name = "other"
    assert AuditReport.from_json(report.to_json()).to_json() == report.to_json()
    hash(report)
    json.loads(report.to_json())
    suites = ElementTree.fromstring(junit([report]))
    places = {(f.quantity, f.dtype, f.target) for f in report.findings if f.severity == "error"}
    assert int(suites[0].get("failures")) == len(places)
    assert max(len(case.findall("failure")) for case in suites[0].iter("testcase")) == 1


def test_the_line_of_python_shows_the_finding():
    report = judged("plain", gammas=(0.5, 2.0), dtypes=[torch.float32])
    shown = {"not finite": "nan", "masked leak": "nan", "dead gradient": "0."}
    lines = [
        next(f.reproduce for f in report.findings if f.kind == kind and f.quantity == "gradient")
        for kind in shown
    ]
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "\n".join(lines)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    for words, line in zip(shown.values(), run.stdout.splitlines(), strict=True):
        assert words in line


def test_numpy_pairs_are_judged():
    pytest.importorskip("numpy")
    report = judged("boosting", framework="numpy")
    assert {c.dtype for c in report.cells} == {"float64", "float32"}
    assert {c.quantity for c in report.cells} == {"gradient", "curvature"}
    assert all(
        c.worst < 1e3 for c in report.cells if abs(c.logit) < 20 and c.quantity == "gradient"
    )


def test_one_that_hangs_crashes_or_prints_does_so_alone():
    jobs = [
        Job(f"{PLANTED}:{name}", {"gammas": GAMMAS[:1]}, quick=True)
        for name in ("hangs", "dies", "prints")
    ]
    with ThreadPoolExecutor(len(jobs)) as pool:  # while the one hangs, the others are done
        hanging, dead, talking = pool.map(audit_isolated, jobs, (6.0, 900.0, 900.0))
    assert hanging.status == 2
    assert "not done after 6 s" in hanging.error
    assert dead.status == 2
    assert "exit status 7" in dead.error
    assert talking.status == 1
    assert "<script>" in talking.output
    html = page([talking, dead])
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html


def test_a_gamma_that_is_refused_is_told_and_the_rest_is_judged():
    def of_one_or_more(logits, targets, gamma=2.0):
        if gamma < 1:
            raise ValueError(f"expected gamma >= 1, got {gamma}")
        u = torch.where(targets > 0.5, logits, -logits)
        return torch.sigmoid(-u) ** gamma * torch.nn.functional.softplus(-u)

    report = audit(of_one_or_more, quick=True, gammas=GAMMAS, dtypes=[torch.float32])
    assert {cell.gamma for cell in report.cells} == {2.0}
    assert any(line.startswith("gamma 0.5 is refused") for line in report.meaning)
    assert not [f for f in report.findings if 0.5 in f.gammas]


def test_what_a_loss_gives_in_float64_has_its_factor():
    """Of a function that nothing else is known to hold it to."""

    def smoothed_labels(logits, targets, gamma=2.0):
        y = 0.8 * targets + 0.1
        one = torch.sigmoid(-logits) ** gamma * -torch.nn.functional.logsigmoid(logits)
        zero = torch.sigmoid(logits) ** gamma * -torch.nn.functional.logsigmoid(-logits)
        return y * one + (1 - y) * zero

    report = audit(smoothed_labels, quick=True, gammas=(2.0,), dtypes=[torch.float32], modes=[])
    [cell] = [c for c in report.cells if (c.quantity, c.target) == ("value", 1.0)]
    assert cell.off == 0
    assert cell.worst < 256


def test_what_cannot_be_called_says_so():
    with pytest.raises(SubjectError, match="expected package"):
        audit("nothing")
    with pytest.raises(SubjectError, match="no file"):
        audit("nowhere.py:loss")
    with pytest.raises(SubjectError, match="can't be called as a loss"):
        audit(math.sqrt)


def test_assert_accurate_says_what_is_wrong():
    from parfocal import sigmoid_focal_loss

    assert_accurate(sigmoid_focal_loss, gammas=(0.5,), dtypes=[torch.float32])
    with pytest.raises(AssertionError) as caught:
        assert_accurate(f"{PLANTED}:plain", gammas=(0.5,), dtypes=[torch.float32])
    message = str(caught.value)
    for words in ("not finite, gradient", "16.635", "why: ", "see: import torch"):
        assert words in message


def test_every_known_loss_that_is_here_is_understood():
    from parfocal.audit.convention import find_convention
    from parfocal.audit.findings import UNKNOWN_FUNCTION

    here = [e for e in KNOWN if e.version is not None and e.distribution not in ("keras", "optax")]
    assert len(here) >= 8
    warnings.simplefilter("ignore")  # those of the libraries
    for entry in here:
        meant = find_convention(entry.subject())
        assert meant.definition is not None or meant.other != UNKNOWN_FUNCTION, entry.name


def whole(logits, targets, gamma=2):
    if not isinstance(gamma, int):
        raise TypeError("gamma must be an int")
    return parfocal.sigmoid_focal_loss(logits, targets, None, gamma)


def test_a_loss_that_takes_ints_alone_is_audited_at_those():
    report = audit(whole, quick=True, dtypes=[torch.float32], modes=())
    assert "gamma is an int: others are refused" in report.how
    assert "gamma 0.1 is refused: TypeError: gamma must be an int" in report.how
    assert {cell.gamma for cell in report.cells} == {0.0, 1.0, 2.0}
    assert report.status == 0
