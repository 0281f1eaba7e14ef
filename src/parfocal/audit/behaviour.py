"""What makes a loss no function of a logit and a target: chance, state, its batch, side effects.

A grid of logits can't judge such a loss, so that these are asked first.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from parfocal.audit.evaluate import arguments, evaluate, tensor_of
from parfocal.audit.fit import MILD
from parfocal.audit.subject import Subject

# As often it is called with the same arguments.
_CALLS = 64

_NEAR = 1e-3


class Behaviour(NamedTuple):
    """What was found, in words, and whether a logit and a target still have one loss."""

    words: tuple[str, ...] = ()
    is_function: bool = True


def behaviour_of(subject: Subject) -> Behaviour:
    """Nothing is said of a loss that is a function."""
    gamma = 2.0 if subject.gamma is not None else subject.fixed_gamma
    try:
        other = _varies(subject, gamma) or _mixes(subject, gamma)
        writes = _writes(subject, gamma)
    except Exception:  # a gamma that is refused, as the report says
        return Behaviour()
    return Behaviour(tuple(words for words in (other, writes) if words), not other)


def _varies(subject: Subject, gamma: float) -> str:
    """The same call again and again: a seed that is drawn, or a count of steps, shows."""
    x = torch.tensor(MILD, dtype=subject.widest)
    first = evaluate(subject, x, 1.0, gamma, second=False).gradient
    count = _CALLS if subject.framework == "torch" and subject.reduced != "mean" else 3
    for _ in range(count):
        again = evaluate(subject, x, 1.0, gamma, second=False).gradient
        if first is None or again is None:
            return ""
        if not torch.allclose(again, first, rtol=_NEAR, equal_nan=True):
            return "the same call gives another result: chance, or a state that it keeps"
    return ""


def _mixes(subject: Subject, gamma: float) -> str:
    """The gradient of a logit beside others, and alone."""
    if subject.reduced == "mean":
        return ""
    x = torch.tensor(MILD, dtype=subject.widest)
    among = evaluate(subject, x, 1.0, gamma, second=False).gradient
    alone = [evaluate(subject, one, 1.0, gamma, second=False).gradient for one in x.split(1)]
    if among is None or any(gradient is None for gradient in alone):
        return ""
    singles = torch.cat([gradient for gradient in alone if gradient is not None])
    size = among.abs().amax()
    is_same = bool(((singles - among).abs() <= _NEAR * size).all()) or not bool(size.isfinite())
    return "" if is_same else "the gradient of a logit depends on the others of its batch"


def _writes(subject: Subject, gamma: float) -> str:
    """Whether it writes to what it is given."""
    if subject.framework != "torch":
        return ""
    x = torch.tensor(MILD, dtype=subject.widest, device=subject.device)
    y = (torch.arange(len(x), device=subject.device) % 2).to(x)
    given: tuple[Tensor, ...] = tuple(t.detach().clone() for t in arguments(subject, x, y))
    before = [t.clone() for t in given]
    tensor_of(subject.at(gamma)(*given))
    changed = [name for name, now, old in zip(("logits", "targets"), given, before, strict=True)
               if not torch.equal(now, old)]  # fmt: skip
    return f"it writes to the {' and the '.join(changed)} that it is given" if changed else ""
