"""The ledger of the family: complete, within the bounds of the docstrings, and true."""

import family
import pytest
import torch

import parfocal

JOBS = [
    pytest.param(*job, id=f"{job[0].name}, {str(job[1])[6:]}, {job[2]}") for job in family.jobs()
]


def test_every_loss_has_its_lines():
    """Value and gradient in every dtype; the cost of a matcher has no gradient."""
    elsewhere = {"sigmoid_focal_loss", "SigmoidFocalLoss", "SoftmaxFocalLoss"}
    no_losses = {"init_prior_bias_", "positive_count"}
    recorded = {(name.partition(",")[0], *rest) for name, *rest, _ in family.read()}
    names = set(parfocal.__all__) - elsewhere - no_losses
    expected = {
        (name, quantity, str(dtype).removeprefix("torch."))
        for name in names
        for quantity in ("value", "gradient")
        for dtype in family.DTYPES
        if (name, quantity) != ("focal_matching_cost", "gradient")
    }
    assert recorded == expected


@pytest.mark.parametrize(("subject", "dtype", "exponent"), JOBS)
def test_errors_are_within_bounds_and_near_the_ledger(subject, dtype, exponent):
    """Measured anew. Another processor's exp and pow may add an ULP, or a tenth."""
    recorded = family.read()
    for line in family.measure(subject, dtype, exponent):
        assert line.share <= 1, line
        assert line.ulp <= 1.1 * recorded[line.key] + 1, line
        assert line.points >= 12, line


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_planted_error_is_seen(dtype):
    """In one number out of all."""
    honest = next(s for s in family.subjects(dtype) if s.name.startswith("poly"))

    def planted(x, y, exponent):
        factor = torch.ones_like(x[:, 0])
        factor[7] += 32 * torch.finfo(dtype).eps
        return honest.loss(x, y, exponent) * factor

    lines = family.measure(honest._replace(loss=planted), dtype, 0.5)
    assert all(line.share > 1 for line in lines)
