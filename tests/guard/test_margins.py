"""Margins of a guard, counted: against numpy's histogram of margins in float64."""

import json

import numpy as np
import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from parfocal import softmax_focal_loss
from parfocal.guard import FocalGuard


def _histogram(u, edges):
    return np.histogram(u, [-np.inf, *edges, np.inf])[0].tolist()


def test_binary_margins_by_target():
    """Bins are closed below; NaN isn't counted; the first and the last are open."""
    x = torch.randn(64, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 20
    x[0, :5] = torch.tensor([0.0, 0.5, -60.0, 60.0, 1e4])
    x[1, 0] = torch.nan
    y = (torch.arange(512).reshape(64, 8) % 3 == 0).double()
    guard = FocalGuard(sigmoid_focal_loss)
    guard(x.requires_grad_(), y, gamma=2.0)
    found = json.loads(json.dumps(guard.margins()))
    u = torch.where(y == 1, x, -x).detach()
    for name, target in (("zeros", 0), ("ones", 1)):
        assert found[name] == _histogram(u[(y == target) & ~u.isnan()].numpy(), found["edges"])
    assert sum(found["zeros"]) + sum(found["ones"]) == 511
    assert (found["format"], found["loss"]) == ("parfocal margins 1", "sigmoid_focal_loss")
    assert (found["dtype"], found["step"]) == ("float64", 0)


def test_softmax_margins_without_ignored_rows():
    """u = x_t - logsumexp of the others, of the rows that count."""
    x = torch.randn(96, 5, generator=torch.Generator().manual_seed(4)) * 9
    y = torch.arange(96) % 5
    y[::7] = -100
    guard = FocalGuard(softmax_focal_loss)
    guard(x.requires_grad_(), y).backward()
    found = guard.margins()
    rows = [(row, t) for row, t in zip(x.tolist(), y.tolist(), strict=True) if t >= 0]
    others = [np.logaddexp.reduce([*row[:t], *row[t + 1 :]]) for row, t in rows]
    u = [row[t] - other for (row, t), other in zip(rows, others, strict=True)]
    assert found["ones"] == _histogram(u, found["edges"])
    assert sum(found["zeros"]) == 0


def test_before_a_call_and_of_unknown_targets():
    """An error that says so, and nothing."""
    with pytest.raises(RuntimeError, match="margins: the loss hasn't been called yet"):
        FocalGuard(sigmoid_focal_loss).margins()
    guard = FocalGuard(lambda logits, targets: (logits * targets).sum())
    guard(torch.randn(8, 3, requires_grad=True), torch.randn(8, 3))
    assert guard.margins() is None
