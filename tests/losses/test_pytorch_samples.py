"""At gamma 0 the losses are PyTorch's own: on its sample inputs, and on what it refuses.

The samples are those with which PyTorch tests itself. They are not public, so that a release may
move them; where they can't be had, the tests that need them say so and are skipped.

A change is a sample with something unusual about it. Whether PyTorch takes it, and what it gives,
is asked of PyTorch itself; `DIFFERENCES` names every one where we answer otherwise, and why.
"""

import importlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parfocal import SigmoidFocalLoss, SoftmaxFocalLoss, sigmoid_focal_loss, softmax_focal_loss

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class Sample(NamedTuple):
    """Logits, targets and options of one of PyTorch's two losses."""

    name: str
    input: Any
    target: Any
    options: dict[str, Any]

    def to(self, dtype: torch.dtype) -> "Sample":
        """Everything that is a floating tensor in another dtype, as leaves of a new graph."""
        options = {name: _leaf(given, dtype) for name, given in self.options.items()}
        return Sample(self.name, _leaf(self.input, dtype), _leaf(self.target, dtype), options)

    def leaves(self) -> list[Tensor]:
        """What gradients are asked of."""
        return [t for t in (self.input, self.target) if t.requires_grad]


def _leaf(given: Any, dtype: torch.dtype) -> Any:
    if not isinstance(given, Tensor) or not given.is_floating_point():
        return given
    return given.detach().to(dtype, copy=True).requires_grad_(given.requires_grad)


def _internal(module: str) -> Any:
    """A module of PyTorch's own tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(f"torch.testing._internal.{module}")
        except ImportError as error:
            pytest.skip(f"this PyTorch's own samples can't be imported: {error}")


def op_samples(operator: str, dtype: torch.dtype) -> Iterator[Sample]:
    """Those of an operator."""
    database = _internal("common_methods_invocations").op_db
    (operation,) = (o for o in database if o.name == f"nn.functional.{operator}")
    for count, sample in enumerate(operation.sample_inputs("cpu", dtype, requires_grad=True)):
        yield Sample(f"{operator} {count}", sample.input, sample.args[0], dict(sample.kwargs))


def module_samples(module: type, dtype: torch.dtype) -> Iterator[Sample]:
    """Those of a Module."""
    (info,) = (m for m in _internal("common_modules").module_db if m.module_cls is module)
    given = info.module_inputs_func(info, torch.device("cpu"), dtype, True, True)
    for count, sample in enumerate(given):
        x, y = sample.forward_input.args
        name = f"{module.__name__} {count} {sample.desc}"
        yield Sample(name, x, y, dict(sample.constructor_input.kwargs))


def our_cross_entropy(sample: Sample) -> Tensor:
    """F.cross_entropy of a sample, from us."""
    options = dict(sample.options)
    weight = options.pop("weight", None)
    return softmax_focal_loss(sample.input, sample.target, weight, 0, **options)


def their_cross_entropy(sample: Sample) -> Tensor:
    """F.cross_entropy itself."""
    return F.cross_entropy(sample.input, sample.target, **sample.options)


def our_bce(sample: Sample) -> Tensor:
    """F.binary_cross_entropy_with_logits of a sample, from us."""
    options = {"reduction": "mean", **sample.options}
    pos_weight = options.pop("pos_weight", None)
    if pos_weight is not None:
        factor = 1 + (pos_weight - 1) * sample.target.detach()
        options["weight"] = factor * options.get("weight", torch.ones_like(factor))
    return sigmoid_focal_loss(sample.input, sample.target, None, 0, **options)


def their_bce(sample: Sample) -> Tensor:
    """F.binary_cross_entropy_with_logits itself."""
    return F.binary_cross_entropy_with_logits(sample.input, sample.target, **sample.options)


Loss = Callable[[Sample], Tensor]


def assert_same(ours: Loss, theirs: Loss, sample: Sample, dtype: torch.dtype) -> None:
    """Value and gradients of ours in dtype, beside those of theirs in float64.

    The weights of the samples have both signs: terms cancel, and an error is relative to the sum
    of their absolute values.
    """
    mine, truth = sample.to(dtype), sample.to(dtype).to(torch.float64)
    value, exact = ours(mine), theirs(truth)
    assert value.dtype == dtype, sample.name
    assert value.shape == exact.shape, sample.name
    near = 16 * torch.finfo(dtype).eps
    # Theirs is the logarithm of a sum around 1, which is off by an ULP of the logits at least.
    least = torch.finfo(dtype).smallest_normal * near
    off = 32 * torch.finfo(torch.float64).eps * float(truth.input.detach().abs().max())
    tolerance = near * _scale(theirs, truth, exact.detach()) + off + least
    difference = (value.detach().double() - exact.detach()).abs()
    assert bool(((difference <= tolerance) | (value.isnan() & exact.isnan())).all()), sample.name
    gradients = torch.autograd.grad(value.sum(), mine.leaves())
    for gradient, expected in zip(
        gradients, torch.autograd.grad(exact.sum(), truth.leaves()), strict=True
    ):
        assert gradient.dtype == dtype
        largest = float(expected.abs().max()) if expected.numel() else 0.0
        torch.testing.assert_close(
            gradient.double(), expected, rtol=near, atol=near * largest + 1e-14, msg=sample.name
        )


def _scale(theirs: Loss, sample: Sample, value: Tensor) -> Tensor:
    """The value with absolute weights, and the divisor of a mean as it is."""
    if "weight" not in sample.options:
        return value.abs()
    absolute = sample.options["weight"].abs()
    if sample.options.get("reduction", "mean") != "mean":
        return theirs(sample._replace(options={**sample.options, "weight": absolute})).detach()
    total = theirs(sample._replace(options={**sample.options, "reduction": "sum"})).detach()
    options = {**sample.options, "weight": absolute, "reduction": "sum"}
    return theirs(sample._replace(options=options)).detach() * (value / total).abs()


@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy_of_their_samples(dtype):
    """Each sample of F.cross_entropy."""
    samples = list(op_samples("cross_entropy", dtype))
    assert len(samples) >= 20
    for sample in samples:
        assert_same(our_cross_entropy, their_cross_entropy, sample, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy_module_of_their_samples(dtype):
    """Each sample of nn.CrossEntropyLoss, which has images, smoothing and ignored classes."""
    samples = list(module_samples(nn.CrossEntropyLoss, dtype))
    assert len(samples) >= 90
    for sample in samples:
        leaf = sample._replace(input=sample.input.detach().requires_grad_())
        assert_same(
            lambda s: SoftmaxFocalLoss(gamma=0, **s.options)(s.input, s.target),
            lambda s: nn.CrossEntropyLoss(**s.options)(s.input, s.target),
            leaf,
            dtype,
        )


@pytest.mark.parametrize("dtype", DTYPES)
def test_bce_of_their_samples(dtype):
    """Each sample of F.binary_cross_entropy_with_logits; a pos_weight beside hard targets.

    Of soft targets it multiplies one of the two terms, which no weight of a position can.
    """
    samples = list(op_samples("binary_cross_entropy_with_logits", dtype))
    assert sum("pos_weight" in sample.options for sample in samples) >= 6
    for sample in samples:
        if "pos_weight" in sample.options:
            hard = sample.target.detach().round()
            assert_same(our_bce, their_bce, sample._replace(target=hard), dtype)
        else:
            assert_same(our_bce, their_bce, sample, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bce_module_of_their_samples(dtype):
    """Each sample of nn.BCEWithLogitsLoss; a weight belongs to the call of our Module."""

    def ours(sample: Sample) -> Tensor:
        options = {"reduction": "mean", **sample.options}
        weight = options.pop("weight", None)
        return SigmoidFocalLoss(None, 0, **options)(sample.input, sample.target, weight=weight)

    samples = list(module_samples(nn.BCEWithLogitsLoss, dtype))
    assert len(samples) >= 4
    for sample in samples:
        leaf = sample._replace(input=sample.input.detach().requires_grad_())
        assert_same(
            ours,
            lambda s: nn.BCEWithLogitsLoss(**s.options)(s.input, s.target),
            leaf,
            dtype,
        )


def test_what_their_module_refuses():
    """Each error input of nn.CrossEntropyLoss; their operators have none."""
    modules = _internal("common_modules")
    (info,) = (m for m in modules.module_db if m.module_cls is nn.CrossEntropyLoss)
    if info.module_error_inputs_func is None:
        pytest.skip("this PyTorch has no error inputs of nn.CrossEntropyLoss")
    device = torch.device("cpu")
    count = 0
    for given in info.module_error_inputs_func(info, device, torch.float32, False, True):
        options = given.module_error_input.constructor_input.kwargs
        arguments = given.module_error_input.forward_input.args
        with pytest.raises((TypeError, ValueError, RuntimeError)):
            nn.CrossEntropyLoss(**options)(*arguments)
        with pytest.raises((TypeError, ValueError, RuntimeError), match=r"^\w+: expected "):
            SoftmaxFocalLoss(gamma=0, **options)(*arguments)
        count += 1
    assert count >= 5


# Changes: samples with something unusual about them.

X = torch.tensor([[2.0, -1.0, 0.5], [0.25, 1.0, -3.0]])
INDEX = torch.tensor([0, 2])
P = torch.tensor([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]])
W = torch.tensor([0.5, 2.0, 1.0])
MAPS = torch.linspace(-2, 2, 24).reshape(2, 3, 4)
Y = torch.tensor([[1.0, 0.0, 0.25], [0.0, 1.0, 0.5]])
HARD = torch.tensor([[1, 0, 1], [0, 1, 0]])
EMPTY = torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)
NO_PIXELS = torch.zeros(2, 3, 0, 4), torch.zeros(2, 0, 4, dtype=torch.int64)


def _with(x: Tensor, value: float, *place: int) -> Tensor:
    changed = x.clone()
    changed[place] = value
    return changed


CROSS_ENTROPY: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "as it is": (X, INDEX, {}),
    "int32 indices": (X, INDEX.int(), {}),
    "int16 indices": (X, INDEX.short(), {}),
    "int8 indices": (X, INDEX.char(), {}),
    "uint8 indices": (X, INDEX.byte(), {}),
    "bool indices": (X, INDEX.bool(), {}),
    "indices as floats": (X, INDEX.float(), {}),
    "one-hot integers": (X, F.one_hot(INDEX, 3), {}),
    "indices (N, 1)": (X, INDEX.unsqueeze(1), {}),
    "one index too few": (X, INDEX[:1], {}),
    "one index too many": (X, torch.tensor([0, 1, 2]), {}),
    "an index for each of too few pixels": (MAPS, torch.zeros(2, 3, dtype=torch.int64), {}),
    "classes last": (MAPS.movedim(1, -1), torch.zeros(2, 4, dtype=torch.int64), {}),
    "an index that is no class": (X, torch.tensor([0, 3]), {}),
    "an index below 0": (X, torch.tensor([0, -1]), {}),
    "-100": (X, torch.tensor([0, -100]), {}),
    "all ignored, mean": (X, INDEX * 0 - 100, {}),
    "all ignored, sum": (X, INDEX * 0 - 100, {"reduction": "sum"}),
    "all ignored, none": (X, INDEX * 0 - 100, {"reduction": "none"}),
    "all ignored, weight": (X, INDEX * 0 - 100, {"weight": W}),
    "ignore_index a class": (X, INDEX, {"ignore_index": 2}),
    "ignore_index a class beside probabilities": (X, P, {"ignore_index": 1}),
    "ignore_index below 0 beside probabilities": (X, P, {"ignore_index": -1}),
    "ignore_index a fraction": (X, INDEX, {"ignore_index": 0.5}),
    "ignore_index True": (X, INDEX, {"ignore_index": True}),
    "weight of too few": (X, INDEX, {"weight": W[:2]}),
    "weight of one": (X, INDEX, {"weight": W[:1]}),
    "weight (1, C)": (X, INDEX, {"weight": W.unsqueeze(0)}),
    "weight in float64": (X, INDEX, {"weight": W.double()}),
    "weight of integers": (X, INDEX, {"weight": torch.tensor([1, 2, 1])}),
    "weight all 0": (X, INDEX, {"weight": W * 0}),
    "weight a list": (X, INDEX, {"weight": [1.0, 2.0, 1.0]}),
    "weight beside smoothing": (X, INDEX, {"weight": W, "label_smoothing": 0.2}),
    "weight beside probabilities": (X, P, {"weight": W}),
    "probabilities in float64": (X, P.double(), {}),
    "probabilities in float16": (X, P.half(), {}),
    "probabilities that don't sum to 1": (X, P * 0.5, {}),
    "probabilities of another shape": (X, P[:1], {}),
    "label_smoothing above 1": (X, INDEX, {"label_smoothing": 1.5}),
    "label_smoothing below 0": (X, INDEX, {"label_smoothing": -0.1}),
    "label_smoothing NaN": (X, INDEX, {"label_smoothing": float("nan")}),
    "label_smoothing 1": (X, INDEX, {"label_smoothing": 1.0}),
    "label_smoothing beside probabilities": (X, P, {"label_smoothing": 0.3}),
    "label_smoothing beside an ignored row": (X, torch.tensor([0, -100]), {"label_smoothing": 0.3}),
    "an unknown reduction": (X, INDEX, {"reduction": "avg"}),
    "reduction None": (X, INDEX, {"reduction": None}),
    "one row": (X[0], INDEX[0], {}),
    "one row, none": (X[0], INDEX[0], {"reduction": "none"}),
    "one row and an index (1)": (X[0], INDEX[:1], {}),
    "one row of probabilities": (X[0], P[0], {}),
    "a single logit": (X[0, 0], INDEX[0], {}),
    "one class": (X[:, :1], INDEX * 0, {}),
    "no class": (X[:, :0], P[:, :0], {}),
    "no rows, mean": (*EMPTY, {}),
    "no rows, sum": (*EMPTY, {"reduction": "sum"}),
    "no rows, none": (*EMPTY, {"reduction": "none"}),
    "no rows of probabilities, mean": (EMPTY[0], EMPTY[0], {}),
    "no rows of probabilities, sum": (EMPTY[0], EMPTY[0], {"reduction": "sum"}),
    "no pixels, mean": (*NO_PIXELS, {}),
    "no pixels, sum": (*NO_PIXELS, {"reduction": "sum"}),
    "no pixels, none": (*NO_PIXELS, {"reduction": "none"}),
    "the class at -inf": (_with(X, -torch.inf, 0, 0), INDEX, {}),
    "the class at -inf, none": (_with(X, -torch.inf, 0, 0), INDEX, {"reduction": "none"}),
    "the class at inf": (_with(X, torch.inf, 0, 0), INDEX, {"reduction": "none"}),
    "another class at -inf": (_with(X, -torch.inf, 0, 1), INDEX, {}),
    "another class at inf": (_with(X, torch.inf, 0, 1), INDEX, {"reduction": "none"}),
    "NaN": (_with(X, torch.nan, 0, 1), INDEX, {"reduction": "none"}),
    "a row of -inf": (_with(X, -torch.inf, 0), INDEX, {"reduction": "none"}),
    "no probability at -inf": (_with(X, -torch.inf, 1, 0), P, {"reduction": "none"}),
    "logits of integers": (X.long(), INDEX, {}),
    "complex logits": (X.cfloat(), INDEX, {}),
    "a list of logits": (X.tolist(), INDEX, {}),
    "a list of targets": (X, [0, 2], {}),
    "not contiguous": (X.t().contiguous().t(), INDEX.repeat_interleave(2)[::2], {}),
    "size_average": (X, INDEX, {"size_average": True}),
    "reduce": (X, INDEX, {"reduce": True}),
}

BCE: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "as it is": (X, Y, {}),
    "integer targets": (X, HARD, {}),
    "bool targets": (X, HARD.bool(), {}),
    "targets in float64": (X, Y.double(), {}),
    "targets in float16": (X, Y.half(), {}),
    "targets of another shape": (X, Y[:, :2], {}),
    "targets that broadcast": (X, Y[:1], {}),
    "targets above 1": (X, Y * 2, {}),
    "targets below 0": (X, Y - 1, {}),
    "weight that broadcasts": (X, Y, {"weight": W}),
    "weight a scalar": (X, Y, {"weight": W[0]}),
    "weight that enlarges": (X, Y, {"weight": torch.ones(2, 2, 3)}),
    "weight of another shape": (X, Y, {"weight": W[:2]}),
    "weight in float64": (X, Y, {"weight": W.double()}),
    "weight of integers": (X, Y, {"weight": torch.tensor([1, 2, 1])}),
    "weight of bools": (X, Y, {"weight": torch.tensor([True, False, True])}),
    "weight a number": (X, Y, {"weight": 2.0}),
    "pos_weight beside hard targets": (X, HARD.float(), {"pos_weight": W}),
    "pos_weight beside soft targets": (X, Y, {"pos_weight": W * 3}),
    "pos_weight and weight": (X, HARD.float(), {"pos_weight": W, "weight": W}),
    "an unknown reduction": (X, Y, {"reduction": "avg"}),
    "reduction None": (X, Y, {"reduction": None}),
    "a scalar": (X[0, 0], Y[0, 0], {}),
    "nothing, mean": (X[:0], Y[:0], {}),
    "nothing, sum": (X[:0], Y[:0], {"reduction": "sum"}),
    "nothing, none": (X[:0], Y[:0], {"reduction": "none"}),
    "wrong at -inf": (_with(X, -torch.inf, 0, 0), Y, {"reduction": "none"}),
    "right at inf": (_with(X, torch.inf, 0, 0), Y, {"reduction": "none"}),
    "soft at inf": (_with(X, torch.inf, 0, 2), Y, {"reduction": "none"}),
    "NaN": (_with(X, torch.nan, 0, 0), Y, {"reduction": "none"}),
    "logits of integers": (X.long(), Y, {}),
    "complex logits": (X.cfloat(), Y, {}),
    "a list of logits": (X.tolist(), Y, {}),
    "not contiguous": (X.t().contiguous().t(), Y, {}),
    "size_average": (X, Y, {"size_average": True}),
    "reduce": (X, Y, {"reduce": True}),
}

_ANY_INTEGER = "an index is an index, in every integer dtype"
_CAST = "an option is cast to the dtype of the computation, as every tensor operand is"
_LIMIT = "an infinite logit gives the limit of the loss; theirs is infinity less infinity"
_NOTHING = (
    "what has probability 0 adds nothing, also at an infinite loss; theirs is 0 times infinity"
)
_RANGE = "a number out of its range is refused; theirs looks at one end of it, or at none"
_OLD = "long deprecated by PyTorch; `reduction` says the same"

DIFFERENCES: dict[tuple[str, str], tuple[str, str]] = {
    ("cross_entropy", "int32 indices"): ("accepted", _ANY_INTEGER),
    ("cross_entropy", "int16 indices"): ("accepted", _ANY_INTEGER),
    ("cross_entropy", "int8 indices"): ("accepted", _ANY_INTEGER),
    ("cross_entropy", "weight in float64"): ("accepted", _CAST),
    ("cross_entropy", "weight of integers"): ("accepted", _CAST),
    ("cross_entropy", "label_smoothing below 0"): ("refused", _RANGE),
    ("cross_entropy", "label_smoothing NaN"): ("refused", _RANGE),
    ("cross_entropy", "one row and an index (1)"): (
        "refused",
        "logits (C) have an index of shape (), as their documentation says too",
    ),
    ("cross_entropy", "no class"): ("refused", "there is no probability to speak of"),
    ("cross_entropy", "the class at inf"): ("another value", _LIMIT),
    ("cross_entropy", "another class at inf"): ("another value", _LIMIT),
    ("cross_entropy", "a row of -inf"): (
        "another value",
        "infinite logits count as the largest numbers, so that equal ones are equally likely",
    ),
    ("cross_entropy", "no probability at -inf"): ("another value", _NOTHING),
    ("cross_entropy", "size_average"): ("refused", _OLD),
    ("cross_entropy", "reduce"): ("refused", _OLD),
    ("bce", "integer targets"): ("accepted", "hard targets may have any real dtype"),
    ("bce", "bool targets"): ("accepted", "hard targets may have any real dtype"),
    ("bce", "targets in float16"): (
        "another value",
        "the result has the dtype of the logits; theirs that of the targets, if it is narrower",
    ),
    ("bce", "targets above 1"): ("refused", _RANGE),
    ("bce", "targets below 0"): ("refused", _RANGE),
    ("bce", "weight of bools"): ("refused", "a boolean says what counts, and is a `mask`"),
    ("bce", "pos_weight beside soft targets"): (
        "another value",
        "it multiplies one of the two terms, which no weight of a position can",
    ),
    ("bce", "wrong at -inf"): ("another value", _NOTHING),
    ("bce", "right at inf"): ("another value", _NOTHING),
    ("bce", "size_average"): ("refused", _OLD),
    ("bce", "reduce"): ("refused", _OLD),
}


_REFUSALS = (TypeError, ValueError, RuntimeError, IndexError, AttributeError)


def _answer(loss: Loss, sample: Sample) -> Tensor | str:
    """The value, or "refused", or the name of an error that is no refusal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return loss(sample).detach().double()
        except _REFUSALS:
            return "refused"
        except Exception as error:
            return type(error).__name__


def _difference(ours: Loss, theirs: Loss, sample: Sample) -> str | None:
    mine, other = _answer(ours, sample), _answer(theirs, sample)
    if isinstance(mine, str):
        return None if mine == other else mine
    if isinstance(other, str):
        return "accepted"
    same = mine.shape == other.shape and torch.allclose(mine, other, 1e-5, 1e-6, equal_nan=True)
    return None if same else "another value"


def found_differences() -> dict[tuple[str, str], str]:
    """Whatever we answer otherwise than PyTorch."""
    found = {}
    for operator, changes, ours, theirs in (
        ("cross_entropy", CROSS_ENTROPY, our_cross_entropy, their_cross_entropy),
        ("bce", BCE, our_bce, their_bce),
    ):
        for name, change in changes.items():
            difference = _difference(ours, theirs, Sample(name, *change))
            if difference is not None:
                found[operator, name] = difference
    return found


def test_each_difference_is_named():
    """No other, and none that is no more."""
    found = found_differences()
    named = {change: how for change, (how, _) in DIFFERENCES.items()}
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 11):  # 2.6 refuses it as well
        named.pop(("cross_entropy", "one row and an index (1)"))
    assert {change: how for change, how in found.items() if named.get(change) != how} == {}
    assert {change: how for change, how in named.items() if found.get(change) != how} == {}
