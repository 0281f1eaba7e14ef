"""A line of Python that shows a finding by itself."""

from typing import Any

from parfocal.audit.evaluate import NOTHING, SURE
from parfocal.audit.masks.calls import Batch, Mask, inputs
from parfocal.audit.subject import Subject

_TORCH = {
    "value": "print({call})",
    "gradient": "print(torch.autograd.grad(({call}).sum(), z)[0])",
    "curvature": (
        "g = torch.autograd.grad(({call}).sum(), z, create_graph=True)[0]; "
        "print(torch.autograd.grad(g.sum(), z)[0])"
    ),
    "masked": "print(torch.autograd.grad((({call}) * 0).sum(), z)[0])",
    "autocast": (
        'torch.autocast("cpu", torch.bfloat16).__enter__(); '
        "print(torch.autograd.grad(({call}).sum(), z)[0])"
    ),
    "compiled": (
        "print(torch.autograd.grad(torch.compile(lambda x, y: {call})(x, y).sum(), z)[0])"
    ),
    "cuda": "print(torch.autograd.grad((lambda x, y: {call})(x.cuda(), y.cuda()).sum(), z)[0])",
    "vmap": "print(torch.func.vmap(torch.func.grad(lambda x, y: ({call}).sum()))(x, y))",
}

_JAX = {
    "value": "print(f(z))",
    "gradient": "print(jax.grad(f)(z))",
    "curvature": "print(jax.grad(lambda z: jax.grad(f)(z).sum())(z))",
}


# What a loss takes, of logits.
_TAKEN = {
    ("binary", "probabilities"): "x = x.sigmoid()",
    ("binary", "log-probabilities"): "x = torch.nn.functional.logsigmoid(x)",
    ("multiclass", "probabilities"): "x = x.softmax(1)",
    ("multiclass", "log-probabilities"): "x = x.log_softmax(1)",
}


def reproduction(
    subject: Subject,
    dtype: str,
    target: float,
    gamma: float,
    logit: float,
    quantity: str,
    mode: str = "eager",
) -> str:
    """Imports, one logit, one call, one print."""
    call, lines = subject.source(gamma), subject.import_line()
    if subject.framework == "numpy":
        return (
            f"import numpy as np; {lines}; x = np.array([{logit!r}], np.{dtype}); "
            f"y = np.array([{target!r}], np.{dtype}); print({call})"
        )
    if subject.framework == "jax":
        return _jax(subject, dtype, target, logit, call, lines) + _JAX[quantity]
    shown = _TORCH[quantity if mode == "eager" else mode].format(call=call)
    return f"{_torch(subject, dtype, target, logit, lines)}; {shown}"


def _torch(subject: Subject, dtype: str, target: float, logit: float, lines: str) -> str:
    """z, the logit; x and y, what the loss is called with."""
    environment = 'import os; os.environ["KERAS_BACKEND"] = "torch"; ' if "keras" in lines else ""
    words = [
        f"{environment}import torch",
        lines,
        f"z = torch.tensor([{logit!r}], dtype=torch.{dtype}, requires_grad=True)",
    ]
    if subject.kind == "multiclass":
        others = f", torch.full_like(z, {NOTHING:g})" * (subject.classes - 2)
        words.append(f"x = torch.stack([z, torch.zeros_like(z){others}], 1)")
        y = f"torch.tensor([{0 if target else 1}])"
        if subject.one_hot:
            y = f"torch.nn.functional.one_hot({y}, {subject.classes}).to(x.dtype)"
        words.append(f"y = {y}")
        if subject.takes == "probabilities":
            words.append("x = x.softmax(1)")
        elif subject.takes == "log-probabilities":
            words.append("x = x.log_softmax(1)")
        if subject.maps:
            words.append("x, y = (t.reshape(*t.shape, 1, 1) for t in (x, y))")
    else:
        shape = ".reshape(1, 1, 1, 1)" if subject.maps else ".unsqueeze(1)" * subject.column
        beside = subject.companion and target == 0
        z = f"torch.cat([z, z.new_full((1,), {SURE})])" if beside else "z"
        words.append(f"x = {z}{shape}")
        whole = ".long()" if subject.long else ""
        words.append(f"y = torch.full_like(x, {target!r}, requires_grad=False){whole}")
        words += ["y[-1] = 1"] if beside else []
        if subject.takes == "probabilities":
            words.append("x = x.sigmoid()")
        elif subject.takes == "log-probabilities":
            words.append("x = torch.nn.functional.logsigmoid(x)")
    return "; ".join(words)


def _jax(subject: Subject, dtype: str, target: float, logit: float, call: str, lines: str) -> str:
    """z, the logit; f, the sum of the losses of z."""
    x64 = 'jax.config.update("jax_enable_x64", True); ' if dtype == "float64" else ""
    if subject.kind == "multiclass":
        x, y = "jnp.stack([z, jnp.zeros_like(z)], 1)", f"jnp.array([{0 if target else 1}])"
    else:
        x, y = "z", f"jnp.array([{target!r}], jnp.{dtype})"
    return (
        f"import jax, jax.numpy as jnp; {x64}{lines}; z = jnp.array([{logit!r}], jnp.{dtype}); "
        f"y = {y}; f = lambda z: (lambda x: {call})({x}).sum(); "
    )


class _Word(str):
    """A name in a line of Python, which stands there as it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def masked_reproduction(
    subject: Subject, mask: Mask, batch: Batch, gamma: float, position: int, shown: str
) -> str:
    """Imports, a batch with positions that are left out, one call, and what one position has.

    Args:
        subject: a loss of PyTorch.
        mask: by which positions are left out.
        batch: logits, classes, and who is left out.
        gamma: the exponent.
        position: the one that is shown.
        shown: "gradient", in what the loss takes; "value"; or "fails", of a call that raises.
    """
    lines = subject.import_line()
    environment = 'import os; os.environ["KERAS_BACKEND"] = "torch"; ' if "keras" in lines else ""
    dtype, is_binary = str(batch.rows.dtype), subject.kind == "binary"
    whole = "" if subject.long or not is_binary else f", dtype={dtype}"
    words = [
        f"{environment}import torch",
        "from math import inf, nan",
        lines,
        f"x = torch.tensor({batch.rows.tolist()}, dtype={dtype})",
        f"y = torch.tensor({batch.targets(mask).tolist()}{whole})",
    ]
    if subject.takes != "logits":
        words.append(_TAKEN[subject.kind, subject.takes])
    if subject.one_hot:
        words.append(f"y = torch.nn.functional.one_hot(y, {batch.rows.shape[1]}).to(x.dtype)")
    ones = (3 if subject.maps else int(subject.column)) if is_binary else 2 * subject.maps
    if ones:
        words.append(f"x, y = (t.reshape(*t.shape{', 1' * ones}) for t in (x, y))")
    words.append("x.requires_grad_()")
    value: Any = mask.ignored
    if value is None and mask.name:
        entries = inputs(subject, mask, batch)[2]
        of = "" if mask.dtype == "bool" else f", dtype={dtype}"
        words.append(f"{mask.name} = torch.tensor({entries.tolist()}{of})")
        value = _Word(mask.name)
    call = mask.applied(subject, value).source(gamma)
    shows = {
        "gradient": f"print(torch.autograd.grad(({call}).sum(), x)[0][{position}])",
        "value": f"print(({call})[{position}])",
        "fails": f"print({call})",
    }
    return "; ".join([*words, shows[shown]])
