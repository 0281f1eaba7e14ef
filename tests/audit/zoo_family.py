"""A family of right focal losses in the standard styles, each with ten mistakes to choose from.

A member is a right loss or one with one edit, as people make them; the edit is a parameter, and no
text is changed.
"""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from parfocal.audit import audit

Style = Literal["function", "class", "column", "map", "classes"]
Edit = Literal[
    "none",
    "swap",
    "detach",
    "clamp",
    "eps",
    "mean first",
    "wrong alpha",
    "log of softmax",
    "half precision constant",
    "missing factor",
    "sign",
]

STYLES: tuple[Style, ...] = ("function", "class", "column", "map", "classes")
EDITS: tuple[Edit, ...] = tuple(edit for edit in Edit.__args__ if edit != "none")  # type: ignore[attr-defined]

_ALPHA = 0.25


def _log_p(logits: Tensor, targets: Tensor, style: Style) -> tuple[Tensor, Tensor, Tensor]:
    """log p_t and log (1 - p_t) of each answer, and whether it is positive."""
    if style != "classes":
        u = torch.where(targets > 0.5, logits, -logits)
        return logsigmoid(u), logsigmoid(-u), targets > 0.5
    log_p = logits.log_softmax(1)
    own = log_p.gather(1, targets[:, None])[:, 0]
    others = torch.zeros_like(logits, dtype=torch.bool).scatter(1, targets[:, None], True)
    return own, log_p.masked_fill(others, -torch.inf).logsumexp(1), targets == 0


def focal(
    logits: Tensor, targets: Tensor, gamma: float, reduction: str, style: Style, edit: Edit
) -> Tensor:
    """The loss: alpha 0.25 of positives or of class 0, 0.75 of the rest; none in a class."""
    log_p, log_q, is_positive = _log_p(logits, targets, style)
    p, q = log_p.exp(), log_q.exp()
    if edit == "clamp":
        p = p.clamp(1e-4, 1 - 1e-4)
        q, log_p = 1 - p, torch.log(p)
    if edit == "log of softmax":
        log_p = torch.log(p)
    if edit == "half precision constant":
        log_p = torch.log(p + 1e-8)
    if edit == "swap":
        q = p
    if edit == "eps":
        q = q + 1e-3
    factor = q**gamma
    if edit == "detach":
        factor = factor.detach()
    if edit == "missing factor":
        factor = torch.ones_like(q)
    alpha = torch.where(is_positive, _ALPHA, 1 - _ALPHA).to(q.dtype)
    if edit == "wrong alpha":
        alpha = 1 - alpha
    elif style == "class":
        alpha = torch.ones_like(alpha)
    if edit == "mean first" and reduction != "none":
        log_p = log_p.mean() if reduction == "mean" else log_p.sum()
        factor = (1 - log_p.exp()) ** gamma
    loss = -alpha * factor * log_p
    if edit == "sign":
        loss = -loss
    return {"none": loss, "mean": loss.mean(), "sum": loss.sum()}[reduction]


_DIMENSIONS = {"function": 1, "class": 1, "column": 2, "map": 4, "classes": 2}


def member(style: Style, edit: Edit) -> Callable[..., Tensor]:
    """A loss of the family: a function, or a class."""

    def loss(
        logits: Tensor, targets: Tensor, gamma: float = 2.0, reduction: str = "mean"
    ) -> Tensor:
        if logits.ndim != _DIMENSIONS[style]:
            raise ValueError(f"expected {_DIMENSIONS[style]} dimensions, got {logits.ndim}")
        if style in ("column", "map") and logits.shape[1] != 1:
            raise ValueError("expected one channel")
        return focal(logits, targets, gamma, reduction, style, edit)

    if style != "class":
        return loss

    class FocalLoss(nn.Module):
        def __init__(self, gamma: float = 2.0, reduction: str = "mean") -> None:
            super().__init__()
            self.gamma, self.reduction = gamma, reduction

        def forward(self, input: Tensor, target: Tensor) -> Tensor:
            return focal(input, target, self.gamma, self.reduction, "class", edit)

    return FocalLoss


@dataclass(frozen=True, kw_only=True)
class Sign:
    """How an edit is told: kinds of findings, which may be no others, and words.

    kinds: of what names a mistake. also: a kind that isn't a name, of a quantity.
    dtypes: in which it shows.
    """

    kinds: tuple[str, ...] = ()
    also: tuple[str, str] | None = None
    words: str = ""
    dtypes: tuple[torch.dtype, ...] = (torch.float64,)


SIGNS: dict[Edit, Sign] = {
    "none": Sign(),
    "swap": Sign(kinds=("another definition",), words=r"p_t \*\* gamma for \(1 - p_t\)"),
    "detach": Sign(kinds=("another definition",), words="detached"),
    "clamp": Sign(kinds=("biased",), also=("dead gradient", "gradient")),
    "eps": Sign(kinds=("biased",), words=r"0\.001 is added to 1 - p_t"),
    "mean first": Sign(kinds=("reduced too early",), words="of the mean of the whole batch"),
    "wrong alpha": Sign(
        words=r"0\.75 on the positive.*0\.25 on the neg|0\.75 of class 0, 0\.25 of"
    ),
    "log of softmax": Sign(also=("not finite", "value"), dtypes=(torch.float32,)),
    "half precision constant": Sign(
        kinds=("vanishing constant",),
        words="1e-08 is added to p_t",
        dtypes=(torch.float32, torch.float16),
    ),
    "missing factor": Sign(
        kinds=("another definition", "gamma ignored"), words="the cross-entropy"
    ),
    "sign": Sign(kinds=("wrong sign",), words="falls where the focal loss rises"),
}

# Kinds that name a mistake, and aren't about how results are rounded.
NAMING = {
    "another definition", "gamma ignored", "reduced too early", "wrong sign", "biased",
    "vanishing constant",
}  # fmt: skip


def untold(style: Style, edit: Edit) -> list[str]:
    """What an audit of a member doesn't say, or says besides."""
    sign = SIGNS[edit]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = audit(
            member(style, edit), quick=True, gammas=(0.5, 2.0), dtypes=sign.dtypes, modes=[]
        )
    findings = [f for f in report.findings if f.quantity != "curvature"]
    lines = " | ".join((*report.meaning, *(f.cause for f in findings)))
    named = {f.kind for f in findings} & NAMING
    wrong = [f"{kind} isn't said" for kind in sign.kinds if kind not in named]
    wrong += [f"{kind} is said" for kind in sorted(named - {*sign.kinds})]
    if sign.also and sign.also not in {(f.kind, f.quantity) for f in findings}:
        wrong.append(f"{' '.join(sign.also)} isn't said")
    if not re.search(sign.words, lines):
        wrong.append(f"the words {sign.words!r} aren't in {lines!r}")
    return wrong
