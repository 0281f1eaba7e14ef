"""What torch gives: each loss with its gradient, and MKL's functions rounded once.

As a script, `libraries.py OUT`, it writes all that the tests compare the page with.
"""

import sys
from functools import cache

import mpmath
import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import parfocal.numerics.autograd
import parfocal.numerics.tracing
from parfocal import sigmoid_focal_loss
from parfocal.floats import neighbourhood, representable
from parfocal.numerics.closed_form import BRANCH_BOUNDS

GAMMAS = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

ALPHA, EPSILON, SOFT = 0.3, 1e-3, 0.3

# The largest exp(x) of float32, from which parfocal's quick form leaves all of a tensor.
OVERFLOW = 88.7

# Where a gradient of torchvision's ends, in one dtype or another.
CLIFFS = (6.25, 8.32, 16.635532, 17.328680, 36.736801, 37.429948)


def torchvision(x, y, gamma, alpha, epsilon):
    from torchvision.ops import sigmoid_focal_loss as loss

    return loss(x, y, alpha=-1 if alpha is None else alpha, gamma=gamma)


def monai(x, y, gamma, alpha, epsilon):
    from monai.losses.focal_loss import sigmoid_focal_loss as loss

    return loss(x, y, gamma=gamma, alpha=alpha)


def kornia(x, y, gamma, alpha, epsilon):
    from kornia.losses import binary_focal_loss_with_logits as loss

    return loss(x[:, None], y[:, None], alpha=alpha, gamma=gamma)[:, 0]


def smoothed(x, y, gamma, alpha, epsilon):
    return sigmoid_focal_loss(x, y, alpha=alpha, gamma=gamma, epsilon=epsilon)


def exact(x, y, gamma, alpha, epsilon):
    return sigmoid_focal_loss(x, y, alpha=alpha, gamma=gamma)


LOSSES = {f.__name__: f for f in (torchvision, monai, kornia, smoothed, exact)}


def evaluate(loss, x, target, gamma, alpha, epsilon):
    """The loss of each logit, and the gradient of their sum."""
    x = x.clone().requires_grad_()
    value = LOSSES[loss](x, torch.full_like(x, target), gamma, alpha, epsilon)
    (gradient,) = torch.autograd.grad(value, x, torch.ones_like(value))
    return value.detach(), gradient


def logits(dtype):
    """A thousand logits, in whole vectors: up to OVERFLOW, beyond it on either side, NaN.

    Spaced over the numbers of the dtype, subnormal ones among them, with the neighbours of every
    cliff and of every bound of a branch; and both zeros and both infinities. parfocal computes all
    of a tensor in the way that its farthest logit needs, the page each logit in its own.
    """
    tiny = float(torch.finfo(dtype).tiny)
    spread = representable(dtype, 340, smallest=2.0**-8, largest=OVERFLOW)
    small = representable(dtype, 60, smallest=0.0, largest=min(16 * tiny, 1.0))
    edges = neighbourhood(dtype, [0.0, *CLIFFS, *BRANCH_BOUNDS])
    near = torch.cat([spread, small, edges])
    beyond = torch.cat([representable(dtype, 50, smallest=90.0), edges])
    far = torch.cat([beyond[beyond.double() >= 90], torch.tensor([torch.inf], dtype=dtype)])
    parts = near[near.double().abs() <= OVERFLOW], far, -far, far[:1] * torch.nan
    return [_whole(part) for part in parts]


def _whole(x, length=64):
    """The rest of a vector is filled up: torch computes a tensor's last few elements otherwise."""
    return torch.cat([x, x[:1].expand(-len(x) % length)])


class RoundedOnce(TorchDispatchMode):
    """torch with an exp and a square root of float32 and float64 that are rounded correctly.

    Its own are MKL's, whose last bit depends on the processor.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, x = func._schema.name, args[0] if args else None
        result = None
        if isinstance(x, torch.Tensor) and x.dtype in (torch.float32, torch.float64):
            if name in ("aten::exp", "aten::exp_"):
                result = torch.tensor([_exp(v) for v in x.flatten().tolist()], dtype=x.dtype)
                result = result.reshape(x.shape)
            elif name in ("aten::pow", "aten::pow_") and args[1] == 0.5:
                result = torch.from_numpy(np.sqrt(x.numpy(force=True)))
        if result is None:
            return func(*args, **(kwargs or {}))
        return x.copy_(result) if name.endswith("_") else result

    def __enter__(self):
        # parfocal asks who looks on, and computes otherwise then.
        self._asked = [parfocal.numerics.tracing, parfocal.numerics.autograd]
        self._answers = [module.is_traced for module in self._asked]
        for module in self._asked:
            module.is_traced = bool
        return super().__enter__()

    def __exit__(self, *error):
        for module, answer in zip(self._asked, self._answers, strict=True):
            module.is_traced = answer
        return super().__exit__(*error)


@cache
def _exp(x):
    with np.errstate(over="ignore"), mpmath.workprec(120):
        return float(mpmath.exp(x)) if np.isfinite(x) else float(np.exp(x))


def references():
    """The results of every cell, by (is rounded once, loss, dtype, target, gamma, part of logits).

    At soft targets of gamma 1.5 without alpha, of the nearest logits; of MKL's own functions those
    of float32 and float64 at target 1.
    """
    found = {}
    for name in LOSSES:
        for dtype in DTYPES:
            parts = logits(dtype)
            with RoundedOnce():
                for target in (1.0, 0.0):
                    for gamma in GAMMAS:
                        for part, x in enumerate(parts):
                            key = True, name, dtype, target, gamma, part
                            found[key] = evaluate(name, x, target, gamma, ALPHA, EPSILON)
                key = True, name, dtype, SOFT, 1.5, 0
                found[key] = evaluate(name, parts[0], SOFT, 1.5, None, EPSILON)
            for gamma in GAMMAS if dtype.itemsize > 2 else ():
                key = False, name, dtype, 1.0, gamma, 0
                found[key] = evaluate(name, parts[0], 1.0, gamma, ALPHA, EPSILON)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.save((torch.backends.cpu.get_cpu_capability(), references()), sys.argv[1])
