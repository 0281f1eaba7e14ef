"""How a loss is called, by trying: the first way in which it is a function that is known."""

import importlib.util
import inspect
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple

import torch

from parfocal.audit.convention import Convention, find_convention
from parfocal.audit.evaluate import evaluate
from parfocal.audit.findings import UNKNOWN_FUNCTION
from parfocal.audit.subject import NoGradientError, Subject, SubjectError, in_a_line, load
from parfocal.audit.trial import LOGITS, at_some_gamma, is_sensible, tried

# What libraries call the focusing exponent, and the targets.
GAMMAS = ("gamma", "focal_gamma", "focusing", "gamma_neg", "beta")
TARGETS = ("target", "targets", "y_true", "label", "labels", "true", "y", "truth", "gt", "gts",
           "ground_truth", "gt_labels")  # fmt: skip

# Shapes of logits and targets, the likeliest first, as fields of a subject, and in words.
_SHAPES: tuple[tuple[dict[str, Any], str], ...] = (
    ({"kind": "binary"}, "binary"),
    ({"kind": "binary", "column": True}, "binary, logits (N, 1)"),
    ({"kind": "multiclass"}, "multiclass"),
    ({"kind": "multiclass", "one_hot": True}, "multiclass, one-hot targets"),
    ({"kind": "binary", "maps": True}, "binary, logits (N, 1, H, W)"),
    ({"kind": "multiclass", "maps": True}, "multiclass, logits (N, C, H, W)"),
    (
        {"kind": "multiclass", "maps": True, "one_hot": True},
        "multiclass, logits (N, C, H, W), one-hot targets",
    ),
    ({"kind": "binary", "long": True}, "binary, integer targets"),
    ({"kind": "multiclass", "classes": 3}, "multiclass"),
    ({"kind": "multiclass", "classes": 3, "one_hot": True}, "multiclass, one-hot targets"),
    ({"kind": "multiclass", "classes": 3, "maps": True}, "multiclass, logits (N, C, H, W)"),
    (
        {"kind": "multiclass", "classes": 3, "maps": True, "one_hot": True},
        "multiclass, logits (N, C, H, W), one-hot targets",
    ),
)
_TAKES = ("logits", "probabilities", "log-probabilities")

# What is given for arguments that have no default, by their names.
_REQUIRED: Mapping[str, tuple[Any, ...]] = {
    "alpha": (None, 0.25),
    "mode": ("binary", "multiclass"),
    "weight": (None,),
    **dict.fromkeys(
        (
            "num_boxes",
            "num_masks",
            "num_pos",
            "num_positives",
            "avg_factor",
            "normalizer",
            "num_items",
        ),
        (1.0,),
    ),
    "num_classes": (2,),
}


class Found(NamedTuple):
    """A subject, and one line for each thing that was found."""

    subject: Subject
    lines: tuple[str, ...]


def discover(
    target: str | Callable[..., Any],
    *,
    progress: Callable[[str, float], None] | None = None,
    **given: Any,
) -> Found:
    """The subject of a target; what is given isn't looked for.

    Args:
        target: `package.module:name`, `path/file.py:name`, or the loss itself.
        progress: Told when it has been imported.
        given: fields of `Subject`. `options` are keyword arguments of the loss, `on_call` those of
            the call of an instance of a class.

    Raises:
        SubjectError: what can't be found, and the option that tells it.
    """
    loss = load(target) if isinstance(target, str) else target
    name = target if isinstance(target, str) else _qualified(loss)
    if progress is not None:
        progress("its first calls", 0.0)
    return _Search(loss, name, given).found()


def _qualified(loss: Callable[..., Any]) -> str:
    module = getattr(loss, "__module__", "") or type(loss).__module__
    name = getattr(loss, "__qualname__", "") or type(loss).__qualname__
    return f"{module}:{name}"


class _Search:
    """One search; `lines` says what came out of it."""

    def __init__(self, loss: Callable[..., Any], name: str, given: Mapping[str, Any]) -> None:
        self.loss, self.name, self.given = loss, name, dict(given)
        self.options = dict(self.given.pop("options", {}))
        self.on_call = dict(self.given.pop("on_call", {}))
        self.lines: list[str] = []
        self.is_called = self.has_no_gradient = False
        # What a trial of each shape said last, of the one that came farthest.
        self.refusals: dict[str, str] = {}
        self.made = _parameters(loss)
        self.called = _parameters(_call_of(loss)) if isinstance(loss, type) else self.made

    def found(self) -> Found:
        """The first way to call it in which it is a known function, else the first that works."""
        base = self._base()
        unknown: list[tuple[Subject, list[str]]] = []
        for subject, words in self._ways(base):
            convention = self._meaning(subject)
            if convention is None:
                continue
            if convention.other == UNKNOWN_FUNCTION:
                unknown.append((subject, words))
                continue
            return self._done(*self._without_alpha(subject, convention, words))
        if self.has_no_gradient and all(s.targets_first != self._orders()[0] for s, _ in unknown):
            raise SubjectError(f"{self.name} can be called, and {NoGradientError()}")
        if unknown:
            sensible = [way for way in unknown if is_sensible(way[0])]
            return self._done(*(sensible or unknown)[0])
        raise SubjectError(self._failure())

    def _failure(self) -> str:
        shapes: dict[str, list[str]] = {}
        for shape, words in self.refusals.items():
            shapes.setdefault(words, []).append(shape)
        tried = "; ".join(f"as {' or '.join(alike)}: {words}" for words, alike in shapes.items())
        pairs = "" if "NumPy" not in self.refusals else (
            "; a loss of NumPy arrays gives the pair of its gradient and second derivative"
        )  # fmt: skip
        return (
            f"{self.name} can't be called as a loss of logits and targets. Say how with --option "
            "NAME=VALUE, --call NAME=VALUE, --kind, --takes, --targets-first, --one-hot, "
            f"--framework or --gamma-name{pairs}. Tried {tried}"
        )

    def _base(self) -> dict[str, Any]:
        """What signatures tell."""
        base: dict[str, Any] = {"name": self.name, "target": self.name, "loss": self.loss}
        base["is_class"] = isinstance(self.loss, type)
        base["gamma"], base["gamma_on_call"] = self._gamma()
        for options in (self.options, self.on_call):
            if base["gamma"] in options:
                base["fixed_gamma"] = float(options[base["gamma"]])
                base["gamma"], base["gamma_on_call"] = None, False
        return base

    def _gamma(self) -> tuple[str | None, bool]:
        """The keyword of the exponent, and whether the call of an instance takes it."""
        name = self.given.pop("gamma", None)
        named = [name] if name else GAMMAS
        is_class = isinstance(self.loss, type)
        for is_on_call, names in ((False, self.made), (is_class, self.called)):
            for known in named:
                if known in names:
                    where = " of the call" if is_on_call else ""
                    self.lines.append(f"gamma is the keyword {known}{where}")
                    return known, is_on_call
        if name:
            return name, False
        self.lines.append("no keyword for gamma: it has one exponent (--gamma-name, --fixed-gamma)")
        return None, False

    def _ways(self, base: Mapping[str, Any]) -> Iterator[tuple[Subject, list[str]]]:
        """Ways in which it can be called, the likeliest first."""
        for framework in self._frameworks():
            if self.is_called and framework != "torch":
                return  # a function that isn't known, of tensors
            if framework == "numpy":
                yield from self._as_pair({**base, "framework": framework})
                continue
            shapes = _SHAPES if framework == "torch" else (_SHAPES[0], _SHAPES[2])
            takes = _TAKES if framework == "torch" else _TAKES[:1]
            for taken, (shape, words), is_first in product(takes, shapes, self._orders()):
                way = {"takes": taken, "targets_first": is_first, **shape}
                if any(way.get(key, value) != value for key, value in self.given.items()):
                    continue
                fields = {**base, "framework": framework, **way, **self.given}
                subject = self._workable(fields, words)
                if subject is not None:
                    self.is_called = True
                    told = [] if framework == "torch" else [f"arrays of {framework}"]
                    told += ["targets come first"] if is_first else []
                    told += [f"{words}, of {taken}"]
                    if taken != "logits":
                        told.append(f"its {taken} are made of logits, and that is judged with it")
                    yield subject, [*told, *self._option_words(subject)]

    def _as_pair(self, fields: dict[str, Any]) -> Iterator[tuple[Subject, list[str]]]:
        """A gradient and a second derivative of NumPy arrays, as boosters take it."""
        for is_first in self._orders():
            subject = Subject(**{**fields, "targets_first": is_first, "options": self.options,
                                 "on_call": self.on_call, **self.given})  # fmt: skip
            try:
                found = evaluate(subject, torch.tensor(LOGITS), 1.0, 2.0, second=False)
            except Exception as error:
                self.refusals.setdefault("NumPy", in_a_line(error)[:160])
                continue
            if found.gradient is not None and bool(found.gradient.any()):
                yield subject, ["arrays of numpy", *(["targets come first"] if is_first else [])]

    def _frameworks(self) -> list[str]:
        """Those that may be meant, the likeliest first: JAX where it is installed."""
        if "framework" in self.given:
            return [self.given["framework"]]
        package = (getattr(self.loss, "__module__", "") or "").partition(".")[0]
        uses_jax = importlib.util.find_spec("jax") is not None
        likely = ["jax", "torch"] if package in ("optax", "jax", "flax") else ["torch", "jax"]
        return [*(name for name in likely if name == "torch" or uses_jax), "numpy"]

    def _orders(self) -> tuple[bool, ...]:
        """Whether targets come first: as the names say, then the other way."""
        if "targets_first" in self.given:
            return (bool(self.given["targets_first"]),)
        names = [name for name in self.called if name != "self"]
        is_first = len(names) > 1 and names[0] in TARGETS and names[1] not in TARGETS
        return (is_first, not is_first)

    def _workable(self, fields: dict[str, Any], shape: str) -> Subject | None:
        """A subject with the reduction that gives most; None if it can't be called so."""
        wholes = (False, True) if fields["gamma"] is not None else (False,)
        for whole, reduction, required in product(wholes, self._reductions(), self._required()):
            options, on_call = {**self.options, **required}, dict(self.on_call)
            if "from_logits" in self.made and fields["takes"] == "logits":
                options.setdefault("from_logits", True)
            (options if reduction.keys() <= self.made.keys() else on_call).update(reduction)
            numbers = {"options": options, "on_call": on_call, "whole_gamma": whole}
            subject = Subject(**{**fields, **numbers})
            try:
                return tried(subject)
            except Exception as error:
                is_natural = fields["targets_first"] == self._orders()[0]
                self.has_no_gradient |= is_natural and isinstance(error, NoGradientError)
                self.refusals[shape] = self.refusals.get(shape) or in_a_line(error)[:160]
        return None

    def _reductions(self) -> list[dict[str, Any]]:
        """What asks for the loss of each logit, for a sum, and for what is given without."""
        names = {*self.made, *self.called} - {*self.options, *self.on_call}
        if "reduction" in names:
            return [{"reduction": "none"}, {"reduction": None}, {"reduction": "sum"}, {}]
        if "size_average" in names:
            return [{"size_average": False}, {}]
        return [{}]

    def _required(self) -> list[dict[str, Any]]:
        """Values of the arguments that have no default, each with each."""
        names = [
            name
            for i, (name, parameter) in enumerate(self.made.items())
            if parameter.default is parameter.empty
            and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            and (isinstance(self.loss, type) or i >= 2)
            and name in _REQUIRED
            and name not in self.options
        ]
        values = product(*(_REQUIRED[name] for name in names))
        return [dict(zip(names, chosen, strict=True)) for chosen in values]

    def _option_words(self, subject: Subject) -> list[str]:
        given = {**subject.options, **subject.on_call}
        words = [f"{key}={value!r}" for key, value in given.items()
                 if key not in {*self.options, *self.on_call}]  # fmt: skip
        if subject.whole_gamma:
            words.append(f"{subject.gamma} is an int: others are refused")
        if subject.reduced == "mean":
            words.append("it gives one number: one logit at a time, sampled")
        return words

    def _meaning(self, subject: Subject) -> Convention | None:
        try:
            return find_convention(subject)
        except Exception as error:
            self.refusals.setdefault("called so", in_a_line(error)[:160])
            return None

    def _without_alpha(
        self, subject: Subject, convention: Convention, words: list[str]
    ) -> tuple[Subject, list[str]]:
        """With alpha off, where a value of it turns it off for both classes."""
        names = {*self.made, *self.called} - {*self.options, *self.on_call}
        if "alpha" not in names or convention.positive == convention.negative == 1:
            return subject, words
        place = "options" if "alpha" in self.made else "on_call"
        default = {**self.called, **self.made}["alpha"].default
        is_number = isinstance(default, float) and default not in (0.5, convention.positive)
        if is_number and abs(convention.negative - default) < 1e-6:
            words = [*words, f"its alpha, {default:g} by default, is on the negative class"]
        for value in (None, -1):
            other = subject.with_options(**{place: {**getattr(subject, place), "alpha": value}})
            try:
                meant = find_convention(tried(other))
            except Exception:
                continue  # a refusal is an answer
            if meant.definition is not None and meant.positive == meant.negative == 1:
                factors = convention.positive, convention.negative
                other = other.with_options(default_factors=factors)
                return other, [*words, f"alpha={value!r}"]
        return subject, words

    def _done(self, subject: Subject, words: list[str]) -> Found:
        """With the dtypes that it refuses."""
        refused = dict(subject.refused)
        for dtype in (torch.float16, torch.bfloat16, torch.float32):
            name = str(dtype).removeprefix("torch.")
            if subject.framework == "numpy" and dtype.itemsize == 2:
                continue
            try:
                at_some_gamma(subject, torch.tensor(LOGITS, dtype=dtype))
            except Exception as error:
                refused[name] = in_a_line(error)[:160]
        lines = [f"{name} is refused: {words}" for name, words in refused.items()]
        return Found(subject.with_options(refused=refused), (*self.lines, *words, *lines))


def _call_of(loss: type) -> Callable[..., Any]:
    """The method by which an instance is called."""
    for name in ("forward", "call"):
        method = getattr(loss, name, None)
        if callable(method):
            return method  # type: ignore[no-any-return]
    return loss.__call__


def _parameters(call: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    if isinstance(call, torch.nn.Module):
        call = call.forward
    try:
        return dict(inspect.signature(call).parameters)
    except (TypeError, ValueError):
        return {}
