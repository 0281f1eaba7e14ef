"""Random calls of the public losses: every dtype, shape, layout and option, at any logit.

A call is drawn from a seed and an index, and from nothing else.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

import parfocal
from fuzzing.chance import (
    BINARY,
    HAS_ALPHA_TENSOR,
    INTEGERS,
    LOGITS,
    LOSSES,
    OF_CLASSES,
    TAKES_INDICES,
    Draw,
    module_of,
    parameters,
    takes,
)
from fuzzing.nonsense import NONSENSE

WAYS = ("grad", "backward", "twice", "create_graph", "no_grad", "frozen", "autocast", "two threads")
# What is drawn in turn: the losses with most ways of their own more often.
_MANY = LOSSES + 4 * ("softmax_focal_loss",) + 2 * ("sigmoid_focal_loss",)
# An odd number, so that nonsense, each eighth call, is drawn of all.
_ROUND = _MANY + ("poly_focal_loss",) * (1 - len(_MANY) % 2)


class Call(NamedTuple):
    """One call.

    arguments: by the names of the parameters, in their order.
    positional: how many of them are given by position.
    is_module: whether options that are no data go to the constructor of the loss's Module.
    way: how the gradient is asked for, one of WAYS.
    incoming: the seed of the gradient that comes in.
    wrong: what has to be refused, in words; "" for a call that is right.
    features: what it is an example of.
    """

    name: str
    arguments: dict[str, Any]
    positional: int
    is_module: bool
    way: str
    incoming: int
    wrong: str
    features: frozenset[str]


def draw(seed: int, index: int) -> Call:
    """The call of a seed and an index; each eighth is nonsense, of every kind in turn."""
    d = Draw(seed, index)
    name, wrong = _ROUND[index % len(_ROUND)], ""
    arguments = _arguments(d, name)
    if index % 8 == 7:
        wrong = tuple(NONSENSE)[index // 8 % len(NONSENSE)]
        fits, change = NONSENSE[wrong]
        while not fits(name, arguments):
            name = d.random.choice(_ROUND)
            d.features.clear()
            arguments = _arguments(d, name)
        change(d, name, arguments)
    way = d.pick(*WAYS)
    positional = d.pick(2, 2, len(arguments))
    arguments = {n: arguments[n] for n in parameters(name) if n in arguments}
    is_module = not wrong and module_of(name) is not None and d.chance(0.25)
    if is_module:
        d.note(f"module {module_of(name).__name__}")
    names = list(arguments)
    while positional > 2 and names[:positional] != list(parameters(name)[:positional]):
        positional -= 1
    positional = min(positional, _most_positional(name))
    inputs, targets = (arguments[n] for n in parameters(name)[:2])
    if not wrong:
        d.note(f"way {way}", f"logits {inputs.dtype}", f"targets {targets.dtype}")
        d.note(*(f"{name}({n}=)" for n in names))
    d.note(f"wrong {wrong}" if wrong else "right")
    return Call(
        name,
        arguments,
        positional,
        is_module,
        way,
        d.random.getrandbits(62),
        wrong,
        frozenset(d.features),
    )


def _arguments(d: Draw, name: str) -> dict[str, Any]:
    """Arguments of a loss that are right."""
    if name == "focal_matching_cost":
        return _matching(d)
    if name in BINARY:
        return _binary(d, name)
    return _classes(d, name) if name in OF_CLASSES else _regions(d, name)


@cache
def _most_positional(name: str) -> int:
    kinds = [p.kind for p in inspect.signature(getattr(parfocal, name)).parameters.values()]
    return sum(kind == inspect.Parameter.POSITIONAL_OR_KEYWORD for kind in kinds)


def _poisoned(d: Draw, given: Tensor, mask: Tensor | None) -> Tensor:
    """Garbage where a position doesn't count."""
    if mask is None:
        return given
    if given.is_floating_point():
        garbage = d.pick(
            torch.nan, torch.inf, -torch.inf, 1e30 if given.element_size() > 2 else 6e4
        )
    elif given.dtype == torch.bool:
        return given
    else:
        garbage = d.pick(77, 120)
    return torch.where((mask != 0).expand(given.shape), given, garbage).to(given.dtype)


def _options(d: Draw, **of: Callable[[], Any]) -> dict[str, Any]:
    """Some of the options."""
    return {name: make() for name, make in of.items() if d.chance(0.45)}


def _reduction(d: Draw, arguments: dict[str, Any], *, normalizer: bool) -> None:
    if d.chance(0.75):
        arguments["reduction"] = d.pick("none", "mean", "sum")
        d.note(f"reduction {arguments['reduction']}")
    if normalizer and arguments.get("reduction") == "sum" and d.chance(0.5):
        arguments["normalizer"] = d.normalizer()


_SHAPES: tuple[tuple[int, ...], ...] = (
    (),
    (1,),
    (0,),
    (7,),
    (3, 0),
    (4, 5),
    (1, 1),
    (64, 3),
    (2, 3, 4, 5),
    (2, 1, 3, 3),
    (300,),
    (3000,),
)


def _binary(d: Draw, name: str) -> dict[str, Any]:
    """A loss of one logit and one target."""
    shape = d.random.choice(_SHAPES)
    if d.chance(0.01):
        shape = d.pick((2**18 + 1000,), (2, 3, 210, 211))
        d.note("several blocks")
    d.note(f"{len(shape)} dimensions", *(["empty"] if 0 in shape else []))
    dtype = d.pick(*LOGITS)
    hard = d.uniform(shape) < d.pick(0.1, 0.5)
    if d.chance(0.45):
        targets = hard.to(d.pick(torch.bool, *INTEGERS))
    else:
        y = hard.double()
        if d.chance(0.5):
            kind = d.uniform(shape)
            soft = d.uniform(shape) ** d.pick(1, 1, 4)
            y = torch.where(kind < 0.6, soft, y)
            d.note("soft targets")
        targets = d.expanded(y.to(d.pick(*LOGITS)))
    right = targets.double().mul(2).sub(1).sign()
    x = d.expanded(d.logits(right, infinite=True).to(dtype))
    if name in TAKES_INDICES and len(shape) > 1 and d.chance(0.3):
        d.note("class indices of a sigmoid")
        index = d.integers((*shape[:1], *shape[2:]), shape[1] + 1)
        targets = d.expanded(index.to(d.pick(*INTEGERS)))
    options = _binary_options(d, name, shape, targets)
    arguments = _options(d, **{n: make for n, make in options.items() if n in parameters(name)})
    if name == "asymmetric_loss":
        _keep_from_the_cusp(d, arguments)
    _reduction(d, arguments, normalizer=True)
    mask = arguments.get("mask")
    of_targets = mask
    if mask is not None and targets.ndim < len(shape):  # a row counts if any of its classes does
        of_targets = (mask != 0).expand(shape).any(1)
    x, targets = d.layout(_poisoned(d, x, mask)), d.layout(_poisoned(d, targets, of_targets))
    weight = arguments.get("weight")
    if weight is not None and mask is not None and d.chance(0.5):
        arguments["weight"] = _poisoned(d, weight.expand(shape), mask)
    return {"inputs": x, "targets": targets, **arguments}


def _binary_options(
    d: Draw, name: str, shape: Sequence[int], targets: Tensor
) -> dict[str, Callable[[], Any]]:
    """How the options of a loss of one logit are drawn."""
    options: dict[str, Callable[[], Any]] = {
        "gamma": lambda: d.gamma(shape),
        "weight": lambda: d.learned(d.weight(d.broadcast(shape))),
        "mask": lambda: d.mask(shape),
    }
    if name in HAS_ALPHA_TENSOR:
        options["alpha"] = lambda: d.alpha(shape)
    elif name == "varifocal_loss":
        options["alpha"] = lambda: d.number(d.share())
    if name == "sigmoid_focal_loss":
        options["epsilon"] = lambda: d.number(d.pick(0.0, 1e-3, 0.1, 1.0))
    if name == "poly_focal_loss":
        options["epsilon_1"] = lambda: d.number(d.pick(1.0, 0.0, -0.5, 2.5, -1.0))
    if name == "gaussian_focal_loss":
        options["beta"] = lambda: d.number(d.exponent())
    if name == "quality_focal_loss":
        least = 1.0 if targets.is_floating_point() else 0.0
        options["beta"] = lambda: d.number(max(least, d.exponent()))
    if name == "asymmetric_loss":
        options["margin"] = lambda: d.number(d.pick(0.0, 0.05, 0.25, 0.5))
        options["gamma_neg"] = lambda: d.gamma(shape)
        options["gamma_pos"] = lambda: d.gamma(shape)
    return options


def _keep_from_the_cusp(d: Draw, arguments: dict[str, Any]) -> None:
    """An exponent of the negatives that is 0 or at least 1, where there is a margin."""
    gamma = arguments.get("gamma_neg")
    if gamma is None or float(arguments.get("margin", 0.05)) == 0:
        return
    if isinstance(gamma, Tensor):
        arguments["gamma_neg"] = torch.where(gamma < 1, torch.zeros_like(gamma), gamma)
    elif 0 < float(gamma) < 1:
        arguments["gamma_neg"] = d.number(1.0 + float(gamma))


def _matching(d: Draw) -> dict[str, Any]:
    """Queries and the classes of objects."""
    classes = d.pick(1, 2, 5, 40)
    shape = (*d.pick((), (2,), (0,)), d.pick(0, 1, 30), classes)
    dtype = d.pick(*LOGITS)
    x = d.logits(d.normal(shape).sign(), infinite=False).to(dtype)
    labels = d.integers((d.pick(0, 1, 4, 60),), classes).to(d.pick(*INTEGERS))
    options = _options(d, alpha=lambda: d.number(d.share()), gamma=lambda: d.number(d.exponent()))
    return {"inputs": d.layout(x), "labels": d.layout(labels), **options}


def _class_targets(
    d: Draw, shape: Sequence[int], classes: int, *, indices: bool = False
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Targets, the classes that are right (N, ...), and `ignore_index` if it is used.

    indices: whether no target may be probabilities.
    """
    labels = d.integers(shape, classes)
    if not indices and d.chance(0.25):
        whole = (*shape[:1], classes, *shape[1:]) if shape else (classes,)
        y = d.uniform(whole) ** 3
        dim = 1 if shape else 0
        y = y / y.sum(dim, keepdim=True) if d.chance(0.8) else y
        if d.chance(0.3):
            y = torch.nn.functional.one_hot(labels, classes).double().movedim(-1, dim)
        d.note("class probabilities")
        return d.expanded(y.to(d.pick(*LOGITS))), labels, {}
    d.note("class indices")
    kinds = [k for k in INTEGERS if classes - 1 <= torch.iinfo(k).max]
    targets = labels.to(d.random.choice(kinds))
    if not d.chance(0.5):
        return targets, labels, {}
    limits = torch.iinfo(targets.dtype)
    index = d.pick(-100, -1, 255, classes - 1, 0)
    options: dict[str, Any] = {"ignore_index": index}
    if takes("several ignore_index") and d.chance(0.4):
        options["ignore_index"] = d.pick(tuple, list)((index, d.pick(-2, 254, 0)))
        d.note("several ignore_index")
    if limits.min <= index <= limits.max:
        targets = torch.where(d.uniform(shape) < 0.3, index, targets).to(targets.dtype)
    return targets, labels, options


def _ignored(targets: Tensor, arguments: dict[str, Any], shape: Sequence[int]) -> Tensor:
    """Where positions count."""
    counts = torch.ones(tuple(shape), dtype=torch.bool)
    if not targets.is_floating_point():
        index = arguments.get("ignore_index", -100)
        for one in [index] if isinstance(index, int) else index:
            counts = counts & (targets.long() != one)
    mask = arguments.get("mask")
    return counts if mask is None else counts & (mask != 0)


def _class_logits(d: Draw, labels: Tensor, classes: int, *, infinite: bool) -> Tensor:
    """Logits (N, C, ...) in float64; the truth of two infinite ones in a row is not known."""
    dim = 1 if labels.ndim else 0
    is_own = torch.nn.functional.one_hot(labels, classes).movedim(-1, dim)
    x = d.logits(is_own.double(), infinite=infinite)
    if x.isinf().any():
        first = x.isinf() & (x.isinf().cumsum(dim) == 1)
        x = torch.where(x.isinf() & ~first, 0.0, x)
    return x


def _poisoned_rows(d: Draw, x: Tensor, targets: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Garbage where a position doesn't count, also labels that are no class."""
    if not d.chance(0.6) or counts.all():
        return x, targets
    d.note("garbage where nothing counts")
    rows = counts.unsqueeze(1 if counts.ndim else 0)
    x = _poisoned(d, x, rows)
    if targets.is_floating_point():
        targets = _poisoned(d, targets, rows)
    return x, targets


def _classes(d: Draw, name: str) -> dict[str, Any]:
    """A loss of classes that exclude each other."""
    classes = d.pick(1, 2, 3, 3, 5, 10, 21)
    shape = d.pick((), (0,), (1,), (8,), (40,), (2, 0), (2, 5), (2, 4, 3), (3, 2, 2, 2), (400,))
    if d.chance(0.05):
        classes, shape = d.pick(200, 256, 300), (5,)
        d.note("hundreds of classes")
    elif d.chance(0.015):
        classes, shape = d.pick((3, (2**17,)), (2, (2, 300, 301)))
        d.note("several blocks")
    whole = (*shape[:1], classes, *shape[1:]) if shape else (classes,)
    d.note(f"{len(whole)} dimensions of classes", *(["no rows"] if 0 in shape else []))
    of_indices = name != "softmax_focal_loss"
    targets, labels, arguments = _class_targets(d, shape, classes, indices=of_indices)
    x = d.expanded(_class_logits(d, labels, classes, infinite=True).to(d.pick(*LOGITS)))
    options: dict[str, Callable[[], Any]] = {
        "weight": lambda: d.learned(d.weight((classes,))),
        **dict.fromkeys(("gamma", "gamma_neg", "gamma_pos"), lambda: d.gamma(whole)),
        "label_smoothing": lambda: d.number(d.pick(0.0, 0.1, 0.5, 1.0)),
        "epsilon": lambda: d.number(d.pick(0.0, 1e-3, 0.1)),
        "mask": lambda: d.mask(shape),
        "position_weight": lambda: d.learned(d.weight(d.broadcast(shape))),
    }
    rare = {"label_smoothing", "epsilon"}
    for option, make in options.items():
        if option in parameters(name) and d.chance(0.2 if option in rare else 0.4):
            arguments[option] = make()
    _reduction(d, arguments, normalizer=True)
    counts = _ignored(targets, arguments, shape)
    x, targets = _poisoned_rows(d, x, targets, counts)
    mask = arguments.get("mask")
    if mask is not None and not targets.is_floating_point():
        targets = _poisoned(d, targets, mask) if d.chance(0.4) else targets
    return {"inputs": d.layout(x), "targets": d.layout(targets), **arguments}


def _regions(d: Draw, name: str) -> dict[str, Any]:
    """Tversky and unified losses."""
    classes = d.pick(1, 2, 3, 4)
    maps = d.pick((1,), (5,), (4, 3), (7, 8), (2, 3, 2), (0, 4), (16, 16))
    shape = (d.pick(1, 2, 2, 3, 0), classes, *maps)
    if d.chance(0.01):
        shape = (1, 2, 370, 371)
        d.note("several blocks")
    classes = shape[1]
    d.note(*(["empty regions"] if 0 in shape else []))
    is_sigmoid = name.startswith("sigmoid")
    positions = (*shape[:1], *shape[2:])
    arguments: dict[str, Any] = {}
    if is_sigmoid:
        hard = d.uniform(shape) < d.pick(0.0, 0.1, 0.5, 1.0)
        y = hard.double()
        if d.chance(0.4):
            y = torch.where(d.uniform(shape) < 0.5, d.uniform(shape), y)
            d.note("soft regions")
            targets = y.to(d.pick(*LOGITS))
        else:
            targets = y.to(d.pick(torch.bool, *INTEGERS, *LOGITS))
        x = d.logits(targets.double() * 2 - 1, infinite=False)
    else:
        targets, labels, arguments = _class_targets(d, positions, classes)
        x = _class_logits(d, labels, classes, infinite=False)
    x = d.expanded(x.to(d.pick(*LOGITS)))
    options: dict[str, Callable[[], Any]] = {
        "smooth": lambda: d.number(d.pick(1.0, 0.0, 0.0, 1e-5, 100.0)),
        "per_image": lambda: d.chance(0.5),
        "weight": lambda: d.weight((classes,)),
        "mask": lambda: d.mask(shape if is_sigmoid else positions),
    }
    if "unified" in name:
        options["delta"] = lambda: d.number(d.share())
        options["gamma"] = lambda: d.number(d.pick(0.0, 0.5, 0.75, 0.3 * d.random.random()))
        options["balance"] = lambda: d.number(d.share())
        options["background"] = lambda: d.random.randrange(classes)
    else:
        options["alpha"] = lambda: d.number(d.pick(0.7, 0.5, 0.0, 0.0, 1.0, 2.0))
        options["beta"] = lambda: d.number(d.pick(0.3, 0.5, 0.0, 0.0, 1.0))
        options["gamma"] = lambda: d.number(d.pick(4 / 3, 1.0, 0.5, 2.0, 3.0))
    for option, make in options.items():
        if option in parameters(name) and d.chance(0.35):
            arguments[option] = make()
    if "reduction" in parameters(name):
        _reduction(d, arguments, normalizer=False)
    if is_sigmoid:
        mask = arguments.get("mask")
        x, targets = _poisoned(d, x, mask), _poisoned(d, targets, mask)
    else:
        x, targets = _poisoned_rows(d, x, targets, _ignored(targets, arguments, positions))
    return {"inputs": d.layout(x), "targets": d.layout(targets), **arguments}
