"""The kernel of smoothed labels: every class of a row has a loss, of a weight y_c of its own.

With k the largest class, y_c = w_c ((1 - s) [c = t] + s / C) and the sums over all classes,

    q_c = 1 - p_c        ce_c = x_k - x_c + ce_k        L = sum of y_c q_c ** gamma ce_c
    H_c = q_c ** (gamma - 1) (q_c + gamma p_c ce_c)     dL/dx_j = p_j (sum of y_c H_c) - y_j H_j

p_k and q_k are those of the odds against k, from the sum over the others, as for a class index.
Nothing cancels in 1 - p_c of another class, whose p_c <= 1/2, and y_k H_k isn't in the sum in

    dL/dx_k = p_k (sum of y_c H_c over c != k) - y_k q_k H_k

A class takes two exponentials. That of q_c ** (gamma - 1) is the special function unit's: q_c isn't
small, and the unit's 2 ** -22 is felt once. With two sums, of exponentials and of H, a loss is
within (1 + gamma)(8 + d + log2(C)) ULP, d the spread of the row; and so is a gradient, in ULP of
its two terms, which differ in sign and may cancel.

Infinite logits, NaN, and rows that don't count are as in `classes`. A class of weight 0 adds
nothing, though its logit be -inf.

A row that fits on the chip is read once, its exponentials and y_c H_c waiting in registers for the
gradient. Longer ones are read three times: for the largest class and the sum of exponentials, for
the sums of losses and of y_c H_c, for the gradient.
"""

from typing import Any

import triton
import triton.language as tl

from parfocal.numerics.data import ClassKernel
from parfocal.numerics.triton.arithmetic import (
    LARGEST,
    LOG2E,
    log_of_rest,
    power,
    reciprocal,
)
from parfocal.numerics.triton.launch import scale_of
from parfocal.numerics.triton.rows import (
    ALL,
    SHIFT,
    SHIFTED_BACK,
    exp_of_fall,
    finite,
    others,
    probabilities,
    reached,
    rows_of_program,
    term_factors,
    weight_of,
)

NOWHERE = tl.constexpr(-1)


@triton.jit
def largest_of_tile(x, column, classes, DIM: tl.constexpr):
    """The largest logit of each row, and the first class that has it; none if all are NaN."""
    top = tl.max(x, DIM)
    return top, tl.min(tl.where(x == tl.expand_dims(top, DIM), column, classes), DIM)


@triton.jit
def largest_of_all(
    logit,
    column,
    counts,
    classes,
    class_stride,
    GRADE: tl.constexpr,
    CLASSES: tl.constexpr,
    DIM: tl.constexpr,
):
    """The largest logit, its class, the largest of the others and their sum relative to it.

    In lanes, then of these. A logit that is the largest so far of a lane sends the one before it
    among the others; of one more a lane takes one exponential, as in `sum_of_all`.
    """
    at = column + tl.zeros_like(counts).to(tl.int32)
    s = tl.zeros_like(at).to(tl.float32)
    highest, below = s + float("-inf"), s + float("-inf")
    for first in range(0, classes, CLASSES):
        x = others(logit, column + first, NOWHERE, classes, class_stride, counts)
        one_more = tl.minimum(x, highest, propagate_nan=ALL)
        at = tl.where(x > highest, column + first, at)
        highest = tl.maximum(highest, x)
        rise = tl.minimum(one_more, LARGEST, propagate_nan=ALL) - finite(below)
        fall = exp_of_fall(tl.abs(rise), 0.0, 0.0, GRADE)
        s = tl.where(rise > 0.0, tl.fma(s, fall, 1.0), s + fall)
        below = tl.maximum(below, one_more)
    top = tl.max(highest, DIM)
    is_top = highest == tl.expand_dims(top, DIM)
    place = tl.min(tl.where(is_top, at, classes), DIM)
    highest = tl.where(at == tl.expand_dims(place, DIM), float("-inf"), highest)
    second = tl.max(tl.maximum(highest, below), DIM)
    height = tl.expand_dims(finite(second), DIM)
    s = s * exp_of_fall(height, finite(below), 0.0, GRADE)
    return top, place, second, tl.sum(s + exp_of_fall(height, highest, 0.0, GRADE), DIM)


@triton.jit
def class_weights(class_weight_ptr, column, classes):
    """w_c in float32."""
    return tl.load(class_weight_ptr + column, mask=column < classes, other=0.0).to(tl.float32)


@triton.jit
def largest_terms(p, q, ce, gamma):
    """q ** gamma ce, H and q H of the largest class, of which q may be 0."""
    factor = power(q, gamma)
    is_normal = q > 1e-30  # below, ce / q is 1
    ce_over_q = tl.where(is_normal, ce * reciprocal(tl.where(is_normal, q, 1.0)), 1.0)
    h = factor * tl.fma(gamma * p, ce_over_q, 1.0)
    return factor * ce, h, factor * tl.fma(gamma * p, ce, q)


@triton.jit
def others_terms(
    x,
    terms,
    column,
    largest,
    class_weight_ptr,
    classes,
    to_p,
    least_p,
    top,
    ce_of_largest,
    gamma,
    share,
    GRADE: tl.constexpr,
):
    """w q ** gamma ce and w H of classes, times a share; 0 of the largest, and where none is."""
    p = tl.fma(terms, to_p, least_p)
    q = 1.0 - p
    ce = tl.where(x == top, 0.0, top - x) + ce_of_largest  # infinite for a class that is ruled out
    # A square, so that the unit flushes no number that isn't 0.
    half = tl.exp2(log_of_rest(p, GRADE) * ((gamma - 1.0) * (LOG2E * -0.5)))
    factor = half * half * share
    loss = factor * q * ce
    h = factor * tl.fma(gamma * p, tl.minimum(ce, LARGEST), q)
    if class_weight_ptr is not None:
        weight = class_weights(class_weight_ptr, column, classes)
        loss, h = tl.where(weight == 0.0, 0.0, weight * loss), weight * h
    is_other = (column < classes) & (column != largest)
    return tl.where(is_other, loss, 0.0), tl.where(is_other, h, 0.0)


@triton.jit
def up_to_infinity(h, x):
    """0 where no gradient reaches a logit. Of a row with a NaN the gradient has one anyway."""
    return tl.where(tl.abs(x) == float("inf"), 0.0, h)


def _smoothed_kernel(  # noqa: PLR0912, PLR0915 - passes over a row share all that is known of it
    x_ptr,
    index_ptr,
    weight_ptr,
    divisor_ptr,
    incoming_ptr,
    partial_ptr,
    loss_ptr,
    gradient_ptr,
    positions,
    classes,
    image_stride,
    position_stride,
    class_stride,
    gamma,
    factor,
    class_weight_ptr,
    true_share,
    even_share,
    GRADE: tl.constexpr,
    CLASSES: tl.constexpr,
    POSITIONS: tl.constexpr,
    LOOPS: tl.constexpr,
    ALL_CLASSES: tl.constexpr,
    IN_ROWS: tl.constexpr,
    IS_MADE: tl.constexpr,
    DIM: tl.constexpr,
):
    """The same as `classes._class_kernel`, of smoothed labels.

    true_share, even_share: 1 - s and s / C.
    """
    if IS_MADE:  # noqa: SIM102 - the compiler decides the one, the device the other
        if tl.load(incoming_ptr).to(tl.float32) == 1.0:
            return
    if ALL_CLASSES > 0:
        classes = ALL_CLASSES
    row, start, is_row = rows_of_program(positions, image_stride, position_stride, POSITIONS)
    weight = weight_of(weight_ptr, row, is_row)
    counts = weight != 0.0
    index = tl.load(index_ptr + row, mask=counts, other=0)
    is_class = (index >= 0) & (index < classes)
    weight = tl.where(is_class, weight, float("nan"))
    index = tl.where(is_class, index, 0)
    own = tl.load(x_ptr + start + index * class_stride, mask=counts, other=0.0).to(tl.float32)
    index = index.to(tl.int32)

    column = tl.expand_dims(tl.arange(0, CLASSES), 1 - DIM)
    in_tile, logit = tl.expand_dims(counts, DIM), tl.expand_dims(x_ptr + start, DIM)
    if LOOPS:
        top, place, second, s = largest_of_all(
            logit, column, in_tile, classes, class_stride, GRADE, CLASSES, DIM
        )
    else:
        x = others(logit, column, NOWHERE, classes, class_stride, in_tile)
        top, place = largest_of_tile(x, column, classes, DIM)
        x = tl.where(column == tl.expand_dims(place, DIM), float("-inf"), x)
        second = tl.max(x, DIM)
        terms = exp_of_fall(tl.expand_dims(finite(second), DIM), x, SHIFT, GRADE)
        s = tl.sum(terms, DIM) * SHIFTED_BACK

    p, q, ce, over_s = probabilities(top, second, s, classes)
    loss, h, slope = largest_terms(p, q, ce, gamma)
    share = tl.where(index == place, true_share + even_share, even_share)
    if class_weight_ptr is not None:
        share *= class_weights(class_weight_ptr, place, classes)

    # The true class, if it is another one. Its share would swallow the last digits of the others'.
    height = finite(second)
    to_p = q * over_s * SHIFTED_BACK
    least_p = tl.where(second == float("-inf"), q * over_s, 0.0)  # if all are they are alike
    terms_of_own = exp_of_fall(height, own, SHIFT, GRADE)
    loss_of_own, h_of_own = others_terms(
        own,
        terms_of_own,
        index,
        place,
        class_weight_ptr,
        classes,
        to_p,
        least_p,
        top,
        ce,
        gamma,
        true_share,
        GRADE,
    )

    loss_of_own = tl.where(true_share == 0.0, 0.0, loss_of_own)  # an infinite one too

    largest, top_of_row = tl.expand_dims(place, DIM), tl.expand_dims(top, DIM)
    height, ce_of_largest = tl.expand_dims(height, DIM), tl.expand_dims(ce, DIM)
    to_p, least_p = tl.expand_dims(to_p, DIM), tl.expand_dims(least_p, DIM)
    if LOOPS:
        losses = tl.zeros_like(column + largest).to(tl.float32)
        sums = losses
        for first in range(0, classes, CLASSES):
            at = column + first
            x = others(logit, at, largest, classes, class_stride, in_tile)
            terms = exp_of_fall(height, x, SHIFT, GRADE)
            one_loss, one_h = others_terms(
                x,
                terms,
                at,
                largest,
                class_weight_ptr,
                classes,
                to_p,
                least_p,
                top_of_row,
                ce_of_largest,
                gamma,
                even_share,
                GRADE,
            )
            losses, sums = losses + one_loss, sums + one_h
    else:
        losses, sums = others_terms(
            x,
            terms,
            column,
            largest,
            class_weight_ptr,
            classes,
            to_p,
            least_p,
            top_of_row,
            ce_of_largest,
            gamma,
            even_share,
            GRADE,
        )
        one_h = up_to_infinity(sums, x)

    loss = share * loss + (tl.sum(losses, DIM) + loss_of_own)
    loss = tl.where(counts, loss * weight, 0.0)
    if partial_ptr is not None:
        tl.store(partial_ptr + tl.program_id(0), tl.sum(loss))
    if loss_ptr is not None:
        tl.store(loss_ptr + row, loss.to(loss_ptr.dtype.element_ty), mask=is_row)
    if gradient_ptr is not None:
        scale = tl.where(counts, weight * scale_of(factor, divisor_ptr, incoming_ptr), 0.0)
        rest = tl.sum(sums, DIM) + h_of_own
        before, after = term_factors(tl.fma(share, h, rest) * (q * over_s) * scale, second)
        g_of_largest = tl.expand_dims(reached(p * rest - share * slope, top) * scale, DIM)
        more_of_own = tl.expand_dims(up_to_infinity(h_of_own, own) * scale, DIM)
        before, after = tl.expand_dims(before, DIM), tl.expand_dims(after, DIM)
        scale, true = tl.expand_dims(scale, DIM), tl.expand_dims(index, DIM)
        target = tl.expand_dims(gradient_ptr + start, DIM)
        for first in range(0, classes if LOOPS else 1, CLASSES):
            at = column + first
            if LOOPS:
                x = others(logit, at, largest, classes, class_stride, in_tile)
                terms = exp_of_fall(height, x, SHIFT, GRADE)
                _, one_h = others_terms(
                    x,
                    terms,
                    at,
                    largest,
                    class_weight_ptr,
                    classes,
                    to_p,
                    least_p,
                    top_of_row,
                    ce_of_largest,
                    gamma,
                    even_share,
                    GRADE,
                )
                one_h = up_to_infinity(one_h, x)
            g = tl.fma(terms * before, after, -(one_h * scale))
            g = tl.where(at == true, g - more_of_own, g)
            g = tl.where(at == largest, g_of_largest, g)
            to = target + at.to(tl.int64) * (1 if IN_ROWS else class_stride)
            mask = (at < classes) & tl.expand_dims(is_row, DIM)
            tl.store(to, g.to(gradient_ptr.dtype.element_ty), mask=mask)


# Of whole rows, and of a position a thread, as in `classes`.
whole_rows = triton.jit(_smoothed_kernel)
a_position_a_thread = triton.jit(_smoothed_kernel, do_not_specialize=("class_stride",))
KERNELS = whole_rows, a_position_a_thread


def options(loss: ClassKernel, classes: int) -> dict[str, Any]:
    """What the kernel is told of the loss, beside gamma."""
    weight = loss.class_weight
    return {
        "class_weight_ptr": None if weight is None else weight.contiguous(),
        "true_share": 1 - loss.smoothing,
        "even_share": loss.smoothing / classes,
    }
