"""How a loss is called, as far as its signature and a trial tell."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from parfocal.audit.evaluate import evaluate, torch_loss
from parfocal.audit.subject import Subject, SubjectError, load

GAMMAS = ("gamma", "focal_gamma", "focusing", "gamma_neg", "beta")
TARGETS = ("target", "targets", "y_true", "label", "labels", "true", "y", "truth")


class Found(NamedTuple):
    """A subject, and one line for each thing that was found."""

    subject: Subject
    lines: tuple[str, ...]


def discover(target: str | Callable[..., Any], **given: Any) -> Found:
    """The subject of a target; what is given isn't looked for.

    Args:
        target: `package.module:name`, `path/file.py:name`, or the loss itself.
        given: fields of `Subject`. `options` are keyword arguments of the loss.

    Raises:
        SubjectError: what can't be found, and the option that tells it.
    """
    loss = load(target) if isinstance(target, str) else target
    name = target if isinstance(target, str) else _qualified(loss)
    return _Search(loss, name, given).found()


def _qualified(loss: Callable[..., Any]) -> str:
    module = getattr(loss, "__module__", "") or type(loss).__module__
    name = getattr(loss, "__qualname__", "") or type(loss).__qualname__
    return f"{module}:{name}"


class _Search:
    """One search; `lines` says what came out of it."""

    def __init__(self, loss: Callable[..., Any], name: str, given: Mapping[str, Any]) -> None:
        self.loss, self.name, self.given = loss, name, dict(given)
        self.lines: list[str] = []
        self.last = ""

    def found(self) -> Found:
        """The first way to call it that works."""
        parameters = self._parameters(self.loss)
        options = dict(self.given.pop("options", {}))
        base: dict[str, Any] = {"name": self.name, "target": self.name, "loss": self.loss}
        base["is_class"] = isinstance(self.loss, type)
        base["gamma"] = self.given.pop("gamma", None) or self._gamma(parameters)
        if base["gamma"] in options:
            base["fixed_gamma"] = float(options[base["gamma"]])
            base["gamma"] = None
        if "framework" not in self.given:
            base["framework"] = self._framework()
        if "targets_first" not in self.given:
            base["targets_first"] = self._targets_first()
        for trial, words in self._trials(options, set(parameters)):
            subject = Subject(**{**base, **trial, **self.given})
            if self._works(subject):
                self.lines += words
                return Found(subject, tuple(self.lines))
        raise SubjectError(
            f"{self.name} can't be called as a loss of logits and targets, binary or multiclass: "
            f"{self.last}; say how with --option NAME=VALUE, --kind, --takes or --targets-first"
        )

    def _parameters(self, call: Callable[..., Any]) -> dict[str, inspect.Parameter]:
        try:
            return dict(inspect.signature(call).parameters)
        except (TypeError, ValueError):
            return {}

    def _gamma(self, parameters: Mapping[str, Any]) -> str | None:
        for name in GAMMAS:
            if name in parameters:
                self.lines.append(f"gamma is the keyword {name}")
                return name
        self.lines.append("no keyword for gamma: it has one exponent (--fixed-gamma)")
        return None

    def _framework(self) -> str:
        module = (getattr(self.loss, "__module__", "") or "").partition(".")[0]
        framework = {"optax": "jax", "jax": "jax", "flax": "jax"}.get(module, "torch")
        self.lines.append(f"arrays of {framework}")
        return framework

    def _targets_first(self) -> bool:
        """By the names of what it is called with."""
        called = list(self._parameters(self.loss))
        if isinstance(self.loss, type):
            methods = (getattr(self.loss, name, None) for name in ("forward", "call", "__call__"))
            method = next(method for method in methods if method is not None)
            called = list(self._parameters(method))[1:]  # without self
        if len(called) > 1 and called[0] in TARGETS and called[1] not in TARGETS:
            self.lines.append(f"targets come first ({called[0]}, {called[1]})")
            return True
        return False

    def _trials(
        self, options: dict[str, Any], names: set[str]
    ) -> Iterator[tuple[dict[str, Any], list[str]]]:
        """Ways to call it, the likeliest first, as fields of a subject and in words."""
        fixed = dict(options)
        if "from_logits" in names:
            fixed.setdefault("from_logits", True)
        neutral: list[dict[str, Any]] = [{}]
        if "alpha" in names - set(options):
            neutral = [{"alpha": None}, {"alpha": -1}, {}]
        reductions: list[dict[str, Any]] = [{}]
        if "reduction" in names - set(options):
            reductions = [{"reduction": "none"}, {"reduction": None}, {"reduction": "sum"}, {}]
        elif "size_average" in names - set(options):
            reductions = [{"size_average": False}, {}]
        shapes = [("binary", False), ("binary", True), ("multiclass", False)]
        taken = self.given.get("takes", "logits")
        for (kind, column), reduction, alpha in product(shapes, reductions, neutral):
            if kind != self.given.get("kind", kind):
                continue
            chosen = {**fixed, **alpha, **reduction}
            words = [f"{kind}, of {taken}" + (", logits (N, 1)" if column else "")]
            words += [f"{key}={value!r}" for key, value in chosen.items() if key not in options]
            trial = {"kind": kind, "column": column, "options": chosen}
            for reduced in ("none", "sum"):
                yield {**trial, "reduced": reduced}, words
            words = [*words, "it gives a mean: one logit at a time, sampled"]
            yield {**trial, "reduced": "mean"}, words

    @staticmethod
    def _is_off(subject: Subject, x: Tensor, gradient: Tensor) -> bool:
        """Whether a negative alpha is none: another one makes no difference."""
        other = subject.with_options(options={**subject.options, "alpha": -2})
        found = evaluate(other, x, 1.0, 2.0, second=False).gradient
        return found is not None and torch.equal(found, gradient)

    def _works(self, subject: Subject) -> bool:
        """Whether it can be called so, and gives what `reduced` says."""
        try:
            self.last = self._refused(subject)
        except Exception as error:
            words = str(error).splitlines() or [""]
            self.last = f"{type(error).__name__}: {words[0]}"
        return not self.last

    def _refused(self, subject: Subject) -> str:
        """Why it isn't called so; empty if it is."""
        x = torch.tensor([-1.0, 0.5, 2.0, 0.25])
        found = evaluate(subject, x, 1.0, 2.0, second=False)
        if found.gradient is None:
            return "no gradient comes back"
        if not bool(found.gradient.any()):
            return "every gradient is 0"
        if subject.options.get("alpha") == -1 and not self._is_off(subject, x, found.gradient):
            return "a negative alpha doesn't turn it off"
        if subject.framework != "torch" or subject.reduced == "none":
            is_each = found.value is not None or subject.framework == "numpy"
            return "" if is_each else "it gives no loss of each logit"
        whole = torch_loss(subject, 1.0, 2.0)
        parts = torch.stack([whole(part).detach().double() for part in x.split(1)]).sum()
        total = whole(x).detach().double() * (4 if subject.reduced == "mean" else 1)
        near = bool((total - parts).abs() <= 1e-4 * parts.abs())
        return "" if near else f"it gives no {subject.reduced} of the losses of each logit"
