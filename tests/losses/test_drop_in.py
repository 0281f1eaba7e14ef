"""What `docs/migrating.md` calls a change of the name alone takes every call of the original.

Names, order, defaults and kinds of parameters are read from the signatures; the calls themselves,
by position and by keyword, are made.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from parfocal import SoftmaxFocalLoss, sigmoid_focal_loss, softmax_focal_loss

X = torch.tensor([[2.0, -1.0, 0.5], [0.25, 1.0, -3.0]])
INDEX = torch.tensor([0, 2])
Y = torch.tensor([[1.0, 0.0, 0.25], [0.0, 1.0, 0.5]])
W = torch.tensor([0.5, 2.0, 1.0])

# Not taken: long deprecated by PyTorch in favour of `reduction`.
DEPRECATED = {"size_average", "reduce"}


class DropIn(NamedTuple):
    """A function and what stands in for it.

    positional: the parameters that keep their place. by_name: those that keep their name.
    """

    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    positional: tuple[str, ...]
    by_name: tuple[str, ...]

    def parameters(self, of: Callable[..., Any]) -> dict[str, inspect.Parameter]:
        """Those of a signature, without self."""
        return {n: p for n, p in inspect.signature(of).parameters.items() if n != "self"}


def _torchvision() -> Callable[..., Any]:
    ops = pytest.importorskip("torchvision.ops")
    return ops.sigmoid_focal_loss


def _drop_in(name: str) -> DropIn:
    if name == "torchvision":
        names = ("inputs", "targets", "alpha", "gamma", "reduction")
        return DropIn(sigmoid_focal_loss, _torchvision(), names, names)
    options = ("weight", "ignore_index", "reduction", "label_smoothing")
    if name == "F.cross_entropy":
        first = ("input", "target", "weight")
        return DropIn(softmax_focal_loss, F.cross_entropy, first, options)
    modules = SoftmaxFocalLoss.__init__, nn.CrossEntropyLoss.__init__
    return DropIn(*modules, ("weight",), options)


NAMES = ("torchvision", "F.cross_entropy", "nn.CrossEntropyLoss")


@pytest.mark.parametrize("name", NAMES)
def test_parameters_keep_name_and_default(name):
    """Whatever is called by keyword, and what is left out."""
    drop_in = _drop_in(name)
    ours, theirs = (drop_in.parameters(f) for f in (drop_in.ours, drop_in.theirs))
    for parameter in drop_in.by_name:
        assert parameter in ours
        assert ours[parameter].kind is not inspect.Parameter.POSITIONAL_ONLY
        assert ours[parameter].default == theirs[parameter].default, parameter


@pytest.mark.parametrize("name", NAMES)
def test_parameters_keep_their_place(name):
    """Those that come first, in their order; F's `input` may have another name besides."""
    drop_in = _drop_in(name)
    ours, theirs = (drop_in.parameters(f) for f in (drop_in.ours, drop_in.theirs))
    count = len(drop_in.positional)
    assert tuple(theirs)[:count] == drop_in.positional
    first = [n.removesuffix("s") if name != "torchvision" else n for n in tuple(ours)[:count]]
    assert tuple(first) == drop_in.positional
    for parameter in tuple(ours)[:count]:
        assert ours[parameter].kind in (
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            inspect.Parameter.POSITIONAL_ONLY,
        )


@pytest.mark.parametrize("name", NAMES)
def test_nothing_else_is_missing(name):
    """What the original takes and this doesn't: what is deprecated there, and nothing more."""
    drop_in = _drop_in(name)
    theirs = set(drop_in.parameters(drop_in.theirs))
    expected = set() if name == "torchvision" else DEPRECATED
    assert theirs - set(drop_in.positional) - set(drop_in.by_name) == expected
    for parameter in expected:
        assert parameter not in drop_in.parameters(drop_in.ours)


def test_calls_of_torchvision():
    """All five parameters, by position and by keyword."""
    theirs = _torchvision()
    for arguments, options in (
        ((X, Y), {}),
        ((X, Y, 0.5, 1.5, "mean"), {}),
        ((), {"inputs": X, "targets": Y, "alpha": -1, "gamma": 3.0, "reduction": "sum"}),
        ((X,), {"targets": Y, "reduction": "none"}),
    ):
        ours = sigmoid_focal_loss(*arguments, **options)
        torch.testing.assert_close(ours, theirs(*arguments, **options))


# Positional and named arguments as F.cross_entropy gets them.
CROSS_ENTROPY_CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "by position": ((X, INDEX), {}),
    "weight by position": ((X, INDEX, W), {}),
    "by keyword": ((), {"input": X, "target": INDEX}),
    "target by keyword": ((X,), {"target": INDEX}),
    "weight by keyword": ((), {"input": X, "target": INDEX, "weight": W}),
    "in another order": ((), {"target": INDEX, "reduction": "sum", "input": X}),
    "all": (
        (),
        {
            "input": X,
            "target": INDEX,
            "weight": W,
            "ignore_index": 2,
            "reduction": "none",
            "label_smoothing": 0.1,
        },
    ),
}


@pytest.mark.parametrize("call", CROSS_ENTROPY_CALLS)
def test_calls_of_cross_entropy(call):
    """The same call of both, at gamma 0."""
    arguments, options = CROSS_ENTROPY_CALLS[call]
    ours = softmax_focal_loss(*arguments, **options, gamma=0)
    torch.testing.assert_close(ours, F.cross_entropy(*arguments, **options))


@pytest.mark.parametrize("call", CROSS_ENTROPY_CALLS)
def test_calls_of_the_cross_entropy_module(call):
    """Options to the constructor, `input` and `target` to the call."""
    arguments, options = CROSS_ENTROPY_CALLS[call]
    data = {n: v for n, v in options.items() if n in ("input", "target")}
    made = {n: v for n, v in options.items() if n not in data}
    if len(arguments) == 3:
        made["weight"] = arguments[2]
    first = arguments[:2]
    ours = SoftmaxFocalLoss(**made, gamma=0)(*first, **data)
    torch.testing.assert_close(ours, nn.CrossEntropyLoss(**made)(*first, **data))
    if "weight" in made:
        weight = made.pop("weight")
        ours = SoftmaxFocalLoss(weight, **made, gamma=0)(*first, **data)
        torch.testing.assert_close(ours, nn.CrossEntropyLoss(weight, **made)(*first, **data))


@pytest.mark.parametrize("loss", [softmax_focal_loss, SoftmaxFocalLoss()])
def test_our_own_names_are_taken_too(loss):
    """`inputs` and `targets`, as in every other loss here."""
    torch.testing.assert_close(loss(inputs=X, targets=INDEX), loss(X, INDEX))


@pytest.mark.parametrize("loss", [softmax_focal_loss, SoftmaxFocalLoss()])
@pytest.mark.parametrize(
    "options",
    [
        {"input": X, "inputs": X, "targets": INDEX},
        {"input": X, "target": INDEX, "targets": INDEX},
        {"input": X},
        {"target": INDEX},
        {"input": X, "target": INDEX, "size_average": True},
        {"input": X, "target": INDEX, "reduce": False},
    ],
    ids=" ".join,
)
def test_what_is_given_twice_or_not_at_all(loss, options):
    """A TypeError, as for every Python function."""
    with pytest.raises(TypeError):
        loss(**options)
