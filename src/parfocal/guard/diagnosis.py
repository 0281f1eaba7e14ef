"""Why a loss gave a number that isn't finite: one paragraph, from calling it again."""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from parfocal.guard.form import Form, measure_form
from parfocal.guard.limits import Limits, limits_of, saturation
from parfocal.guard.loss_call import LossCall
from parfocal.guard.trial import value_and_gradient
from parfocal.numerics import focal

Cause = Literal[
    "focal term",
    "logarithm",
    "overflow",
    "logits",
    "targets",
    "normaliser",
    "loss",
    "downstream",
    "parameter",
]


class Diagnosis(NamedTuple):
    """Why a loss or a gradient isn't finite.

    Attributes:
        cause: focal term, the derivative of (1 - p_t) ** gamma; logarithm, of a probability that
            rounded to 0; overflow of the dtype; logits or targets, inputs that weren't finite;
            normaliser, a division that fails whatever the logits are; loss, none of these;
            downstream, a gradient that was broken when it reached the loss; parameter, a gradient
            that broke in the network.
        paragraph: the explanation, for people.
        sample, position: where the reported answer is, in the batch and within its logits, if
            there is one.
        logit, margin: of that answer.
        broken: how many answers have a gradient that isn't finite.
    """

    cause: Cause
    paragraph: str
    sample: int | None = None
    position: tuple[int, ...] = ()
    logit: float = math.nan
    margin: float = math.nan
    broken: int = 0


def diagnose(
    call: LossCall,
    form: Form | None = None,
    limits: tuple[Limits, Limits] | None = None,
) -> Diagnosis | None:
    """Repeat a call and find its cause; None if the loss and its gradient in the logits are finite.

    The loss is called as it was, at logits of 0, and with only the culprit. A cause is reported
    where one of these calls shows it, never from the margin alone.

    Args:
        call: the call to examine.
        form: how its targets are read; measured if None.
        limits: of the loss; measured if None.

    Raises:
        Exception: whatever the loss raises when it is called again.
    """
    x, y = call.logits, call.targets
    for values, is_target in ((x, False), (y, True)):
        if not bool(values.isfinite().all()):
            return _of_what_came_in(call, values, is_target=is_target)
    loss, gradient = value_and_gradient(call, x)
    broken = ~gradient.isfinite()
    if not bool(broken.any()) and bool(loss.isfinite().all()):
        return None
    if not any(_is_calm(call, logits) for logits in _mild(x)):
        return _of_normaliser(call)
    if not bool(broken.any()):
        return _of_value(call, loss)
    form = measure_form(call) if form is None else form
    look = _Look(call, form, limits or limits_of(call, form))
    return _of_logit(call, broken) if form.kind == "unknown" else look.at(broken)


def _mild(x: Tensor) -> list[Tensor]:
    """Logits that are far from all that is sure; the last are probabilities too."""
    ramp = torch.linspace(-1, 1, max(1, x.numel()), dtype=torch.float64, device=x.device)
    return [torch.zeros_like(x), ramp.view(x.shape).to(x.dtype), torch.full_like(x, 0.5),
            (ramp.view(x.shape) * 0.2 + 0.5).to(x.dtype)]  # fmt: skip


def _is_calm(call: LossCall, logits: Tensor) -> bool:
    """Whether loss and gradient are finite there."""
    loss, gradient = value_and_gradient(call, logits)
    return bool(gradient.isfinite().all()) and bool(loss.isfinite().all())


def _of_what_came_in(call: LossCall, values: Tensor, *, is_target: bool) -> Diagnosis:
    what, broken = "targets" if is_target else "logits", ~values.isfinite()
    position = _first(broken)
    is_nan = bool(values.isnan().any())
    word = "NaN" if is_nan else "infinite"
    advice = (
        "Look at the data: the loader produced them."
        if is_target
        else "The network made them: look for a learning rate that is too "
        "high, for inputs that aren't finite, for a layer that overflows in 16 bits; the "
        "parameters may have become NaN in an earlier step."
    )
    cause: Cause = "targets" if is_target else "logits" if is_nan else "overflow"
    text = (
        f"{_opening(call)}: {int(broken.sum())} of {broken.numel()} {what} were {word} before "
        f"the loss saw them, the first at {_place(call, position)}. The cause is not the focal "
        f"term. {advice}"
    )
    return Diagnosis(cause, text, position[0] if position else None, position)


def _of_normaliser(call: LossCall) -> Diagnosis:
    y = call.targets
    count = ""
    if y.is_floating_point():
        count = f" {int((y > 0.5).sum())} of {y.numel()} targets are positive."
    text = (
        f"{_opening(call)}: the loss isn't finite, and at mild logits the same call isn't "
        "either, so these logits aren't to blame. The cause is not the focal term, but most "
        f"likely a division by zero, in a mean over nothing or by a normaliser.{count} Divide by "
        "max(1, number of positives), check that some positions aren't masked, and that all "
        "weights are finite."
    )
    return Diagnosis("normaliser", text)


def _of_value(call: LossCall, loss: Tensor) -> Diagnosis:
    dtype = _name(loss.dtype)
    value = float(loss[~loss.isfinite()].flatten()[0])
    text = (
        f"{_opening(call)}: the value of the loss is {value:g}, "
        "and its gradient is finite. The cause is not the focal term: a sum or a product "
        f"exceeded the largest number of {dtype}, {torch.finfo(loss.dtype).max:g}. Compute "
        "the loss in float32, or take its mean."
    )
    return Diagnosis("overflow", text)


def _of_logit(call: LossCall, broken: Tensor) -> Diagnosis:
    """A logit of a loss whose targets can't be read: what is seen, and no cause."""
    position = _first(broken)
    logit = float(call.logits[position])
    cause: Cause = "loss"
    why = (
        "The guard couldn't measure what the targets of this loss mean, so no cause is known. Call "
        "the loss in float64, and see whether it still fails."
    )
    if _is_a_matter_of_range(call, call.logits):
        cause = "overflow"
        why = f"{_OVERFLOW.format(_name(call.logits.dtype))} {_WIDER}"
    text = (
        f"{_opening(call)}: the gradient of the loss isn't finite at {int(broken.sum())} of "
        f"{broken.numel()} logits, the first at {_place(call, position)}, whose logit is "
        f"{logit:.6g}. {why}"
    )
    sample = position[0] if position else None
    return Diagnosis(cause, text, sample, position, logit, broken=int(broken.sum()))


_OVERFLOW = (
    "In float64 the same call has a finite gradient: a product exceeds the range of {}. The "
    "cause is not the focal term."
)
_WIDER = "Give the loss its logits in float32."


def _is_a_matter_of_range(call: LossCall, logits: Tensor) -> bool:
    """Whether 16 bits fail where float64 doesn't."""
    if logits.dtype.itemsize > 2:
        return False
    try:
        value, gradient = value_and_gradient(call, logits.double())
    except (RuntimeError, TypeError):  # a loss that insists on its dtype
        return False
    return bool(gradient.isfinite().all()) and bool(value.isfinite().all())


def of_factor(call: LossCall, incoming: Tensor) -> Diagnosis:
    """A gradient that reached the loss broken, or so large that its product with the loss's is."""
    finite = incoming[incoming.isfinite()]
    size = float(finite.abs().max()) if incoming.numel() == finite.numel() else math.nan
    what = "isn't finite" if math.isnan(size) else f"is {size:g}, too large for the loss's own"
    text = (
        f"{_opening(call)}: the loss and its own gradient are finite, but the gradient that "
        f"reached the loss from downstream {what}: a factor applied after it, or the AMP loss "
        "scale. The cause is not the focal term. Look at what happens to the loss between its "
        "call and `backward`."
    )
    return Diagnosis("downstream", text)


def of_another_time(call: LossCall, was: str) -> Diagnosis:
    """A failure that the loss doesn't repeat."""
    text = (
        f"{_opening(call)}: the loss or its gradient wasn't finite, but {was}, so no cause "
        "is known. If the loss keeps something from call to call, or draws random numbers, look "
        "there; or at what else is computed from the same logits, if anything is."
    )
    return Diagnosis("loss", text)


def of_parameter(step: int, rank: int, name: str, count: int, total: int) -> Diagnosis:
    """A gradient that is finite in the logits and isn't in a parameter."""
    text = (
        f"Step {step}, rank {rank}: the gradient of {name} isn't finite, though the loss and its "
        f"gradient in the logits are; affected: {count} of {total} parameters. The cause isn't the "
        "loss: the network breaks between its parameters and the logits. Look at a layer that "
        "divides, takes a root or a logarithm, or overflows in 16 bits; torch.autograd."
        "set_detect_anomaly(True) names the operation."
    )
    return Diagnosis("parameter", text, broken=count)


class _Look(NamedTuple):
    """A second look at a call of known form."""

    call: LossCall
    form: Form
    limits: tuple[Limits, Limits] | None

    def at(self, broken: Tensor) -> Diagnosis:
        """An answer whose logits were finite, and have a gradient that isn't."""
        call, form = self.call, self.form
        u, x = form.margins(call), form.over_classes(call.logits)
        broken = form.over_classes(broken)
        is_broken = broken if form.is_binary else broken.any(1)
        magnitude = torch.where(is_broken, u.abs().nan_to_num(nan=0.0), -1.0)
        position = tuple(int(i) for i in torch.unravel_index(magnitude.argmax(), u.shape))
        margin = float(u[position])
        is_one = not form.is_binary or bool(form.is_one(call)[position])
        limit = Limits() if self.limits is None else self.limits[is_one]
        cause = self._cause(position, margin, limit)
        logit = float(x[position] if form.is_binary else x[self._row(position)].amax())
        if form.kind == "index":
            y = int(form.targets(call)[position])
            if 0 <= y < x.shape[1]:
                logit = float(x[(*position[:1], y, *position[1:])])
        counts = form.counts(call)
        is_counted = counts is None or bool(counts[position])
        its_margin = "" if form.is_binary else f" and its margin {margin:.6g}"
        count = int(is_broken.sum())
        text = " ".join(
            (
                f"{_opening(call)}: the gradient of the loss isn't finite at "
                f"{_place(call, position, form)}, whose logit is {logit:.6g}{its_margin}; "
                f"affected: {count} of {is_broken.numel()} answers.",
                "" if is_counted else _IGNORED,
                self._why(cause, margin, limit),
                self._advice(cause, margin),
            )
        ).replace("  ", " ")
        sample = position[0] if position else None
        return Diagnosis(cause, text, sample, position, logit, margin, count)

    def _row(self, position: tuple[int, ...]) -> tuple[int | slice, ...]:
        """The logits of an answer, classes in dim 1."""
        if self.form.is_binary:
            return position
        return (*position[:1], slice(None), *position[1:])

    def _cause(self, position: tuple[int, ...], u: float, limit: Limits) -> Cause:
        """By calling the loss with every other logit at 0, in the dtype and in float64."""
        call, form, gamma = self.call, self.form, self.call.gamma
        alone = torch.zeros_like(call.logits)
        at = self._row(position)
        form.over_classes(alone)[at] = form.over_classes(call.logits)[at]
        value, gradient = value_and_gradient(call, alone)
        is_value_finite = bool(value.isfinite().all())
        is_alone = not bool(form.over_classes(gradient)[at].isfinite().all())
        first = min(limit.cliff if u > 0 else limit.cliff_wrong, saturation(alone.dtype))
        is_sure = abs(u) >= first
        # At the cliff of the focal term 0 ** gamma is 0 still; its derivative is infinity times 0.
        is_singular = bool(gradient.isnan().any()) if gamma is None else 0 <= gamma < 1
        if u > 0 and is_sure and is_value_finite and is_singular and is_alone:
            return "focal term"
        if _is_a_matter_of_range(call, alone) and (u > 0 or abs(u) < 16):
            return "overflow"
        return "logarithm" if is_sure and (u < 0 or not is_value_finite) else "loss"

    def _why(self, cause: Cause, u: float, limit: Limits) -> str:
        dtype, gamma = _name(self.call.logits.dtype), self.call.gamma
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
            return _OVERFLOW.format(dtype)
        return (
            "This isn't one of the usual places: another part of the loss fails. The cause is not "
            "the focal term."
        )

    def _advice(self, cause: Cause, u: float) -> str:
        gamma = self.call.gamma
        name = "sigmoid" if self.form.is_binary else "softmax"
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
        return _WIDER


_IGNORED = (
    "This position doesn't count, and its loss is multiplied by 0; but 0 times a gradient that "
    "isn't finite is NaN. Select positions before the loss, not after it."
)


def _opening(call: LossCall) -> str:
    return f"Step {call.step}, rank {call.rank}, {call.name}"


def _place(call: LossCall, position: tuple[int, ...], form: Form | None = None) -> str:
    if not position:
        return "the only logit"
    words = f"sample {position[0]} of the batch"
    if call.samples is not None:
        words += f" ({call.samples[position[0]]})"
    if form is None or form.kind == "probabilities":
        return words + (f", position {position[1:]}" if len(position) > 1 else "")
    if form.kind == "one-vs-rest":
        inner, row = position[2:], (*position[:1], *position[2:])
        words += f", position {inner}" if inner else ""
        true_class = int(form.targets(call)[row])
        return f"{words}, the logit of class {position[1]} where the target is {true_class}"
    if len(position) > 1:
        words += f", position {position[1:]}"
    target = float(form.targets(call)[position])
    return words + (f", target {target:g}" if form.is_binary else f", class {target:.0f}")


def _at_zero(gamma: float | None) -> str:
    if gamma is None or 0 < gamma < 1:
        return "which is infinite at 0, and is multiplied by 0 there"
    return "or a logarithm of 0 is multiplied by it"


def _first(broken: Tensor) -> tuple[int, ...]:
    return tuple(int(i) for i in torch.unravel_index(broken.int().argmax(), broken.shape))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
