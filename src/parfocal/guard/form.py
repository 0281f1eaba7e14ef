"""What the targets of a loss mean, measured: which logits each is about, and which count.

Shapes alone don't tell: class indices go with a softmax or with a sigmoid a class, targets of the
shape of the logits are labels of each or probabilities of classes. The loss tells, at a few random
logits of at most 1 and at targets of our own:

    a softmax           the gradients of a row sum to 0, and don't change with a constant added
    the class dim       the one along which that is so
    that the form fits  the gradient is negative at the class that the target names, else positive
    what doesn't count  its gradient is exactly 0

What no experiment shows is unknown, and then nothing is said of margins.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from parfocal.guard.loss_call import LossCall, Place
from parfocal.guard.trial import UntriableError, value_and_gradient
from parfocal.guard.window import corner
from parfocal.numerics import margin, margins

Kind = Literal["elementwise", "index", "one-vs-rest", "probabilities", "unknown"]

# Logits of a trial at most.
_NUMBERS = 1 << 13

# How large a part of a row's gradients their sum may be and still be 0.
_NOTHING = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.1}

# Share of the signs that have to be as the targets say.
_MOST = 0.95

# Values of targets that are looked at, and that may be ignored, at most.
_FEW = 8


class Form(NamedTuple):
    """How the targets of a loss are read.

    Attributes:
        kind: elementwise, one target per logit; index, a class of a softmax; one-vs-rest, a class
            index with one sigmoid per class, where an invalid index is background; probabilities,
            of the classes of a softmax; unknown.
        dim: the dimension of the classes in the logits.
        has_channel: whether the targets have a dimension of one there.
        ignored: target values that mark positions that don't count.
        mask: the argument of the call that is 0 where a position doesn't count, if there is one.
    """

    kind: Kind
    dim: int = 1
    has_channel: bool = False
    ignored: tuple[float, ...] = ()
    mask: Place | None = None

    @property
    def is_binary(self) -> bool:
        """Whether each logit is an answer; else each row of logits is one."""
        return self.kind in ("elementwise", "one-vs-rest")

    @property
    def has_labels(self) -> bool:
        """Whether the targets are class indices."""
        return self.kind in ("index", "one-vs-rest")

    def over_classes(self, x: Tensor) -> Tensor:
        """A tensor of the shape of the logits, with its classes in dim 1."""
        return x if self.dim == 1 or x.ndim < 2 else x.movedim(self.dim, 1)

    def targets(self, call: LossCall) -> Tensor:
        """Class indices (N, ...) of rows of logits, or one target per logit, classes in dim 1."""
        if self.has_labels:
            return (call.targets.squeeze(self.dim) if self.has_channel else call.targets).long()
        return self.over_classes(call.targets.reshape(call.logits.shape))

    def is_one(self, call: LossCall) -> Tensor:
        """Whether the target of each logit is nearer to 1."""
        if not self.has_labels:
            return self.targets(call) > 0.5
        x = self.over_classes(call.logits)
        classes = torch.arange(x.shape[1], device=x.device).view(1, -1, *(1,) * (x.ndim - 2))
        return classes == self.targets(call).unsqueeze(1)

    def margins(self, call: LossCall) -> Tensor:
        """u of each answer: +-x by its target for a sigmoid, u of the true class for a softmax.

        For class probabilities it is the largest u among the classes with a probability above 0;
        for an invalid index, the largest of all.
        """
        x = self.over_classes(call.logits.detach())
        x = x if x.dtype == torch.float64 else x.float()
        if self.is_binary:
            return torch.where(self.is_one(call), x, -x)
        y = self.targets(call)
        if self.kind == "probabilities":
            return torch.where(y > 0, margins(x).u, -torch.inf).amax(1)
        is_class = (y >= 0) & (y < x.shape[1])
        return margin(x, torch.where(is_class, y, x.argmax(1))).u

    def counts(self, call: LossCall) -> Tensor | None:
        """Whether each answer counts; None where all do."""
        result: Tensor | None = None
        if self.ignored:
            y = self.targets(call)
            result = torch.stack([y != value for value in self.ignored]).all(0)
        argument = None if self.mask is None else _argument(call, self.mask)
        if isinstance(argument, Tensor) and argument.ndim:
            of_mask = self.positions(argument != 0, call)
            result = of_mask if result is None else result & of_mask
        if result is not None and self.kind == "one-vs-rest":
            result = result.unsqueeze(1).expand_as(self.over_classes(call.logits))
        return result

    def positions(self, mask: Tensor, call: LossCall) -> Tensor:
        """What broadcasts to the logits, or to rows of them, in the shape of the targets.

        Raises:
            RuntimeError: it doesn't.
        """
        x = call.logits
        if self.kind == "elementwise":
            return self.over_classes(mask.expand(x.shape))
        if mask.ndim == x.ndim and mask.shape[self.dim] == 1:
            mask = mask.squeeze(self.dim)
        return mask.expand((*x.shape[: self.dim], *x.shape[self.dim + 1 :]))

    def outside(self, call: LossCall) -> list[float]:
        """A few values of targets that are neither allowed nor known to be ignored."""
        y = call.targets
        if self.kind == "probabilities":
            return []
        highest = self.over_classes(call.logits).shape[1] - 1 if self.has_labels else 1
        values = y[(y < 0) | (y > highest)].unique()[: 2 * _FEW].tolist()
        return [value for value in values if value not in self.ignored][:_FEW]


UNKNOWN = Form("unknown")


def measure_form(call: LossCall) -> Form:
    """The form of a call's targets, from the gradients of its loss."""
    for form in _candidates(call):
        try:
            confirmed = _confirm(form, call)
        except UntriableError:
            raise
        except Exception:
            continue
        if confirmed is not None:
            return confirmed
    return UNKNOWN


def _candidates(call: LossCall) -> list[Form]:
    """What the shapes allow, the likeliest first."""
    x, y = call.logits, call.targets
    forms: list[Form] = []
    dims = dict.fromkeys(d for d in (1, x.ndim - 1) if 0 < d < x.ndim and x.shape[d] > 1)
    for d in dims:
        before, after = x.shape[:d], x.shape[d + 1 :]
        if x.shape == y.shape and _are_probabilities(y, d):
            forms.append(Form("probabilities", d))
        elif y.shape in ((*before, *after), (*before, 1, *after)):
            has_channel = y.ndim == x.ndim
            forms += [Form("index", d, has_channel), Form("one-vs-rest", d, has_channel)]
    if x.numel() == y.numel():
        forms.append(Form("elementwise"))
    return forms


def _are_probabilities(y: Tensor, dim: int) -> bool:
    """Whether each row of targets adds up to 1, or to the 0 of one that doesn't count."""
    if not y.is_floating_point() or not bool((y >= 0).all()):
        return False
    sums = y.double().sum(dim)
    return bool((((sums - 1).abs() < 0.02) | (sums == 0)).all()) and bool((sums > 0).any())


def _confirm(form: Form, call: LossCall) -> Form | None:
    """The form with what doesn't count, if the gradients are what it says; None if they aren't."""
    outside = form.outside(call)
    part = corner(call, form.dim, _NUMBERS)
    part = part._replace(targets=_varied(form, part, outside))
    x = _mild(part.logits)
    g = form.over_classes(value_and_gradient(part, x)[1])
    if not bool(g.isfinite().all()) or form.is_binary == _is_of_softmax(form, part, x, g):
        return None
    form = _with_ignored(form, part, g)
    for draw in (1, 2):  # a class whose gradient was 0 by chance isn't ignored
        again = form.over_classes(value_and_gradient(part, _mild(part.logits, draw))[1])
        seen = _with_ignored(form._replace(ignored=(), mask=None), part, again)
        kept = tuple(value for value in form.ignored if value in seen.ignored)
        form = form._replace(ignored=kept, mask=form.mask if form.mask == seen.mask else None)
    kind: Kind = "one-vs-rest" if form.has_labels else form.kind
    is_right, is_asked = (g < 0) == form._replace(kind=kind).is_one(part), g != 0
    if form.has_labels:  # a class beside the true one has a gradient too, unlike one of log p alone
        counts = form.counts(part)
        is_right, is_asked = is_right & is_asked, torch.ones_like(is_asked)
        if counts is not None:
            is_asked = counts.view(_spread(counts, g)).expand_as(g)
    if not bool(is_asked.any()) or float(is_right[is_asked].double().mean()) < _MOST:
        return None
    if form.kind == "elementwise" and not _answers(form, part, x):
        return None
    return form


def _answers(form: Form, part: LossCall, x: Tensor) -> bool:
    """Whether with the other target each logit is pulled the other way."""
    y = part.targets
    is_plain = (y == 0) | (y == 1)
    other = part._replace(targets=torch.where(is_plain, 1 - y, y))
    g = form.over_classes(value_and_gradient(other, x)[1])
    is_asked = (g != 0) & form.over_classes(is_plain.reshape(x.shape))
    is_right = (g < 0) == form.is_one(other)
    return bool(is_asked.any()) and float(is_right[is_asked].double().mean()) >= _MOST


def _spread(counts: Tensor, g: Tensor) -> tuple[int, ...]:
    """The shape of rows, or of logits, beside logits."""
    return tuple(counts.shape) if counts.ndim == g.ndim else (len(counts), 1, *counts.shape[1:])


def _is_of_softmax(form: Form, call: LossCall, x: Tensor, g: Tensor) -> bool:
    """Whether the gradients of rows sum to 0, and a constant added to a row changes none."""
    if g.ndim < 2 or g.shape[1] == 1:
        return False
    nothing, size = _NOTHING[x.dtype], g.double().abs().sum(1)
    floor = nothing * size.amax()
    if not bool((g.double().sum(1).abs() <= nothing * size + 1e-3 * floor).all()):
        return False
    constant = _mild(x.select(form.dim, 0)).unsqueeze(form.dim)
    moved = form.over_classes(value_and_gradient(call, x + constant)[1])
    return bool(((moved - g).double().abs().sum(1) <= 10 * nothing * size + floor).all())


def _with_ignored(form: Form, call: LossCall, g: Tensor) -> Form:
    """The form with the values, or the argument, that explain where the gradient is exactly 0."""
    is_nothing = g == 0 if form.kind == "elementwise" else (g == 0).all(1)
    if not bool(is_nothing.any()):
        return form
    ignored: list[float] = []
    if form.kind != "probabilities":
        y = form.targets(call)
        values = y[is_nothing].unique()[: 2 * _FEW].tolist()
        ignored = [value for value in values if bool(is_nothing[y == value].all())]
        if form.kind == "elementwise":  # a loss of one side only counts the other one all the same
            ignored = [value for value in ignored if not 0 <= value <= 1]
        for value in ignored:
            is_nothing = is_nothing & (y != value)
    mask = _mask_of(form, call, is_nothing) if bool(is_nothing.any()) else None
    return form._replace(ignored=tuple(ignored[:_FEW]), mask=mask)


def _mask_of(form: Form, call: LossCall, is_nothing: Tensor) -> Place | None:
    """The argument that is 0 just where the gradient is."""
    every: dict[Place, object] = dict([*enumerate(call.arguments), *call.keywords.items()])
    for place, value in every.items():
        if not isinstance(value, Tensor) or value.ndim == 0:
            continue
        try:
            is_zero = form.positions(value == 0, call)
        except RuntimeError:
            continue
        if bool(is_zero.any()) and bool((is_zero | ~is_nothing).all()):
            return place
    return None


def _varied(form: Form, call: LossCall, outside: list[float]) -> Tensor:
    """Targets of our own: all classes, 0 and 1 in turn, and of each of the values outside a few."""
    y = call.targets
    if form.kind == "probabilities":  # of one class in each row
        shape = form.over_classes(call.logits).shape
        rows = torch.arange(y.numel() // shape[1], device=y.device) % shape[1]
        hot = torch.nn.functional.one_hot(rows.view(shape[0], *shape[2:]), shape[1])
        return hot.movedim(-1, form.dim).to(y.dtype)
    classes = form.over_classes(call.logits).shape[1] if form.has_labels else 2
    flat = (torch.arange(y.numel(), device=y.device) % classes).to(y.dtype)
    for i, value in enumerate(outside):
        flat[i :: 4 * len(outside)] = value
    return flat.view(y.shape)


def _mild(like: Tensor, draw: int = 0) -> Tensor:
    """Random logits of at most 1, the same each time, from no stream of the training."""
    generator = torch.Generator().manual_seed(draw)
    drawn = torch.rand(like.shape, generator=generator, dtype=torch.float32) * 2 - 1
    return drawn.to(like.device, like.dtype)


def _argument(call: LossCall, place: Place) -> object:
    if isinstance(place, int):
        return call.arguments[place] if place < len(call.arguments) else None
    return call.keywords.get(place)
