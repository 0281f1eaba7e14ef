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
LOGITS = ("input", "inputs", "logits", "logit", "pred", "preds", "y_pred", "x", "output", "scores")


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
        self.is_class = isinstance(loss, type)

    def found(self) -> Found:
        options = dict(self.given.pop("options", {}))
        parameters = self._parameters(self.loss)
        called = self._called_parameters()
        gamma = self.given.pop("gamma", None) or self._gamma(parameters)
        if gamma in options:
            gamma, self.given["fixed_gamma"] = None, float(options[gamma])
        framework = self.given.pop("framework", None) or self._framework()
        base: dict[str, Any] = {
            "name": self.given.pop("name", self.name),
            "target": self.name,
            "loss": self.loss,
            "framework": framework,
            "gamma": gamma,
            "is_class": self.is_class,
            "targets_first": self.given.pop("targets_first", None)
            if "targets_first" in self.given
            else self._targets_first(called),
            **self.given,
        }
        for subject, words in self._trials(base, options, parameters, called):
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

    def _called_parameters(self) -> list[str]:
        """The names of what the loss is called with, without self."""
        if not self.is_class:
            return list(self._parameters(self.loss))
        for name in ("forward", "call", "__call__"):
            method = getattr(self.loss, name, None)
            if method is not None:
                return list(self._parameters(method))[1:]
        return []

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

    def _targets_first(self, called: list[str]) -> bool:
        if len(called) > 1 and called[0] in TARGETS and called[1] not in TARGETS:
            self.lines.append(f"targets come first ({called[0]}, {called[1]})")
            return True
        return False

    def _trials(
        self,
        base: dict[str, Any],
        options: dict[str, Any],
        parameters: Mapping[str, Any],
        called: list[str],
    ) -> Iterator[tuple[Subject, list[str]]]:
        """Ways to call it, the likeliest first."""
        names = set(parameters)
        fixed = dict(options)
        words = []
        if "from_logits" in names and "from_logits" not in fixed:
            fixed["from_logits"] = True
            words.append("from_logits=True")
        neutral: list[dict[str, Any]] = [{}]
        if "alpha" in names and "alpha" not in fixed:
            neutral = [{"alpha": None}, {"alpha": -1}, {}]
        reductions: list[tuple[dict[str, Any], str]] = [({}, "as it is")]
        if "reduction" in names and "reduction" not in fixed:
            reductions = [({"reduction": choice}, str(choice)) for choice in ("none", None, "sum")]
            reductions.append(({}, "as it is"))
        elif "size_average" in names and "size_average" not in fixed:
            reductions = [({"size_average": False}, "sum"), ({}, "as it is")]
        kinds = [self.given["kind"]] if "kind" in self.given else ["binary", "multiclass"]
        base.pop("kind", None)
        takes = [self.given["takes"]] if "takes" in self.given else ["logits"]
        base.pop("takes", None)
        columns = [False, True]
        for kind, taken, reduction, alpha, column in product(
            kinds, takes, reductions, neutral, columns
        ):
            if kind == "multiclass" and column:
                continue
            subject = Subject(
                **base,
                kind=kind,
                takes=taken,
                options={**fixed, **alpha, **reduction[0]},
                column=column,
            )
            said = [
                f"{kind}, of {taken}" + (", logits (N, 1)" if column else ""),
                *words,
                *(f"{key}={value!r}" for key, value in {**alpha, **reduction[0]}.items()),
            ]
            for reduced in ("none", "sum"):
                yield subject.with_options(reduced=reduced), said
            yield (
                subject.with_options(reduced="mean"),
                [*said, "it gives a mean: one logit at a time, sampled"],
            )

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
