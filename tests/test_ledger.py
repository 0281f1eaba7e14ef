"""The ledger of measured errors: complete, within its bounds, and true."""

import math

import measure
import pytest
import torch


def hardware(gamma):
    """What another vectorised exp or pow (another processor, another torch) may add to the ledger.

    Half an ULP of a result, and a quarter that a power of gamma feels gamma times. Seen between
    two processors: 0.8 at gamma 5, 0.6 at 1.5. The bounds themselves leave no such room.
    """
    return 0.5 + 0.25 * measure.gamma_of(gamma, torch.float64)


CELLS = [(dtype, gamma) for dtype in measure.DTYPES for gamma in measure.GAMMAS]


def test_ledger_is_complete():
    """One line a quantity, dtype and gamma; soft targets where they are measured."""
    recorded = measure.read()
    of_jax = {
        quantity + suffix
        for quantity in ("value", "gradient", "curvature", "gamma_gradient")
        for suffix in (measure.JAX, measure.OPTAX)
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
        has_soft = dtype.itemsize > 2 and gamma in measure.SOFT_GAMMAS
        expected = hard | ({f"soft {quantity}" for quantity in hard} if has_soft else set())
        assert {q for q, d, g in recorded if (d, g) == (name, gamma)} == expected


def test_readme_shows_the_ledger():
    """Each number of its table is that of the ledger, rounded."""
    names = {
        "value": "value",
        "gradient": "gradient",
        "gradient in gamma": "gamma_gradient",
        "second derivative": "curvature",
    }
    recorded = measure.read()
    readme = measure.LEDGER.parents[1].joinpath("README.md").read_text()
    lines = [line.split("|")[1:-1] for line in readme.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line] for line in lines if line[0].strip() in names]
    assert len(rows) == len(names) * len(measure.DTYPES)
    for quantity, dtype, *shown, _ in rows:
        for gamma, number in zip(("0.1", "0.5", "2", "5"), shown, strict=True):
            assert float(number) == pytest.approx(
                recorded[names[quantity], dtype, gamma], abs=0.006
            )


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("gamma", ["0.001", "0.1", "0.5"])
def test_jax_is_more_accurate_than_optax_below_1(dtype, gamma):
    """In gradient and second derivative, and in value at least as accurate, by the record."""
    recorded = measure.read()
    for quantity in ("value", "gradient", "curvature"):
        ours, theirs = (
            recorded[quantity + suffix, dtype, gamma] for suffix in (measure.JAX, measure.OPTAX)
        )
        assert ours <= theirs, quantity
        assert ours < theirs or quantity == "value", quantity


@pytest.mark.parametrize(("dtype", "gamma"), CELLS, ids=str)
def test_errors_are_within_bounds_and_not_above_the_ledger(dtype, gamma, monkeypatch):
    """Measured anew, over the same logits; of 16 bits all at three gammas. optax is recorded."""
    monkeypatch.delitem(measure.LOSSES_OF_JAX, measure.OPTAX)
    recorded = measure.read()
    is_whole = dtype.itemsize > 2 or gamma in ("0.1", "0.5", "2")
    for cell in measure.measure(dtype, gamma, measure.COUNT // (1 if is_whole else 2)):
        assert cell.is_within_bounds, cell
        assert cell.worst.ulp <= recorded[cell.key] + hardware(gamma), cell
        assert cell.worst.points > 500, cell


def test_sixteen_bit_logits_are_all_there():
    """Every finite pattern of both dtypes; the rest of the 65,536 are infinities and NaN."""
    for dtype, count in ((torch.float16, 63_488), (torch.bfloat16, 65_280)):
        assert measure.grid(dtype, measure.COUNT).numel() == count


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_branch_bounds_and_their_neighbours_are_in_the_grid(dtype):
    """Each bound, the number before it and the one after it, on both sides of 0."""
    grid = set(measure.grid(dtype, 10).tolist())
    infinity = torch.tensor(math.inf, dtype=dtype)
    for bound in measure.BRANCH_BOUNDS:
        centre = torch.tensor(bound, dtype=dtype)
        around = (centre, torch.nextafter(centre, infinity), torch.nextafter(centre, -infinity))
        assert {x.item() for x in around} | {-x.item() for x in around} <= grid


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_planted_errors_are_seen(dtype, monkeypatch):
    """The measurement itself can fail: one number a few ULP off in a quantity is found."""
    honest = measure.derivatives
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

    monkeypatch.setattr(measure, "derivatives", planted)
    monkeypatch.setattr(measure, "LOSSES_OF_JAX", {})
    cells = {cell.quantity: cell for cell in measure.measure(dtype, "0.5", measure.COUNT // 10)}
    for quantity, planted_at in logits.items():
        assert not cells[quantity].is_within_bounds
        assert cells[quantity].worst.logit in planted_at
