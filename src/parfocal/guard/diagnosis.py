"""Why a pass of a loss gave a number that isn't finite: one paragraph, from a second look at it."""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from parfocal.guard.limits import Limits, limits_of, saturation
from parfocal.guard.loss_call import Pass
from parfocal.numerics import focal

Cause = Literal["focal term", "logarithm", "overflow", "logits", "targets", "normaliser", "loss"]


class Diagnosis(NamedTuple):
    """What was found.

    cause: focal term, the derivative of (1 - p_t) ** gamma; logarithm, one of a probability that
        rounded to 0; overflow, of a number of the dtype; logits and targets, what came in;
        normaliser, a division that fails whatever the logits are; loss, none of these.
    paragraph: for people.
    sample, position: the one that is told of, in the batch and within its logits, if there is one.
    logit, margin: its own.
    broken: of how many logits the gradient isn't finite.
    """

    cause: Cause
    paragraph: str
    sample: int | None = None
    position: tuple[int, ...] = ()
    logit: float = math.nan
    margin: float = math.nan
    broken: int = 0


def diagnose(seen: Pass) -> Diagnosis | None:
    """Look at a pass again; None if the loss and its gradient in the logits are finite.

    The loss is called again: as it was, at logits of 0, and with the culprit alone. A cause is told
    where one of these shows it, and not for the margin alone.
    """
    look = _Look(seen)
    if not bool(seen.logits.isfinite().all()):
        return look.came_in(seen.logits, is_target=False)
    if not bool(seen.targets.isfinite().all()):
        return look.came_in(seen.targets, is_target=True)
    loss, gradient = value_and_gradient(seen, seen.logits)
    broken = ~gradient.isfinite()
    if not bool(broken.any()) and bool(loss.isfinite().all()):
        return None
    calm_loss, calm_gradient = value_and_gradient(seen, torch.zeros_like(seen.logits))
    if not (bool(calm_gradient.isfinite().all()) and bool(calm_loss.isfinite().all())):
        return look.normaliser()
    if not bool(broken.any()):
        return look.value(loss)
    return look.position(broken)


def value_and_gradient(seen: Pass, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Of the same call at other logits."""
    with torch.enable_grad():
        leaf = logits.detach().clone().requires_grad_()
        loss = seen.call(leaf, _as(seen.targets, leaf.dtype))
        (gradient,) = torch.autograd.grad(loss.sum(), leaf, allow_unused=True)
    return loss.detach(), torch.zeros_like(leaf) if gradient is None else gradient


def _as(targets: Tensor, dtype: torch.dtype) -> Tensor:
    return targets.to(dtype) if targets.is_floating_point() else targets


class _Look(NamedTuple):
    """The paragraphs."""

    seen: Pass

    def came_in(self, values: Tensor, *, is_target: bool) -> Diagnosis:
        what, broken = "targets" if is_target else "logits", ~values.isfinite()
        position = _first(broken)
        is_nan = bool(values.isnan().any())
        word = "NaN" if is_nan else "infinite"
        advice = (
            "Look at the data: they came so from the loader."
            if is_target
            else "The network made them: look for a learning rate that is too "
            "high, for inputs that aren't finite, for a layer that overflows in 16 bits; the "
            "parameters may have become NaN in a step before this one."
        )
        cause: Cause = "targets" if is_target else "logits" if is_nan else "overflow"
        text = (
            f"{self._opening()}: {int(broken.sum())} of {broken.numel()} {what} were {word} before "
            f"the loss saw them, the first at {self._place(position)}. The cause is not the focal "
            f"term. {advice}"
        )
        return Diagnosis(cause, text, position[0] if position else None, position)

    def normaliser(self) -> Diagnosis:
        y = self.seen.targets
        positives = int((y > 0.5).sum()) if y.is_floating_point() else None
        found = "" if positives is None else f" {positives} of {y.numel()} targets are positive."
        text = (
            f"{self._opening()}: the loss isn't finite, and with every logit at 0 the same call "
            f"isn't either, so that the logits have no part in it. The cause "
            "is not the focal term, but a division by zero, of a mean over nothing or of a "
            f"normaliser, or a weight that isn't finite.{found} Divide by max(1, number of "
            f"positives), and check that not every "
            "position is masked."
        )
        return Diagnosis("normaliser", text)

    def value(self, loss: Tensor) -> Diagnosis:
        dtype = _name(loss.dtype)
        text = (
            f"{self._opening()}: the value of the loss is {_first_broken(loss):g}, "
            "and its gradient is finite. The cause is not the focal term: a sum or a product "
            f"went over the largest number of {dtype}, {torch.finfo(loss.dtype).max:g}. Compute "
            f"the loss in float32, or "
            "give its mean."
        )
        return Diagnosis("overflow", text)

    def position(self, broken: Tensor) -> Diagnosis:
        """A logit that was finite, and has a gradient that isn't."""
        seen = self.seen
        u = seen.margin()
        by_position = broken if seen.kind == "binary" else broken.any(1)
        magnitude = torch.where(by_position, u.abs().nan_to_num(nan=0.0), -1.0)
        position = tuple(int(i) for i in torch.unravel_index(magnitude.argmax(), u.shape))
        own = float(u[position])
        is_binary = seen.kind == "binary"
        own_class = () if is_binary else (int(seen.targets[position]),)
        logit = float(seen.logits[(*position[:1], *own_class, *position[1:])])
        limits = limits_of(seen.call, seen.logits, seen.kind)
        is_one = not is_binary or bool(seen.targets[position] > 0.5)
        limit = Limits() if limits is None else limits[is_one]
        cause = self._cause(position, own, limit)
        count = int(by_position.sum())
        its_margin = "" if is_binary else f" and its margin {own:.6g}"
        text = " ".join(
            (
                f"{self._opening()}: the gradient of the loss isn't finite at "
                f"{self._place(position)}, whose logit is {logit:.6g}{its_margin}; {count} of "
                f"{by_position.numel()} positions are so.",
                self._why(cause, own, limit),
                self._advice(cause, own),
            )
        )
        sample = position[0] if position else None
        return Diagnosis(cause, text, sample, position, logit, own, count)

    def _cause(self, position: tuple[int, ...], u: float, limit: Limits) -> Cause:
        """By calling the loss with every other logit at 0, in the dtype and in float64."""
        seen, gamma = self.seen, self.seen.call.gamma
        at: tuple[int | slice, ...] = position
        if seen.kind == "multiclass":
            at = (*position[:1], slice(None), *position[1:])
        alone = torch.zeros_like(seen.logits)
        alone[at] = seen.logits[at]
        value, gradient = value_and_gradient(seen, alone)
        is_value_finite = bool(value.isfinite().all())
        first = min(limit.cliff if u > 0 else limit.cliff_wrong, saturation(alone.dtype))
        is_sure = abs(u) >= first
        # At the cliff of the focal term 0 ** gamma is 0 still; its derivative is infinity times 0.
        is_singular = bool(gradient.isnan().any()) if gamma is None else 0 <= gamma < 1
        if u > 0 and is_sure and is_value_finite and is_singular:
            return "focal term"
        if self._is_a_matter_of_range(alone, at) and (u > 0 or abs(u) < 16):
            return "overflow"
        return "logarithm" if is_sure and (u < 0 or not is_value_finite) else "loss"

    def _is_a_matter_of_range(self, alone: Tensor, at: tuple[int | slice, ...]) -> bool:
        """Whether 16 bits fail where float64 doesn't."""
        if alone.dtype.itemsize > 2:
            return False
        try:
            value, wide = value_and_gradient(self.seen, alone.double())
        except (RuntimeError, TypeError):  # a loss that insists on its dtype
            return False
        return bool(wide[at].isfinite().all()) and bool(value.isfinite().all())

    def _why(self, cause: Cause, u: float, limit: Limits) -> str:
        dtype, gamma = _name(self.seen.logits.dtype), self.seen.call.gamma
        cliff = limit.cliff if u > 0 else limit.cliff_wrong
        known = f" This loss breaks from {cliff:.6g} on in {dtype}." if cliff < math.inf else ""
        if cause == "focal term":
            power = "gamma - 1" if gamma is None else f"{gamma - 1:.6g}"
            return (
                f"The answer is right and so sure that 1 - p_t is 0 in {dtype}; the derivative "
                f"of (1 - p_t) ** gamma has the factor (1 - p_t) ** ({power}), "
                f"{_at_zero(gamma)}.{known}"
            )
        if cause == "logarithm":
            side, term = ("right", "1 - p_t") if u > 0 else ("wrong", "p_t")
            return (
                f"The answer is {side} and so sure that {term} is 0 in {dtype}, and the logarithm "
                f"of 0 is infinite. The cause is not the focal term.{known}"
            )
        if cause == "overflow":
            return (
                f"In float64 the same logit has a finite gradient: a product goes over the range "
                f"of {dtype}. The cause is not the focal term."
            )
        return (
            "That is none of the usual places: another part of the loss fails. The cause is not "
            "the focal term."
        )

    def _advice(self, cause: Cause, u: float) -> str:
        gamma = self.seen.call.gamma
        name = "softmax" if self.seen.kind == "multiclass" else "sigmoid"
        if cause == "focal term" and gamma is not None:
            x = torch.tensor([u], dtype=torch.float64, requires_grad=True)
            loss = focal(x, torch.ones_like(x), gamma, 0.0)
            (gradient,) = torch.autograd.grad(loss.sum(), x)
            return (
                f"The true derivative in the margin there is {gradient.item():.3g}, before alpha "
                f"and the reduction. Use parfocal.{name}_focal_loss, which computes 1 - p_t "
                "directly and is finite at every gamma; or a gamma of at least 1."
            )
        if cause in ("focal term", "logarithm"):
            return (
                f"Use a loss of logits that forms no probability by subtraction, such as "
                f"parfocal.{name}_focal_loss."
            )
        return "Give the loss its logits in float32."

    def _opening(self) -> str:
        seen = self.seen
        return f"Step {seen.step}, rank {seen.rank}"

    def _place(self, position: tuple[int, ...]) -> str:
        if not position:
            return "the only logit"
        seen = self.seen
        words = f"sample {position[0]} of the batch"
        if seen.samples is not None:
            words += f" ({seen.samples[position[0]]})"
        if len(position) > 1:
            words += f", position {position[1:]}"
        if position and seen.targets.ndim == len(position):
            target = seen.targets[position].item()
            words += f", target {target:g}" if seen.kind == "binary" else f", class {target}"
        return words


def _at_zero(gamma: float | None) -> str:
    if gamma is None or 0 < gamma < 1:
        return "which is infinite at 0, and is multiplied by 0 there"
    return "or a logarithm of 0 is multiplied by it"


def _first(broken: Tensor) -> tuple[int, ...]:
    return tuple(int(i) for i in torch.unravel_index(broken.int().argmax(), broken.shape))


def _first_broken(values: Tensor) -> float:
    return float(values[~values.isfinite()].flatten()[0])


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
