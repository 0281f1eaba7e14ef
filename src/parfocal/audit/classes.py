"""A softmax loss at five classes, where the grid of an audit has two."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from parfocal.audit.cell import Cell
from parfocal.audit.convention import Convention
from parfocal.audit.evaluate import losses_of_rows
from parfocal.audit.findings import SEVERITIES, Finding, Kind
from parfocal.audit.judge import ONE_PERCENT, rounded_gamma
from parfocal.audit.masks.calls import Batch, Mask
from parfocal.audit.reproduce import masked_reproduction
from parfocal.audit.subject import Subject

CLASSES = 5

# Logits of the own class, and of the others: alike, mixed, and with one that is sure.
_OWN = (*range(-30, 31, 3), -100.0, -60.0, 60.0, 100.0)
_OTHERS = ((0.0,) * 4, (1.0, -1.0, 2.0, 0.5), (40.0, 0.0, -40.0, 10.0))


class _Trial(NamedTuple):
    """Rows (N, C) and own classes (N), with the gradients that came out and the true ones."""

    rows: Tensor
    own: Tensor
    computed: Tensor
    truth: Tensor


def class_findings(
    subject: Subject,
    convention: Convention,
    cells: Sequence[Cell],
    gammas: Sequence[float],
    dtypes: Sequence[torch.dtype],
) -> Iterator[Finding]:
    """Gradients that aren't finite or that harm a training at five classes, and don't at two."""
    is_softmax = subject.kind == "multiclass" and not convention.is_shifted
    is_known = convention.definition is not None and not convention.bias
    if subject.framework != "torch" or not is_softmax or not is_known or subject.takes != "logits":
        return
    for dtype in dtypes:
        name = str(dtype).removeprefix("torch.")
        for gamma in gammas:
            here = [c for c in cells if (c.dtype, c.gamma) == (name, gamma)]
            if any(c.nonfinite or c.harm for c in here if c.quantity == "gradient"):
                continue
            try:
                trial = _trial(subject, convention, gamma, dtype)
            except Exception:
                return  # so many classes are refused, as a line says
            found = _finding(subject, trial, gamma, name)
            if found is not None:
                yield found


def _trial(subject: Subject, convention: Convention, gamma: float, dtype: torch.dtype) -> _Trial:
    own = torch.tensor(_OWN, dtype=torch.float64)
    rows: list[Tensor] = []
    classes: list[int] = []
    for others in _OTHERS:
        rest = torch.tensor(others, dtype=torch.float64).expand(len(own), -1)
        for at in (0, 1):
            rows.append(torch.cat([rest[:, :at], own[:, None], rest[:, at:]], 1))
            classes += [at] * len(own)
    x, index = torch.cat(rows).to(dtype).requires_grad_(), torch.tensor(classes)
    (gradient,) = torch.autograd.grad(losses_of_rows(subject, x, index, gamma).sum(), x)
    x = x.detach()
    return _Trial(x, index, gradient, _truth(convention, x.double(), index, gamma, dtype))


def _truth(
    convention: Convention, x: Tensor, index: Tensor, gamma: float, dtype: torch.dtype
) -> Tensor:
    """The gradient by its formula, in float64.

    With q = 1 - p and r = -log p / q it is -w q ** gamma (1 + gamma p r) (delta - softmax), in
    which delta - p of the own class is q.
    """
    own = torch.nn.functional.one_hot(index, x.shape[1]).bool()
    margin = x[own] - torch.where(own, -math.inf, x).logsumexp(1)
    p, q, ce = margin.sigmoid(), margin.neg().sigmoid(), torch.nn.functional.softplus(-margin)
    target = (index == 0).double()
    exponents = [rounded_gamma(convention.exponent(gamma, t), dtype) for t in target.tolist()]
    s = torch.tensor(exponents, dtype=torch.float64)
    weight = torch.tensor([convention.factor(t, gamma) for t in target.tolist()])
    assert convention.definition is not None
    slope = 0 if convention.definition.detached else s * p * ce / q
    factor = -weight.double() * q**s * (1 + slope)
    return factor[:, None] * torch.where(own, q[:, None], -x.softmax(1))


def _finding(subject: Subject, trial: _Trial, gamma: float, dtype: str) -> Finding | None:
    """The worst of a trial, if it is wrong."""
    error = (trial.computed.double() - trial.truth).abs()
    wrong = ~trial.computed.isfinite()
    kind: Kind = "not finite"
    if not bool(wrong.any()):
        kind = "inaccurate"
        part = max(ONE_PERCENT, 8 * torch.finfo(trial.computed.dtype).eps)
        wrong = error > part * trial.truth.abs().amax()
    if not bool(wrong.any()):
        return None
    row = int(wrong.any(1).nonzero()[0])
    entry = int(torch.where(wrong[row], error[row].nan_to_num(math.inf, math.inf), -1.0).argmax())
    batch = Batch(trial.rows[row : row + 1], trial.own[row : row + 1], torch.tensor([False]))
    own = int(trial.own[row])
    return Finding(
        kind=kind,
        severity="error" if kind == "inaccurate" else SEVERITIES[kind],
        quantity="gradient",
        dtype=dtype,
        target=float(own == 0),
        mode=f"{CLASSES} classes",
        gammas=(gamma,),
        logit=float(trial.rows[row, own]),
        before=None,
        computed=float(trial.computed[row, entry]),
        truth=float(trial.truth[row, entry]),
        share=float(wrong.any(1).double().mean()),
        ulp=math.inf,
        certified=False,
        cause=f"with {CLASSES} classes, and not with two",
        reproduce=masked_reproduction(subject, Mask(), batch, gamma, 0, "gradient"),
    )
