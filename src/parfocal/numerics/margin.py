"""The margin: how far the logit of a class is above all others together.

    u_c = x_c - log(sum of exp(x_j) over j != c)        softmax(x)_c = 1 / (1 + exp(-u_c))

so that the binary kernel at (u_c, 1) is the multiclass loss of class c. Beside u the kernel gets
t = exp(-|u|), from the sum itself and from differences without their rounding: an exponential of
the rounded u would be off by |u| ULP and more.

The sum is taken from its own largest term on: it lies between 1 and the number of classes,
whatever was added to all logits of a row, and neither it nor its derivatives can overflow or
vanish. In exact arithmetic nothing depends on which term that is; of all classes together nothing
is differentiated through it. Of one class, with b the sum of the terms beside the largest,

    log(sum) = top + log1p(b)                   the slope of top is 1 - b / (1 + b)
             = top0 + log(exp(top - top0) + b)  its curvature is a slope less its square

at top0 = top. Where b is small the first form is used, which leaves nothing to cancel in the
curvature; where b > 1, among many classes that are alike, the second, whose slope doesn't cancel.

Infinite logits count as the largest numbers, in the margins of the others too, whose limits these
are. A class that is ruled out, by -inf or by the +inf of another, has the margin -inf.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from parfocal.numerics.closed_form import finite
from parfocal.numerics.tracing import is_batched, is_traced, is_watched


class Margin(NamedTuple):
    """u, and t = exp(-|u|), which is a constant to autograd."""

    u: Tensor
    t: Tensor


_Kept = tuple[Tensor, ...]


class Form(NamedTuple):
    """Margins of (x, index) in closed form.

    evaluate: the margins, and what is kept for their slope.
    slope: the gradient in x, from what was kept, which it may use up, and from what comes in.
    compose: the margins, as autograd may differentiate them any number of times in every mode.
    """

    evaluate: Callable[[Tensor, Any], tuple[Margin, _Kept]]
    slope: Callable[[Tensor, Any, _Kept, Tensor], Tensor]
    compose: Callable[[Tensor, Any], Margin]


class _Margin(torch.autograd.Function):
    """Margins with their closed gradient; the further derivatives are those of the composition.

    With e_j = exp(x_j - top) and S_c the sum of them over the classes other than c,

        du_c/dx_c = 1        du_c/dx_j = -e_j / S_c

    and nothing goes through an infinite logit. Autograd's own gradient would scatter into a tensor
    of zeros for each gather and each largest, and add them up.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor | None, form: Form) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, index)
        ctx.set_materialize_grads(False)
        (u, t), ctx.kept = form.evaluate(x, index)
        ctx.form = form
        ctx.mark_non_differentiable(t)
        return u, t

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, None, None]:
        if grad is None:
            return None, None, None
        x, index = ctx.saved_tensors  # refuses an x that has been changed meanwhile
        again = torch.is_grad_enabled()  # create_graph: the result will be differentiated itself
        if again or is_batched(grad):
            with torch.enable_grad():
                u = ctx.form.compose(x, index).u
                return torch.autograd.grad(u, x, grad, create_graph=again)[0], None, None
        # Changed in place and given away: another backward pass over the graph makes its own.
        kept, ctx.kept = ctx.kept, None
        if kept is None:
            _, kept = ctx.form.evaluate(x, index)
        return ctx.form.slope(x, index, kept, grad), None, None


def margin(x: Tensor, index: Tensor) -> Margin:
    """u and t of one class a row.

    Args:
        x: logits (N, C, ...), float32 or float64.
        index: class indices (N, ...) in [0, C), int64.

    Returns:
        Each (N, ...). With a single class u is infinite: its probability is 1.
    """
    index = index.unsqueeze(1)
    if x.shape[1] == 1:
        return _certain(finite(x).squeeze(1))
    if is_watched(x) or not _is_plain(x):
        return _composed(x, index)
    if torch.compiler.is_compiling():
        return Margin(*_CompiledMargin.apply(x, index))
    if is_traced():
        return _composed(x, index)
    return Margin(*_Margin.apply(x, index, ONE_CLASS))


def _composed(x: Tensor, index: Tensor) -> Margin:
    """The margin of classes (N, 1, ...), differentiable any number of times in every mode."""
    logits, x = x.detach(), finite(x)
    own = x.gather(1, index).squeeze(1)
    others = x.masked_fill(is_class(x, index), -torch.inf)
    top, place = others.max(dim=1, keepdim=True)
    fixed = top.detach()
    is_crowded = (others.detach() - fixed).exp().sum(dim=1, keepdim=True) > 2
    base = torch.where(is_crowded, fixed, top)
    beside = (others - base).masked_fill(is_class(x, place), -torch.inf).exp().sum(dim=1)
    is_crowded, step = is_crowded.squeeze(1), (top - fixed).squeeze(1)
    log_others = torch.where(is_crowded, (step.exp() + beside).log(), torch.log1p(beside))
    is_ruled_out = _is_ruled_out(logits.gather(1, index), logits.gather(1, place)).squeeze(1)
    return _margin(own, base.squeeze(1), log_others, 1 + beside.detach(), is_ruled_out)


def _one(x: Tensor, index: Tensor) -> tuple[Margin, _Kept]:
    """The margin; e_j, with 0 for the class itself; S; and whether the logit of that is finite.

    S is infinite where the top is: e_j / S is 0 there.
    """
    logit, count = x.gather(1, index), x.shape[1]
    terms = _below_infinity(x).scatter_(1, index, -torch.inf)
    top, place = terms.max(dim=1, keepdim=True)
    fixed, top = finite(top), x.gather(1, place)
    terms.sub_(fixed).exp_().scatter_(1, place, 0.0)
    # If all others are -inf they are alike, and otherwise they add nothing.
    beside = terms.sum(dim=1, keepdim=True).masked_fill_(top == -torch.inf, count - 2.0)
    terms.scatter_(1, place, 1.0)
    total, is_ruled_out = 1 + beside, _is_ruled_out(logit, top)
    rows = (finite(logit), fixed, beside.log1p_(), total, is_ruled_out)
    result = _margin(*(row.squeeze(1) for row in rows))
    return result, (terms, total.masked_fill(top.isinf(), torch.inf), logit.isfinite())


def _slope_of_one(x: Tensor, index: Tensor, kept: _Kept, grad: Tensor) -> Tensor:
    """du/dx_t = 1 and du/dx_j = -e_j / S, times what comes in."""
    terms, total, is_finite = kept
    grad = grad.unsqueeze(1)
    return terms.mul_((grad / total).neg_()).scatter_(1, index, grad * is_finite)


class _CompiledMargin(torch.autograd.Function):
    """The margin with its closed gradient, in selections that a compiler makes part of its loops.

    Two passes over x, for the largest and for the sum, and one for the gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        bounded = finite(x)
        others = torch.where(is_class(x, index), -torch.inf, bounded)
        top, place = others.max(dim=1, keepdim=True)
        terms = torch.where(is_class(x, place), 0.0, (others - top).exp())
        beside = terms.sum(dim=1, keepdim=True)
        total = 1 + beside
        is_ruled_out = _is_ruled_out(x.gather(1, index), x.gather(1, place))
        rows = (bounded.gather(1, index), top, beside.log1p(), total, is_ruled_out)
        u, t = _margin(*(row.squeeze(1) for row in rows))
        ctx.save_for_backward(x, index, top, total)
        ctx.mark_non_differentiable(t)
        return u, t

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None]:
        x, index, top, total = ctx.saved_tensors
        grad = grad.unsqueeze(1)
        slope = torch.where(is_class(x, index), grad, -(grad / total) * (finite(x) - top).exp())
        return slope * x.isfinite(), None


def margins(x: Tensor) -> Margin:
    """u and t of every class: (N, C, ...) to (N, C, ...).

    The sum over the others of a class is the sum over all less its own term; that cancels for the
    largest class alone, whose sum is taken over the others themselves.
    """
    if x.shape[1] == 1:
        return _certain(finite(x))
    if is_watched(x) or not _is_plain(x) or is_traced():
        return _composed_all(x)
    return Margin(*_Margin.apply(x, None, ALL_CLASSES))


def _composed_all(x: Tensor, _: None = None) -> Margin:
    """The margins of all classes, differentiable any number of times in every mode."""
    logits, x = x.detach(), finite(x)
    top, index = x.detach().max(dim=1, keepdim=True)
    is_top = is_class(x, index)
    second, of_top = _sum_exp(x.masked_fill(is_top, -torch.inf))
    terms = (x - top).exp()
    beside_top = terms.masked_fill(is_top, 0.0)
    # The top term is 1, and no other is larger: what remains after the subtraction is not small.
    top_term = torch.where(is_top, terms, 0.0).sum(dim=1, keepdim=True)
    sums = top_term + (beside_top.sum(dim=1, keepdim=True) - beside_top)
    others = torch.where(is_top, of_top, sums)
    is_ruled_out = _is_ruled_out(logits, logits.gather(1, index))
    return _margin(x, torch.where(is_top, second, top), others.log(), others, is_ruled_out)


def _all(x: Tensor, _: None = None) -> tuple[Margin, _Kept]:
    """The margins; e_j, of the largest class 1; S_c, of that inf; its exp(x_j - second) / S; where.

    All others have x <= top and S >= 1: u <= 0 and t = e / S, which is not lost before t is.
    """
    bounded = finite(x)
    top, place = bounded.max(dim=1, keepdim=True)
    below = bounded.scatter(1, place, -torch.inf)
    second = below.amax(dim=1, keepdim=True)
    below.sub_(second).exp_()
    of_top = below.sum(dim=1, keepdim=True)
    largest = _margin(top, second, of_top.log(), of_top, torch.zeros_like(top, dtype=torch.bool))

    ahead = bounded - top
    terms = ahead.exp().scatter_(1, place, 0.0)
    sums = (terms.sum(dim=1, keepdim=True) - terms).add_(1.0)
    t = (terms / sums).mul_(_rounding(bounded, top, ahead).add_(1.0))
    u = ahead.sub_(sums.log()).masked_fill_(_is_ruled_out(x, x.gather(1, place)), -torch.inf)
    result = Margin(u.scatter_(1, place, largest.u), t.scatter_(1, place, largest.t))
    kept = (terms.scatter_(1, place, 1.0), sums.scatter_(1, place, torch.inf), below, of_top, place)
    return result, kept


def _slope_of_all(x: Tensor, _: None, kept: _Kept, grad: Tensor) -> Tensor:
    """g_j - e_j (sum of g_c / S_c over c != j), and for the largest class what is its own.

    That has no part in the sum, for its S was put to infinity, and a term for each j beside.
    """
    terms, sums, below, of_top, place = kept
    shares = torch.div(grad, sums, out=sums)
    slope = terms.mul_(torch.sub(shares.sum(dim=1, keepdim=True), shares, out=shares))
    slope.addcmul_(below, grad.gather(1, place) / of_top)
    return torch.sub(grad, slope, out=slope).mul_(x.isfinite())


def _sum_exp(x: Tensor) -> tuple[Tensor, Tensor]:
    """The largest of dim 1, and the sum of exp(x - largest)."""
    top = x.detach().amax(dim=1, keepdim=True)
    return top, (x - top).exp().sum(dim=1, keepdim=True)


def _rounding(own: Tensor, top: Tensor, ahead: Tensor) -> Tensor:
    """By how much own - top is more than ahead, to which it was rounded: Knuth's two-sum."""
    back = own - ahead
    error = (own - (ahead + back)) + (back - top)
    return error.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)  # of an infinite difference


def _margin(
    own: Tensor, top: Tensor, log_others: Tensor, others: Tensor, is_ruled_out: Tensor
) -> Margin:
    """u = own - top - log_others, the logarithm of the others, summed relative to top.

    exp(-u) is formed from the halves of own - top, none of which is subnormal where t is normal,
    and corrected by the rounding of that difference.
    """
    ahead = own - top
    fixed = ahead.detach()
    error = _rounding(own.detach(), top.detach(), fixed)
    half = torch.exp(fixed.abs() * -0.5)
    total = others.detach()
    u = ahead - log_others + torch.where(is_ruled_out, -torch.inf, 0.0)
    product = torch.where(fixed > 0, total * half * half, total / half / half)
    return Margin(u, torch.where(u >= 0, product * (1 - error), (1 + error) / product))


def _certain(x: Tensor) -> Margin:
    """The margin of a class that is the only one: its probability is 1."""
    return Margin(x + torch.inf, torch.where(x.isnan(), x.detach(), 0.0))


def _is_ruled_out(logit: Tensor, top: Tensor) -> Tensor:
    """Whether a class has probability 0, by its own logit or by the largest of the others."""
    return (logit == -torch.inf) & (top > -torch.inf) | (logit < torch.inf) & (top == torch.inf)


def _below_infinity(x: Tensor) -> Tensor:
    """A copy of x with the largest number for +inf."""
    return torch.nan_to_num(x, nan=torch.nan, posinf=torch.finfo(x.dtype).max, neginf=-torch.inf)


def _is_plain(x: Tensor) -> bool:
    return type(x) in (Tensor, Parameter)


def is_class(x: Tensor, index: Tensor) -> Tensor:
    """Of each class along dim 1 of x, whether the index (N, 1, ...) is it."""
    if not _is_plain(x):  # a DTensor, say, is compared with its like alone
        return torch.zeros_like(x, dtype=torch.bool).scatter(1, index, True)
    classes = torch.arange(x.shape[1], device=x.device)
    return classes.view(-1, *(1,) * (x.ndim - 2)) == index


ONE_CLASS = Form(_one, _slope_of_one, _composed)
"""The margin of one class a row."""

ALL_CLASSES = Form(_all, _slope_of_all, _composed_all)
"""The margins of all classes."""
