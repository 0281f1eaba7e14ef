"""The same loss in other ways: compiled, under autocast, under vmap; and masked from outside."""

import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from parfocal.audit.evaluate import torch_loss
from parfocal.audit.subject import Subject, in_a_line
from parfocal.audit.ulp import spacing
from parfocal.floats import representable

# Another order of rounding is no mismatch: this much, at logits that cancel little; or that so many
# results are finite in one mode alone.
_TOLERANCE = 0.01
_MILD = 8.0
_SMALL = 1e-3
_SHARE = 0.1


class Mismatch(NamedTuple):
    """A gradient that a mode changes; `error` is what it raises instead."""

    mode: str
    gamma: float
    target: float
    logit: float | None
    computed: float | None
    eager: float | None
    share: float
    ulp: float
    error: str | None


class Leak(NamedTuple):
    """Positions whose loss is multiplied by 0, and whose gradient isn't 0."""

    gamma: float
    target: float
    dtype: str
    logit: float
    computed: float
    share: float


def probes(dtype: torch.dtype) -> Tensor:
    """Some hundred logits."""
    return representable(dtype, 128, smallest=0.25, largest=100.0)


def mismatches(
    subject: Subject, gammas: tuple[float, ...], modes: tuple[str, ...]
) -> Iterator[Mismatch]:
    """Where a mode differs from eager by more than rounding, in float32."""
    if subject.framework != "torch" or subject.reduced == "mean" or subject.device != "cpu":
        return
    for mode in modes:
        for gamma in gammas:
            for target in (1.0, 0.0):
                found = _compared(subject, mode, gamma, target)
                if found is not None:
                    yield found


def _compared(subject: Subject, mode: str, gamma: float, target: float) -> Mismatch | None:
    x = probes(torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            eager = _gradient(torch_loss(subject, target, gamma), x)
        except Exception:
            return None  # a gamma or a dtype that is refused in eager too, as the report says
        try:
            computed = _MODES[mode](subject, target, gamma, x)
        except Exception as error:
            return Mismatch(
                mode=mode,
                gamma=gamma,
                target=target,
                logit=None,
                computed=None,
                eager=None,
                share=1.0,
                ulp=float("inf"),
                error=in_a_line(error)[:200],
            )
    unit = spacing(eager.double(), torch.float32)
    difference = (computed.double() - eager.double()).abs()
    size = eager.double().abs()
    near = (x.abs() <= _MILD) & (size > _SMALL * size[size.isfinite()].amax())
    differs = (difference > _TOLERANCE * size) & near
    status = computed.isfinite() != eager.isfinite()
    # Where 1 - p_t rounds to 0 a few more or fewer numbers are lost by another order of rounding.
    if not bool(differs.any()) and status.double().mean() < _SHARE:
        return None
    wrong = differs | status
    error_in_ulp = torch.where(wrong, (difference / unit).nan_to_num(torch.inf, torch.inf), 0.0)
    worst = int(error_in_ulp.argmax())
    return Mismatch(
        mode=mode,
        gamma=gamma,
        target=target,
        logit=float(x[worst]),
        computed=float(computed[worst]),
        eager=float(eager[worst]),
        share=float(wrong.double().mean()),
        ulp=float(error_in_ulp[worst]),
        error=None,
    )


def _gradient(loss: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(x).sum(), x)[0]


def _compiled(subject: Subject, target: float, gamma: float, x: Tensor) -> Tensor:
    torch.compiler.reset()
    return _gradient(torch.compile(torch_loss(subject, target, gamma), fullgraph=False), x)


def _autocast(subject: Subject, target: float, gamma: float, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return _gradient(torch_loss(subject, target, gamma), x)


def _cuda(subject: Subject, target: float, gamma: float, x: Tensor) -> Tensor:
    return _gradient(torch_loss(subject.with_options(device="cuda"), target, gamma), x.cuda()).cpu()


def _vmap(subject: Subject, target: float, gamma: float, x: Tensor) -> Tensor:
    loss = torch_loss(subject, target, gamma)

    def of_one(logit: Tensor) -> Tensor:
        return loss(logit.reshape(1)).sum()

    gradients = torch.func.vmap(torch.func.grad(of_one))(x)
    assert isinstance(gradients, Tensor)
    return gradients


_MODES: dict[str, Callable[[Subject, float, float, Tensor], Tensor]] = {
    "compiled": _compiled,
    "autocast": _autocast,
    "vmap": _vmap,
    "cuda": _cuda,
}

MODES = tuple(_MODES)


def default_modes() -> tuple[str, ...]:
    """Those that cost little: a GPU where there is one."""
    return ("autocast", "vmap", *(("cuda",) if torch.cuda.is_available() else ()))


def leaks(subject: Subject, gammas: tuple[float, ...], dtype: torch.dtype) -> Iterator[Leak]:
    """A mask from outside: the loss of each position times 0 or 1, as users write it."""
    if subject.framework != "torch" or subject.reduced != "none":
        return
    for gamma in gammas:
        for target in (1.0, 0.0):
            x = probes(dtype).requires_grad_()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    loss = torch_loss(subject, target, gamma)(x)
                except Exception:
                    continue  # a gamma that is refused, as the report says
                (gradient,) = torch.autograd.grad((loss * torch.zeros_like(loss)).sum(), x)
            wrong = gradient != 0  # NaN is
            if bool(wrong.any()):
                first = int(torch.where(wrong, x.detach().abs().double(), torch.inf).argmin())
                yield Leak(
                    gamma=gamma,
                    target=target,
                    dtype=str(dtype).removeprefix("torch."),
                    logit=float(x.detach()[first]),
                    computed=float(gradient[first]),
                    share=float(wrong.double().mean()),
                )
