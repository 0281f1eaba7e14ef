"""Focal losses for JAX, exact at every gamma, in every precision, with derivatives of every order.

Needs JAX, the extra `jax`. The calls are those of optax:

    from parfocal.jax import sigmoid_focal_loss  # instead of optax.losses.sigmoid_focal_loss

Notation, for a logit x and a label y: s(x) = 1 / (1 + exp(-x)), and

    q = y s(-x) + (1 - y) s(x)      ce = y softplus(-x) + (1 - y) softplus(x)      L = q ** gamma ce

The derivatives are rules among four functions, each of which is evaluated without cancellation and
whose rules name these functions alone. So every order is a sum of products of accurate terms:

    s' = s(x) s(-x)                     softplus' = s
    (q ** gamma)' = gamma q ** gamma r  r = (log q)' = (1 - 2 y) s(x) s(-x) / q
    r' = r (s(-x) - s(x) - r)

in which |r| <= 1: nothing is divided by a power of q, the singularity of gamma q ** (gamma - 1).
At a hard label r is -s(x) or s(-x), and r' is -s(x) s(-x) without a subtraction that cancels.
"""

from typing import TYPE_CHECKING, Any

from parfocal import extras

with extras.needs("jax", "parfocal.jax"):
    import jax
    import jax.numpy as jnp

if TYPE_CHECKING:
    from jax.typing import ArrayLike

# The exp(-|x|) below which a / n is taken as a - a t / n, whose rounding a power feels less.
_SMALL = 0.4

# The share of the floating-point range kept free for products with gamma.
_HEADROOM = 2.0**-20


def sigmoid_focal_loss(
    logits: "ArrayLike",
    labels: "ArrayLike",
    *,
    alpha: "ArrayLike | None" = None,
    gamma: "ArrayLike" = 2.0,
) -> Any:
    r"""Binary focal loss of logits, exact at every gamma >= 0 and in every precision.

    With ``p = sigmoid(logits)`` and ``p_t = labels p + (1 - labels)(1 - p)``::

        L = alpha_t (1 - p_t) ** gamma (-labels log p - (1 - labels) log(1 - p))

    Args:
        logits: Any shape; float64, float32, float16 or bfloat16. An infinity gives the limit of the
            loss, through which no gradient comes.
        labels: 0, 1 or between, of a shape that broadcasts.
        alpha: Weight of positives, in [0, 1]; negatives get ``1 - alpha``. None for neither.
        gamma: Focusing exponent, >= 0; a number, or an array that broadcasts.

    Returns:
        The losses, of the broadcast shape, in the dtype of the logits. Nothing is reduced.

    `jit`, `vmap`, `grad`, `jvp`, `hessian` and further orders work, also in `gamma` and `labels`.

    Accuracy: at hard labels on a CPU, value and gradient are within 4 + 2 gamma ULP, the gradient
    in gamma within one more, the second derivative within half as much again; 16 bits are computed
    in float32 and rounded once. XLA takes subnormal numbers for 0: below 16 / eps times the
    smallest normal number a result may be 0. Measured errors, beside those of optax, are in
    ``ledger/records``.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from parfocal.jax import sigmoid_focal_loss
        >>> loss = lambda x: sigmoid_focal_loss(x, jnp.array([1.0, 0.0]), gamma=0.5).sum()
        >>> jax.grad(loss)(jnp.array([20.0, -1.0]))
        Array([-1.4036435e-13,  1.9885434e-01], dtype=float32)

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 5; the call is
    that of ``optax.losses.sigmoid_focal_loss``.
    """
    given, x = _computation(logits)
    y, exponent = jnp.asarray(labels, x.dtype), jnp.asarray(gamma, x.dtype)
    x, y, exponent = jnp.broadcast_arrays(x, y, exponent)
    loss = _focal(x, y, exponent)
    if alpha is not None:
        share = jnp.asarray(alpha, x.dtype)
        loss = (share * y + (1 - share) * (1 - y)) * loss
    return loss.astype(given)


def softmax_focal_loss(
    logits: "ArrayLike",
    labels: "ArrayLike",
    *,
    alpha: "ArrayLike | None" = None,
    gamma: "ArrayLike" = 2.0,
    axis: int = -1,
) -> Any:
    r"""Multiclass focal loss of logits and class indices, exact at every gamma >= 0.

    With ``p = softmax(logits)`` and class ``t``::

        L = -alpha_t (1 - p_t) ** gamma log p_t

    Args:
        logits: Classes along `axis`; dtypes as in `sigmoid_focal_loss`.
        labels: Class indices, of the shape of `logits` without `axis`. One out of range gives a
            loss and a gradient of 0.
        alpha: Weight of each class, an array of as many as there are; None for none.
        gamma: Focusing exponent, >= 0, of a shape that broadcasts to that of `labels`.
        axis: Where the classes are.

    Returns:
        The losses, of the shape of `labels`, in the dtype of the logits. Nothing is reduced.

    The loss is that of the margin ``u = x_t - logsumexp(x_j, j != t)`` at label 1, so that
    ``1 - p_t`` is no subtraction. With a single class it is 0.

    Accuracy: within (1 + gamma)(4 + |u|) ULP, of the rounding of the margin, on a CPU.

    Example:
        >>> import jax.numpy as jnp
        >>> from parfocal.jax import softmax_focal_loss
        >>> softmax_focal_loss(jnp.array([[20.0, 0.0, 1.0]]), jnp.array([0]), gamma=0.5)
        Array([6.7093206e-13], dtype=float32)

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 4, with the
    softmax for p.
    """
    given, x = _computation(logits)
    x = jnp.moveaxis(x, axis, -1)
    index = jnp.asarray(labels)
    if not jnp.issubdtype(index.dtype, jnp.integer):
        raise TypeError(f"softmax_focal_loss: expected integer labels, got {index.dtype}")
    if index.dtype.itemsize < 4:  # where the number of classes would wrap around
        index = index.astype(jnp.int32)
    if index.shape != x.shape[:-1]:
        raise ValueError(
            f"softmax_focal_loss: expected labels of shape {x.shape[:-1]}, got {index.shape}"
        )
    count = x.shape[-1]
    counts = (index >= 0) & (index < count)
    own_index = jnp.where(counts, index, 0)[..., None]
    if count == 1:
        return jnp.zeros(index.shape, given)
    is_own = jax.lax.broadcasted_iota(index.dtype, x.shape, x.ndim - 1) == own_index
    own = jnp.take_along_axis(x, own_index, -1)[..., 0]
    others = jax.nn.logsumexp(jnp.where(is_own, -jnp.inf, x), axis=-1)
    u = own - others
    exponent = jnp.broadcast_to(jnp.asarray(gamma, x.dtype), u.shape)
    loss = _focal(u, jnp.ones_like(u), exponent)
    if alpha is not None:
        loss = jnp.take(jnp.asarray(alpha, x.dtype), own_index[..., 0]) * loss
    return jnp.where(counts, loss, 0).astype(given)


def _computation(logits: Any) -> tuple[Any, Any]:
    """The dtype of the logits, and the logits in that of the computation, with finite numbers."""
    x = jnp.asarray(logits)
    given = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.result_type(float)
    x = x.astype(given if given.itemsize >= 4 else jnp.float32)
    largest = jnp.finfo(x.dtype).max
    return given, jnp.where(jnp.isinf(x), jnp.sign(x) * largest, x)


@jax.custom_jvp
def _focal(x: Any, y: Any, gamma: Any) -> Any:
    """L = q ** gamma ce."""
    return _power(x, y, gamma) * _cross_entropy(x, y)


@_focal.defjvp
def _focal_jvp(primals: Any, tangents: Any) -> Any:
    """Each derivative is q ** gamma times a sum: no term of it underflows by itself."""
    (x, y, gamma), (dx, dy, dgamma) = primals, tangents
    factor, ce = _power(x, y, gamma), _cross_entropy(x, y)
    # Where ce is near the largest number r is 0; a product of gamma and ce must not be infinite.
    bounded = jnp.minimum(ce, jnp.finfo(x.dtype).max * _HEADROOM)
    in_x = gamma * _r(x, y) * bounded + ((1 - y) * _sigmoid(x) - y * _sigmoid(-x))
    in_y = gamma * _log_base_in_y(x, y) * bounded - x
    in_gamma = ce * _log_base(x, y)
    return factor * ce, factor * in_x * dx + factor * in_y * dy + factor * in_gamma * dgamma


def _cross_entropy(x: Any, y: Any) -> Any:
    return y * _softplus(-x) + (1 - y) * _softplus(x)


@jax.custom_jvp
def _sigmoid(x: Any) -> Any:
    """s, from the side to which x points: t / n or 1 / n, with t = exp(-|x|) and n = 1 + t."""
    t = jnp.exp(-jnp.abs(x))
    return _over_n(jnp.where(x < 0, t, 1.0), t)


@_sigmoid.defjvp
def _sigmoid_jvp(primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    s = _sigmoid(x)
    return s, s * _sigmoid(-x) * dx


@jax.custom_jvp
def _softplus(x: Any) -> Any:
    """log(1 + exp(x))."""
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@_softplus.defjvp
def _softplus_jvp(primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    return _softplus(x), _sigmoid(x) * dx


def _base(x: Any, y: Any) -> Any:
    """q, as one quotient: no rounding but its own is felt gamma times."""
    t = jnp.exp(-jnp.abs(x))
    agrees, differs = jnp.where(x < 0, 1 - y, y), jnp.where(x < 0, y, 1 - y)
    return _over_n(agrees * t + differs, t)


@jax.custom_jvp
def _power(x: Any, y: Any, gamma: Any) -> Any:
    """q ** gamma."""
    return _base(x, y) ** gamma


@_power.defjvp
def _power_jvp(primals: Any, tangents: Any) -> Any:
    (x, y, gamma), (dx, dy, dgamma) = primals, tangents
    factor = _power(x, y, gamma)
    relative = gamma * _r(x, y) * dx + gamma * _log_base_in_y(x, y) * dy
    return factor, factor * (relative + _log_base(x, y) * dgamma)


@jax.custom_jvp
def _r(x: Any, y: Any) -> Any:
    """(log q)', in [-1, 1]."""
    soft = (1 - 2 * y) * _sigmoid(x) * _sigmoid(-x) / jnp.maximum(_base(x, y), _tiny(x))
    return jnp.where(y == 1, -_sigmoid(x), jnp.where(y == 0, _sigmoid(-x), soft))


@_r.defjvp
def _r_jvp(primals: Any, tangents: Any) -> Any:
    (x, y), (dx, dy) = primals, tangents
    r, s, other = _r(x, y), _sigmoid(x), _sigmoid(-x)
    # At label 1, s + r is 0; at label 0, other - r is: each first, and nothing cancels.
    rest = jnp.where(y > 0.5, other - (s + r), (other - r) - s)
    q = jnp.maximum(_q(x, y), _tiny(x))
    in_y = -2 * s * other / q - r * (other - s) / q
    return r, r * rest * dx + in_y * dy


def _q(x: Any, y: Any) -> Any:
    """q as a sum, which is differentiated by its terms."""
    return y * _sigmoid(-x) + (1 - y) * _sigmoid(x)


def _log_base(x: Any, y: Any) -> Any:
    """log q; at a hard label without a logarithm of what may have underflowed."""
    is_hard = (y == 0) | (y == 1)
    hard = -_softplus(jnp.where(y == 1, x, -x))
    q, p = _q(x, y), _q(-x, y)
    is_near_1 = is_hard | (q > 0.5)
    soft = jnp.where(q > 0.5, jnp.log1p(-p), jnp.log(jnp.where(is_near_1, 1.0, q)))
    return jnp.where(is_hard, hard, soft)


def _log_base_in_y(x: Any, y: Any) -> Any:
    """Its derivative in y, (s(-x) - s(x)) / q, as far as 1 / q is a number."""
    return (_sigmoid(-x) - _sigmoid(x)) / jnp.maximum(_q(x, y), _tiny(x))


def _over_n(numerator: Any, t: Any) -> Any:
    """numerator / (1 + t), as numerator - numerator t / (1 + t) for small t."""
    n = 1 + t
    return jnp.where(t < _SMALL, numerator - numerator * (t / n), numerator / n)


def _tiny(x: Any) -> Any:
    return jnp.finfo(x.dtype).tiny
