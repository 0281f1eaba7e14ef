"""The zoo: small losses of many conventions and mistakes, each with a record of what is true of it.

A record says how a loss is called, which function it is, and what is wrong with it. An audit is
held to it, and to computations that share no code with the auditor.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch

from audit import jax_losses, right_losses, wrong_losses

HERE = Path(__file__).parent

Shape = Literal[
    "flat", "long", "column", "map", "index", "one-hot", "map of indices", "map of one-hot"
]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A loss, and what is true of it.

    shape, takes, targets_first, framework: how it is called.
    gamma, place: the keyword of the exponent, and whether the function, the class or the call of
        an instance takes it. exponent: of a loss without a keyword for it.
    options: with which it is called where alpha is off and every logit has its loss, if it can be.
    reduced: what comes back of a batch then.
    positive, negative: the factors of both classes. weights: of more classes.
    exponents: of target 1 and 0, as a slope and a constant of gamma.
    growth: what both factors are multiplied by: a constant, a part of gamma, and one of 1 / gamma.
    soft: what it means at soft targets; "another" if it is no function with a name.
    means: what each reduction divides by. ratio: of the weights of a mean, the second class's.
    constants: added to 1 - p_t, and to p_t in the logarithm.
    shifted: whether other logits add to its values, and not to its gradients.
    detached: whether the modulating factor has no gradient.
    other: words of its name, where it isn't the focal loss.
    faults: kinds of findings that it has, whatever the dtype.
    held: whether it is a focal loss, with its factors and exponents, that results can be held to.
    causes: what it does: "subtraction" of p_t from 1, "float32" and "bfloat16" for what it computes
        in, "bce" for PyTorch's, whose gradient is p - y.
    clean: whether nothing is wrong with it that a training feels.
    gammas, dtypes: at which it is audited. least_gamma, refused: what it refuses of these.
    """

    name: str
    module: ModuleType
    shape: Shape = "flat"
    takes: str = "logits"
    targets_first: bool = False
    framework: str = "torch"
    gamma: str | None = "gamma"
    place: Literal["function", "class", "call"] = "function"
    exponent: float = 2.0
    options: Mapping[str, Any] = field(default_factory=dict)
    reduced: str = "none"
    positive: float = 1.0
    negative: float = 1.0
    weights: tuple[float, ...] = ()
    exponents: tuple[tuple[float, float], tuple[float, float]] = ((1.0, 0.0), (1.0, 0.0))
    growth: tuple[float, float, float] = (1.0, 0.0, 0.0)
    soft: str | None = "linear"
    means: Mapping[str, str] = field(default_factory=dict)
    ratio: float | None = None
    constants: tuple[float, float] = (0.0, 0.0)
    shifted: bool = False
    detached: bool = False
    other: str | None = None
    faults: tuple[str, ...] = ()
    held: bool = True
    causes: tuple[str, ...] = ()
    clean: bool = False
    gammas: tuple[float, ...] = (0.5, 2.0)
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    least_gamma: float = 0.0
    refused: tuple[str, ...] = ()

    @property
    def loss(self) -> Any:
        """The object itself."""
        return getattr(self.module, self.name)

    @property
    def target(self) -> str:
        """Where the auditor finds it."""
        return f"{HERE / self.module.__name__.rpartition('.')[2]}.py:{self.name}"

    @property
    def is_multiclass(self) -> bool:
        """Whether its logits are rows of classes."""
        return self.shape in ("index", "one-hot", "map of indices", "map of one-hot")

    def factor(self, y: float, gamma: float) -> float:
        """By what a focal loss is multiplied."""
        constant, slope, inverse = self.growth
        grown = constant + slope * gamma + (inverse / gamma if inverse else 0.0)
        return grown * (y * self.positive + (1 - y) * self.negative)

    def exponent_of(self, gamma: float, y: float) -> float:
        """What stands for gamma."""
        if self.gamma is None:
            return self.exponent
        slope, constant = self.exponents[0 if y > 0.5 else 1]
        return slope * gamma + constant

    def call(self, x: torch.Tensor, y: float, gamma: float) -> torch.Tensor:
        """The losses of logits (N), or their sum, as the record says that it is called."""
        given, truth = self._arguments(x, y)
        keywords = dict(self.options)
        if self.gamma is not None:
            keywords[self.gamma] = gamma
        loss = self.loss
        if self.place == "class":
            loss, keywords = loss(**keywords), {}
        elif self.place == "call":
            loss = loss()
        order = (truth, given) if self.targets_first else (given, truth)
        result = loss(*order, **keywords)
        if isinstance(result, dict):
            result = next(iter(result.values()))
        if isinstance(result, tuple):
            result = result[0]
        if result.numel() == 2 * len(x) and self.is_multiclass:
            return result.reshape(len(x), 2).sum(1)
        return result.reshape(-1) if result.numel() == len(x) else result

    def _arguments(self, x: torch.Tensor, y: float) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_multiclass:
            given = {"logits": lambda: x, "probabilities": x.sigmoid}[self.takes]()
            truth = torch.full_like(x, y, requires_grad=False)
            truth = truth.long() if self.shape == "long" else truth
            ones = {"column": 1, "map": 3}.get(self.shape, 0)
            return _with_ones(given, ones), _with_ones(truth, ones)
        others = [torch.full_like(x, -1e4)] * (len(self.weights) - 2)  # of a probability of 0
        rows = torch.stack([x, torch.zeros_like(x), *others], 1)
        given = {
            "logits": lambda: rows,
            "probabilities": lambda: rows.softmax(1),
            "log-probabilities": lambda: rows.log_softmax(1),
        }[self.takes]()
        truth = torch.full((len(x),), 0 if y else 1)
        if "one-hot" in self.shape:
            truth = torch.nn.functional.one_hot(truth, 2).to(x.dtype)
        ones = 2 if "map" in self.shape else 0
        return _with_ones(given, ones), _with_ones(truth, ones)


def _with_ones(x: torch.Tensor, count: int) -> torch.Tensor:
    return x.reshape(*x.shape, *(1,) * count)


def _right(name: str, **record: Any) -> Entry:
    quick = {} if "causes" in record or record.get("clean") is False else {"dtypes": ("float32",)}
    return Entry(name=name, module=right_losses, **{"clean": True, **quick, **record})


def _wrong(name: str, **record: Any) -> Entry:
    return Entry(name=name, module=wrong_losses, **{"soft": "another", **record})


_SIXTEEN = ("float64", "float32", "float16", "bfloat16")
# Of a mean, one logit at a time is called.
_MEANS = {"reduced": "mean", "dtypes": ("float32",)}
_NONE = {"reduction": "none"}
_MEAN = {"mean": "the number of elements", "what it gives by default": "the number of elements"}
_ROWS = {"mean": "the number of rows", "what it gives by default": "the number of rows"}
_CLASSES = {"shape": "index", "soft": None}
_AS_WRITTEN = {"clean": False, "dtypes": ("float64", "float32", "bfloat16")}
_SUBTRACTING = {"clean": False, "dtypes": ("float32",), "causes": ("subtraction", "bce")}

RIGHT = (
    # Names, orders and places of arguments.
    _right("flat"),
    _right("other_names", gamma="focusing"),
    _right("targets_first", targets_first=True),
    _right("silent_order", targets_first=True),
    _right("keyword_beta", gamma="beta"),
    _right("OfClass", place="class"),
    _right("OfForward", place="call"),
    _right("Plain", place="class", gamma="focal_gamma"),
    _right("partial", positive=3.0, negative=3.0),
    _right("instance", gamma=None, exponent=1.5),
    _right("one_exponent", gamma=None),
    # What is given.
    _right(
        "of_probabilities",
        takes="probabilities",
        soft="rounded",
        causes=("subtraction",),
        **_AS_WRITTEN,
    ),
    _right("of_log_probabilities", takes="log-probabilities", **_CLASSES, **_AS_WRITTEN),
    _right("column", shape="column"),
    _right("map_of_one", shape="map"),
    _right("index", **_CLASSES),
    _right("one_hot", shape="one-hot", soft=None),
    _right("map_of_indices", shape="map of indices", soft=None),
    _right("map_of_one_hot", shape="map of one-hot", soft=None),
    _right(
        "class_probabilities",
        shape="one-hot",
        takes="probabilities",
        targets_first=True,
        soft=None,
        causes=("subtraction",),
        **_AS_WRITTEN,
    ),
    _right("integers", shape="long", soft=None),
    _right("in_a_tuple"),
    _right("in_a_dict"),
    _right("float32_alone", refused=("float64", "float16", "bfloat16")),
    _right("no_float16", dtypes=_SIXTEEN, refused=("float16",)),
    _right("gamma_of_one_or_more", least_gamma=1.0),
    _right("positive_gamma", least_gamma=1e-9, gammas=(0.0, 2.0)),
    # Alpha.
    _right("alpha_none", options={"alpha": None}),
    _right("alpha_minus_one", options={"alpha": -1}),
    _right("alpha_of_positives", positive=0.25, soft="another"),
    _right("alpha_of_negatives", negative=4.0),
    _right("alpha_of_both", positive=0.25, negative=0.75),
    _right("alpha_alike", positive=0.25, negative=0.25),
    _right("weights_of_classes", positive=0.25, negative=0.5, weights=(0.25, 0.5, 4.0), **_CLASSES),
    _right("three_classes", weights=(0.5, 1.0, 2.0), positive=0.5, **_CLASSES),
    # Reductions.
    _right("three_reductions", options=_NONE, means=_MEAN),
    _right(
        "size_average",
        options={"size_average": False},
        reduced="sum",
        means={"mean": "the number of elements"},
    ),
    _right("always_mean", **_MEANS, means={"mean": "the number of elements"}),
    _right(
        "always_mean_with_reduction",
        options=_NONE,
        **_MEANS,
        means={**_MEAN, "sum": "the number of elements"},
    ),
    _right("always_sum", reduced="sum"),
    _right(
        "over_positives",
        options=_NONE,
        means=dict.fromkeys(_MEAN, "the number of positives, at least 1"),
    ),
    _right(
        "over_weights",
        options=_NONE,
        positive=0.25,
        negative=0.75,
        means=dict.fromkeys(_MEAN, "the sum of the weights"),
    ),
    _right("over_positives_alone", **_MEANS, soft=None, means={"mean": "the number of positives"}),
    _right("rows_of_a_mean", options=_NONE, means=dict.fromkeys(_MEAN, "the number of rows")),
    _right(
        "mean_of_the_last_axis",
        reduced="sum",
        shape="column",
        means={"sum": "the size of the last axis"},
    ),
    _right("weighted_mean", ratio=1.7 / 0.3, **_MEANS, **_CLASSES),
    _right("mean_of_classes", options=_NONE, means=_ROWS, **_CLASSES),
    _right(
        "mean_of_logits",
        options=_NONE,
        means=dict.fromkeys(_ROWS, "the number of logits"),
        **_CLASSES,
    ),
    _right("over_boxes", options={"num_boxes": 1.0}, reduced="sum"),
    _right(
        "over_half", options=_NONE, means=dict.fromkeys(_MEAN, "0.5 times the number of elements")
    ),
    # Soft targets.
    _right("soft_mixture", soft="mixture"),
    _right("soft_margin", soft="margin"),
    _right("soft_entropy", soft="entropy"),
    _right("soft_rounded", soft="rounded"),
    _right("soft_refused", soft="refused"),
    # As people write them.
    _right("by_subtraction", causes=("subtraction", "bce"), **_AS_WRITTEN),
    _right("by_exponential", soft="entropy", causes=("subtraction",), **_AS_WRITTEN),
    _right("in_log_space", soft="rounded", **{**_AS_WRITTEN, "clean": True}),
    _right("by_sigmoids", soft="rounded", **_AS_WRITTEN),
    _right("by_log_softmax", causes=("subtraction",), **_CLASSES, **_AS_WRITTEN),
    _right("map_by_subtraction", shape="map", **_SUBTRACTING),
    _right("integers_by_subtraction", shape="long", **{**_SUBTRACTING, "soft": None}),
    _right(
        "map_of_classes_by_subtraction",
        **{**_SUBTRACTING, "shape": "map of indices", "soft": None},
    ),
    _right("in_float32", causes=("subtraction", "float32"), **_AS_WRITTEN),
    _right("numpy_pair", framework="numpy", soft="rounded", **{**_AS_WRITTEN, "clean": True}),
    _right("of_jax", framework="jax", soft="rounded", **{**_AS_WRITTEN, "clean": True}),
)

_EARLY = ("reduced too early",)
_SWAPPED = r"p_t \*\* gamma for \(1 - p_t\)"
_FREE = {"held": False, "soft": None}
_WIDE = ("float64", "float32", "bfloat16")
_SUBTRACTED = {"soft": "rounded", "causes": ("subtraction",), "dtypes": _WIDE}

WRONG = (
    _wrong("mean_first", options=_NONE, faults=_EARLY, soft="entropy", causes=("subtraction",)),
    _wrong("always_mean_first", **_MEANS, faults=_EARLY, soft="entropy", causes=("subtraction",)),
    _wrong(
        "MeanFirstWithAlpha",
        **_MEANS,
        place="call",
        faults=_EARLY,
        soft="entropy",
        options={"alpha": 0.8},
        positive=0.8,
        negative=0.8,
        causes=("subtraction",),
    ),
    _wrong("sum_first", **_MEANS, faults=_EARLY, soft="entropy", causes=("subtraction",)),
    _wrong("classes_mean_first", **_MEANS, faults=_EARLY, causes=("subtraction",), **_CLASSES),
    _wrong("swapped", other=_SWAPPED, **_FREE),
    _wrong("swapped_targets", other=_SWAPPED, **_FREE, causes=("bce",)),
    _wrong("detached", clean=True, detached=True, other="detached factor", causes=("bce",)),
    _wrong("without_grad", clean=True, detached=True, other="detached factor", causes=("bce",)),
    _wrong("without_logarithm", other="without the logarithm", **_FREE),
    _wrong(
        "gamma_never_read",
        exponents=((0.0, 2.0),) * 2,
        faults=("gamma ignored",),
        causes=("bce",),
        other="the exponent 2",
    ),
    _wrong(
        "cross_entropy",
        exponents=((0.0, 0.0),) * 2,
        faults=("gamma ignored",),
        causes=("bce",),
        other="the cross-entropy",
        soft="linear",
    ),
    _wrong(
        "one_modulated",
        exponents=((0.0, 0.0), (1.0, 0.0)),
        soft=None,
        other="cross-entropy of the positives, the exponent gamma on the negatives",
        causes=("bce",),
    ),
    _wrong(
        "exponent_and_one",
        clean=True,
        exponents=((1.0, 1.0),) * 2,
        other=r"the exponent gamma \+ 1",
        causes=("bce",),
    ),
    _wrong(
        "half_exponent",
        exponents=((0.5, 0.0),) * 2,
        other=r"the exponent 0\.5 gamma",
        causes=("bce",),
    ),
    _wrong("alpha_the_other_way", positive=0.75, negative=0.25, causes=("bce",)),
    _wrong(
        "with_cross_entropy", other="sum of the focal loss and 0.5 times", **_FREE, causes=("bce",)
    ),
    _wrong("sign", positive=-1.0, negative=-1.0, faults=("wrong sign",), causes=("bce",)),
    _wrong("sign_of_positives", positive=-1.0, faults=("wrong sign",), causes=("bce",)),
    _wrong("sign_of_negatives", negative=-1.0, faults=("wrong sign",), causes=("bce",)),
    _wrong("clamp_1e2", **_SUBTRACTED),
    _wrong("clamp_1e4", **_SUBTRACTED),
    _wrong("clamp_1e7", **_SUBTRACTED),
    _wrong("clamp_below", **_SUBTRACTED),
    _wrong("clamp_of_logits", soft="rounded", dtypes=_WIDE),
    _wrong("base_1e3", clean=True, dtypes=_WIDE, constants=(1e-3, 0.0), causes=("bce",)),
    _wrong("base_5e3", dtypes=_WIDE, constants=(5e-3, 0.0), causes=("bce",)),
    _wrong("base_1e6", clean=True, dtypes=_WIDE, constants=(1e-6, 0.0), causes=("bce",)),
    _wrong("log_1e3", dtypes=_WIDE, constants=(0.0, 1e-3)),
    _wrong("log_1e6", dtypes=_WIDE, constants=(0.0, 1e-6), soft="rounded", causes=("subtraction",)),
    _wrong("log_1e8", constants=(0.0, 1e-8), soft="rounded", dtypes=_SIXTEEN),
    _wrong("both_1e5", dtypes=_WIDE, constants=(1e-5, 1e-5)),
    _wrong("two_constants", clean=True, other="unknown", **_FREE),
    _wrong("half_constant", **{**_SUBTRACTED, "dtypes": _SIXTEEN}),
    _wrong("log_of_sigmoid", soft="rounded", causes=("subtraction",)),
    _wrong("log_of_softmax", causes=("subtraction",), **_CLASSES),
    _wrong("in_bfloat16", causes=("bfloat16", "bce")),
    _wrong("by_mode", faults=("mode mismatch",), causes=("bce",)),
    _wrong(
        "one_vs_rest_sum",
        other="one-vs-rest sigmoid losses, summed",
        shape="index",
        shifted=True,
        soft=None,
        causes=("bce",),
    ),
    _wrong(
        "one_vs_rest_mean",
        other="one-vs-rest sigmoid losses, the mean",
        shape="index",
        positive=0.5,
        negative=0.5,
        shifted=True,
        soft=None,
        causes=("bce",),
    ),
    _wrong(
        "asymmetric_focusing",
        gamma="gamma_neg",
        exponents=((0.0, 1.0), (1.0, 0.0)),
        soft=None,
        other="asymmetric focal loss: the exponent is 1 at target 1, gamma at",
        causes=("bce",),
    ),
    _wrong("asymmetric", other=r"asymmetric loss, which takes 0\.05", **_FREE),
    _wrong(
        "varifocal",
        other="varifocal",
        exponents=((0.0, 0.0), (1.0, 0.0)),
        negative=0.75,
        soft="varifocal",
        causes=("bce",),
    ),
    _wrong(
        "equalized",
        clean=True,
        exponents=((1.0, 0.5),) * 2,
        growth=(1.0, 0.0, 0.5),
        positive=0.25,
        negative=0.75,
        soft=None,
        least_gamma=1e-9,
        other="equalized focal loss: 0.5 more",
    ),
    _wrong("normalized", clean=True, growth=(1.0, 1.0, 0.0), soft=None, other="factor 1 . gamma"),
    _wrong(
        "penalty_by_gamma",
        clean=True,
        exponents=((0.0, 2.0),) * 2,
        other="the exponent 2",
        soft="Gaussian",
    ),
    _wrong("nan_of_a_margin", other=r"asymmetric loss, which takes 0\.05", **_FREE),
    _wrong("quality", soft="quality", causes=("bce",)),
    _wrong("poly", other=r"poly focal loss, with 0\.5", **_FREE, causes=("bce",)),
    _wrong("gaussian", soft="Gaussian"),
    _wrong("smoothed_labels", other=r"smoothed labels, 0\.05 of the other", **_FREE),
    _wrong("dice", other="unknown", **_FREE),
    _wrong("squares", other="without the logarithm", faults=("gamma ignored",), **_FREE),
    _wrong("hinge", clean=True, other="unknown", **_FREE),
)

OF_JAX = (
    Entry(
        name="labels_first",
        module=jax_losses,
        framework="jax",
        targets_first=True,
        positive=-1.0,
        negative=-1.0,
        soft="rounded",
        faults=("wrong sign",),
        causes=("subtraction",),
        gammas=(2.0,),
        dtypes=("float32",),
    ),
)

ENTRIES = {entry.name: entry for entry in (*RIGHT, *WRONG, *OF_JAX)}
