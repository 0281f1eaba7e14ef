"""The record of measured errors: complete, within the bounds of the docstrings, and true."""

import math

import binary
import family
import measure
import pytest
import record
import search
import torch
from loss_cases import FUNCTIONS
from record import Line
from sampled import sampled

from parfocal.audit.oracle import Truth
from parfocal.audit.ulp import ulp_error
from parfocal.floats import every_finite

FAMILIES = sorted(path.stem for path in record.FOLDER.glob("*.csv"))
RECORDED = {name: record.read(name) for name in FAMILIES}
HERE = record.read()

CELLS = [(dtype, gamma) for dtype in binary.DTYPES for gamma in binary.GAMMAS]
SUBJECTS = [
    pytest.param(
        subject.name,
        dtype,
        id=f"{subject.name}, {str(dtype)[6:]}",
        marks=[pytest.mark.exhaustive] * (dtype != torch.float32 or "(jax)" in subject.name),
    )
    for dtype in family.DTYPES
    for subject in family.subjects(dtype)
]


def is_near_the_record(line):
    """Whether it is what this family of processors has shown, where that is recorded.

    Another release of torch may add half an ULP of a result, and a quarter that a power feels as
    often as its exponent says; or a tenth, where errors grow with the spread of a row.
    """
    if line.key not in HERE:
        return True
    before = HERE[line.key].ulp
    exponent = float(line.exponent.strip("-+"))
    return line.ulp <= max(before + 0.5 + 0.25 * exponent, 1.1 * before + 1)


def keys():
    """Every line that is measured."""
    of_jax = {
        quantity + suffix
        for quantity in ("value", "gradient", "curvature", "gamma_gradient")
        for suffix in (binary.JAX, binary.OPTAX)
    }
    hard = of_jax | {
        "value",
        "gradient",
        "gradient (composition)",
        "gradient (summed)",
        "curvature",
        "gamma_gradient",
        "target_gradient",
        "target_gradient (composition)",
    }
    for dtype, gamma in CELLS:
        name = str(dtype).removeprefix("torch.")
        has_soft = dtype.itemsize > 2 and gamma in binary.SOFT_GAMMAS
        for quantity in hard | ({f"soft {quantity}" for quantity in hard} if has_soft else set()):
            yield binary.LOSS, quantity, name, gamma
    for dtype in family.DTYPES:
        name = str(dtype).removeprefix("torch.")
        for subject in family.subjects(dtype):
            for exponent in subject.exponents:
                yield subject.name, "value", name, str(exponent)
                if subject.variables:
                    yield subject.name, "gradient", name, str(exponent)


def test_the_records_are_complete():
    """Each line is measured on one family of processors at least, and no other has any."""
    assert set().union(*RECORDED.values()) == set(keys())


def test_every_loss_is_measured():
    """In every dtype, value and gradient; the cost of a matcher has no gradient."""
    expected = {
        (name, quantity, str(dtype).removeprefix("torch."))
        for name in FUNCTIONS
        for quantity in ("value", "gradient")
        for dtype in family.DTYPES
        if (name, quantity) != ("focal_matching_cost", "gradient")
    }
    measured = {(name.partition(",")[0], *rest) for name, *rest, _ in keys()}
    assert expected <= measured


@pytest.mark.parametrize("name", FAMILIES)
def test_all_that_is_recorded_is_within_bounds(name):
    """The bound of the docstring, on every family of processors."""
    assert [line for line in RECORDED[name].values() if not line.is_within_bounds] == []


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("gamma", ["0.001", "0.1", "0.5"])
def test_jax_is_more_accurate_than_optax_below_1(dtype, gamma):
    """In gradient and second derivative, and in value at least as accurate, by the record."""
    for quantity in ("value", "gradient", "curvature"):
        ours, theirs = (
            RECORDED[record.SHOWN][binary.LOSS, quantity + suffix, dtype, gamma].ulp
            for suffix in (binary.JAX, binary.OPTAX)
        )
        assert ours <= theirs, quantity
        assert ours < theirs or quantity == "value", quantity


@pytest.mark.parametrize(
    ("dtype", "gamma"),
    sampled(CELLS, [(torch.float32, "0.5"), (torch.bfloat16, "2")].__contains__),
    ids=str,
)
def test_binary_errors_are_within_bounds(dtype, gamma, monkeypatch):
    """Measured anew; of 16 bits all logits at gamma 0.5. optax's are recorded alone."""
    monkeypatch.delitem(binary.LOSSES_OF_JAX, binary.OPTAX)
    is_whole = dtype.itemsize > 2 or gamma == "0.5"
    for line in binary.measure(dtype, gamma, binary.COUNT // (1 if is_whole else 2)):
        assert line.is_within_bounds, line
        assert is_near_the_record(line), line
        assert line.points > 500, line


@pytest.mark.parametrize("gamma", ["0.1", "2"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_result_in_16_bits_is_that_of_float64_rounded(dtype, gamma):
    """At all finite logits; the line above holds float64 to the oracle, to 10^-14."""
    x = every_finite(dtype)
    exponent = binary.gamma_of(gamma, dtype)
    narrow, wide = (binary.torch_derivatives(logits, 1.0, exponent) for logits in (x, x.double()))
    for quantity, result in narrow.items():
        if "curvature" in quantity:  # which changes its sign: an ULP of it may be any number
            continue
        truth = wide[quantity]
        counts = truth.abs() >= torch.finfo(dtype).tiny
        error = ulp_error(result, Truth(truth, torch.zeros_like(truth), truth.abs()))
        assert counts.sum() > 30_000, quantity
        # Of float32, in which it is computed, 16 ULP, and one rounding.
        step = torch.finfo(torch.float32).eps / torch.finfo(dtype).eps
        assert error[counts].max() <= 0.5 + 16 * step, quantity


@pytest.mark.filterwarnings("ignore:gaussian_focal_loss. no value")  # of one target each
@pytest.mark.parametrize(("name", "dtype"), SUBJECTS)
def test_errors_of_the_family_are_within_bounds(name, dtype):
    """Measured anew."""
    for line in family.measure_subject(name, dtype):
        assert line.is_within_bounds, line
        assert is_near_the_record(line), line
        assert line.points >= 12, line


@pytest.mark.parametrize("form", search.FORMS)
@pytest.mark.parametrize("classes", [3, 21, 300])
def test_a_search_finds_no_row_beyond_the_bound(classes, form):
    """Random rows and a climb from the worst, at other seeds than those of the record."""
    for gamma in (0.0, 0.5):
        found = search.search(search.Setting(classes, gamma, form), 4096, 8, seed=1)
        assert found.share <= 1, found


@pytest.mark.parametrize("form", ["none", "sum, far"])
@pytest.mark.parametrize("classes", [1000, 65_536])
def test_rows_of_many_classes_that_are_alike_keep_the_bound(classes, form):
    """A crowd with the same logit, whose roundings are the same, below one or a few of the top."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(24, 1, generator=generator).mul(-0.3).repeat(1, classes)
    x[:, 2] = math.log(classes) * torch.linspace(0.5, 1, 24)
    x[::2, 3:60] = torch.linspace(-0.3, 0, 57)
    for gamma in (0.0, 0.1):
        setting = search.Setting(classes, gamma, form)
        assert search.shares(x, torch.zeros(24, dtype=torch.int64), setting).max() <= 1


def test_the_rows_that_a_search_found_are_measured():
    """Each is among the rows of its number of classes, to the bit."""
    with family.HARD_ROWS.open(encoding="utf-8") as file:
        assert len(file.readlines()) == 1 + len(list(search.settings()))
    for classes in search.CLASSES:
        rows = family.hard_rows(classes)
        assert len(rows) >= 8
        assert torch.equal(family.class_rows(classes)(torch.float32).logits[-len(rows) :], rows)


def test_sixteen_bit_logits_are_all_there():
    """Every finite pattern of both dtypes; the rest of the 65,536 are infinities and NaN."""
    for dtype, count in ((torch.float16, 63_488), (torch.bfloat16, 65_280)):
        assert binary.grid(dtype, binary.COUNT).numel() == count


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_branch_bounds_and_their_neighbours_are_in_the_grid(dtype):
    """Each bound, the number before it and the one after it, on both sides of 0."""
    grid = set(binary.grid(dtype, 10).tolist())
    infinity = torch.tensor(math.inf, dtype=dtype)
    for bound in binary.BRANCH_BOUNDS:
        centre = torch.tensor(bound, dtype=dtype)
        around = (centre, torch.nextafter(centre, infinity), torch.nextafter(centre, -infinity))
        assert {x.item() for x in around} | {-x.item() for x in around} <= grid


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_planted_errors_are_seen(dtype, monkeypatch):
    """The measurement itself can fail: one number a few ULP off in a quantity is found."""
    honest = binary.derivatives
    places = {"value": 2.5, "gradient": 4.5, "gamma_gradient": -2.5, "curvature": -4.5}
    logits = {quantity: set() for quantity in places}

    def planted(x, target, gamma):
        computed = honest(x, target, gamma)
        for quantity, place in places.items():
            at = int(torch.searchsorted(x, place))
            computed[quantity] = computed[quantity].clone()
            computed[quantity][at] *= 1 + 16 * torch.finfo(dtype).eps
            logits[quantity].add(x[at].item())
        return computed

    monkeypatch.setattr(binary, "derivatives", planted)
    monkeypatch.setattr(binary, "LOSSES_OF_JAX", {})
    lines = {line.quantity: line for line in binary.measure(dtype, "0.5", binary.COUNT // 10)}
    for quantity, planted_at in logits.items():
        assert not lines[quantity].is_within_bounds
        assert lines[quantity].logit in planted_at


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_planted_error_of_the_family_is_seen(dtype):
    """In one number out of all."""
    honest = next(s for s in family.subjects(dtype) if s.name.startswith("poly"))

    def planted(x, y, exponent):
        factor = torch.ones_like(x[:, 0])
        factor[7] += 32 * torch.finfo(dtype).eps
        return honest.loss(x, y, exponent) * factor

    lines = family.measure(honest._replace(loss=planted), dtype, 0.5)
    assert all(line.share > 1 for line in lines)


def a_line(loss="varifocal_loss", ulp=1.0, share=0.5):
    """One of a record made up."""
    return Line(loss, "value", "float32", "0.5", ulp, share, 100)


def test_what_got_worse_or_is_over_its_bound_is_refused(tmp_path, monkeypatch):
    """An error is compared with the record of its own family; a new line with its bound alone."""
    monkeypatch.setattr(record, "FOLDER", tmp_path)
    monkeypatch.setattr(measure, "measure", lambda only: [a_line(ulp=2.0)])
    record.write([a_line(ulp=1.0)], "another-family")
    assert measure.main([]) == 0
    monkeypatch.setattr(measure, "measure", lambda only: [a_line(ulp=2.5)])
    assert measure.main([]) == 1
    assert record.read()[a_line().key].ulp == 2.0
    assert measure.main(["--accept"]) == 0
    assert record.read()[a_line().key].ulp == 2.5
    monkeypatch.setattr(measure, "measure", lambda only: [a_line("poly_focal_loss", share=1.01)])
    assert measure.main([]) == 1


def test_one_loss_is_measured_without_touching_the_others(tmp_path, monkeypatch):
    """Its lines are added, or made anew; all others stay as they were, to the digit."""

    def measured(only):
        return [line for job in measure.jobs(only) for line in job()]

    monkeypatch.setattr(record, "FOLDER", tmp_path)
    monkeypatch.setattr(measure, "measure", measured)
    others = a_line("poly_focal_loss", ulp=123.0)
    record.write([others, a_line()])
    before = record.path().read_text().splitlines()
    assert measure.main(["--only", "varifocal_loss"]) == 0
    after = record.path().read_text().splitlines()
    assert before[1] in after  # of the others
    losses = {line.loss.partition(",")[0] for line in record.read().values()}
    assert losses == {"poly_focal_loss", "varifocal_loss"}
    with pytest.raises(SystemExit):
        measure.main(["--only", "no_such_loss"])
