"""One way to call a loss, tried: whether a gradient comes back, and how it reduces."""

import math

import torch

from parfocal.audit.convention import GAMMAS
from parfocal.audit.evaluate import JAX_LENGTHS, Evaluated, evaluate, torch_loss
from parfocal.audit.fit import MILD
from parfocal.audit.subject import NoGradientError, Subject, SubjectError, in_a_line

# Logits of a first trial.
LOGITS = (-1.0, 0.5, 2.0, 0.25)


def tried(subject: Subject) -> Subject:
    """The subject with the way in which it reduces, and whether it refuses float64.

    Raises:
        Exception: whatever comes of a call that can't be made.
    """
    try:
        return _reduced(subject, torch.tensor(LOGITS, dtype=torch.float64))
    except Exception as wide:
        try:
            narrow = _reduced(subject, torch.tensor(LOGITS))
        except Exception:
            raise wide from None
        return narrow.with_options(refused={"float64": in_a_line(wide)[:160]})


def _reduced(subject: Subject, x: torch.Tensor) -> Subject:
    """The subject with `reduced` as a trial has it."""
    if subject.framework != "torch":
        return _reduced_elsewhere(subject, x)
    gamma = _some_gamma(subject, x)
    x = x.requires_grad_()
    wholes = [torch_loss(subject, y, gamma)(x) for y in (1.0, 0.0)]
    if not any(whole.requires_grad for whole in wholes):
        raise NoGradientError
    gradients = [torch.autograd.grad(w.sum(), x)[0] for w in wholes if w.requires_grad]
    if not any(bool(gradient.any()) for gradient in gradients):
        raise NoGradientError
    if wholes[0].ndim and wholes[0].numel() == len(x):
        return subject
    is_sum = True
    for y, whole in zip((1.0, 0.0), wholes, strict=True):
        one = torch_loss(subject, y, gamma)
        parts = torch.stack([one(part).detach().double() for part in x.split(1)]).sum()
        is_sum &= bool((whole.detach().double() - parts).abs() <= 1e-4 * parts.abs())
    reduced = subject.with_options(reduced="sum" if is_sum else "mean")
    return _with_companion(reduced, x.detach()[:1], gamma)


def _with_companion(subject: Subject, x: torch.Tensor, gamma: float) -> Subject:
    """Beside a negative a sure positive, where a mean over positives needs one."""
    if subject.kind != "binary" or subject.reduced != "mean":
        return subject
    beside = subject.with_options(companion=True)
    alone, with_one = (float(torch_loss(s, 0.0, gamma)(x).sum()) for s in (subject, beside))
    if not math.isfinite(with_one):
        return subject
    return subject if math.isfinite(alone) and abs(alone) <= 100 * abs(with_one) else beside


def _reduced_elsewhere(subject: Subject, x: torch.Tensor) -> Subject:
    """The same of JAX and NumPy, by gradients."""
    found = at_some_gamma(subject, x)
    if found.gradient is None or not bool(found.gradient.any()):
        raise NoGradientError
    if subject.framework != "jax" or found.value is not None:
        return subject
    alone = at_some_gamma(subject, x[:1])
    if alone.gradient is None:
        raise NoGradientError
    share = float(alone.gradient[0] / found.gradient[0])
    if abs(share - 1) < 1e-3:
        return subject.with_options(reduced="sum")
    if abs(share / JAX_LENGTHS[1] - 1) < 1e-3:
        return subject.with_options(reduced="mean")
    raise SubjectError("one number that is neither a sum nor a mean")


def _some_gamma(subject: Subject, x: torch.Tensor) -> float:
    """The first exponent that it takes.

    Raises:
        Exception: it takes none.
    """
    gammas = GAMMAS if subject.gamma is not None else (subject.fixed_gamma,)
    for gamma in gammas:
        try:
            torch_loss(subject, 1.0, gamma)(x.detach().requires_grad_())
        except Exception:
            if gamma == gammas[-1]:
                raise
        else:
            return gamma
    raise AssertionError


def at_some_gamma(subject: Subject, x: torch.Tensor) -> Evaluated:
    """Its results at target 1."""
    gamma = GAMMAS[0] if subject.gamma is not None else subject.fixed_gamma
    if subject.framework == "torch":
        gamma = _some_gamma(subject, x)
    return evaluate(subject, x, 1.0, gamma, second=False)


def is_sensible(subject: Subject) -> bool:
    """Whether a function that isn't known has finite gradients of both targets, and not 0 alone."""
    x = torch.tensor(MILD, dtype=subject.widest)
    for y in (1.0, 0.0):
        gamma = 2.0 if subject.gamma is not None else subject.fixed_gamma
        try:
            gradient = evaluate(subject, x, y, gamma, second=False).gradient
        except Exception:
            return False
        if gradient is None or not bool(gradient.isfinite().all()) or not bool(gradient.any()):
            return False
    return True
