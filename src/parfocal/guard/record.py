"""What a capture says, checked before any of it is believed, and its loss."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

from torch import Tensor

from parfocal.guard.diagnosis import Cause, Diagnosis
from parfocal.guard.form import Form, Kind
from parfocal.guard.loss_call import Loss, LossCall, Places
from parfocal.guard.plain import dtype_of, in_a_line, value_of
from parfocal.guard.source import LossSource, OptionsError, names_all, with_options
from parfocal.guard.trust import TrustError
from parfocal.places import PlaceError

FORMAT = 3

# Before the name or the place of an argument that is a tensor, in formats 1 and 2.
_TENSOR = "argument "

# Characters of code that a file may hold.
_CODE = 1 << 16

# What an older parfocal may have left out of a file without saying so.
_OF_OLD = "the options of the loss, if it had any: an older parfocal wrote the file"

_YOURS = "--loss calls a loss of yours in its place"

_DAMAGES = (AttributeError, KeyError, TypeError, IndexError, ValueError, RecursionError)


class Capture(NamedTuple):
    """What a file holds.

    call: the part of the failing call that was kept. form: how its targets are read.
    told: the diagnosis when it failed.
    source: of the loss. not_passed: its options that a replacement loss doesn't take.
    is_enough: whether the part that was kept fails like the whole.
    lost: the options and arguments that the file couldn't keep, described for people.
    fails_again: whether the loss, rebuilt from the file, failed in the same way.
    """

    call: LossCall
    form: Form | None
    told: Diagnosis
    source: LossSource
    versions: dict[str, str]
    not_passed: list[str]
    is_enough: bool
    lost: list[str]
    fails_again: bool


class NoDataError(ValueError):
    """A capture that was written without logits and targets."""


class Record(NamedTuple):
    """The words and tensors of a file, checked; nothing of it has been imported.

    call: without its loss. names: of the arguments of the call that have no keyword, as far as they
    are known.
    """

    path: Path
    source: LossSource
    call: LossCall
    names: list[str]
    form: Form | None
    told: Diagnosis
    versions: dict[str, str]
    is_enough: bool
    fails_again: bool
    lost: list[str]

    def capture(self, *, trust: bool = False) -> Capture:
        """With the loss that the file names; see `load_capture`.

        Raises:
            ValueError: there is none, or it isn't trusted.
        """
        return self._with(self._loss(trust), [])

    def capture_of(self, loss: Loss, name: str | None = None) -> Capture:
        """With another loss in its place.

        Args:
            loss: a function, or a class.
            name: what errors call it.

        Raises:
            ValueError: it can't be made with the options of the capture.
        """
        call, places = self.call, self.call.places
        arguments, keywords = self._by_name()
        try:
            loss, keywords, not_passed = with_options(loss, self.source.given, keywords)
        except OptionsError as error:
            raise ValueError(
                f"{name or getattr(loss, '__qualname__', repr(loss))} can't be made with the "
                f"options of the capture: {error}"
            ) from error
        named = [place for place in places if isinstance(place, str)]
        if len(named) == 2 and not arguments and not names_all(loss, named):
            arguments, places, named = [None, None], Places(0, 1), []
        keywords |= dict.fromkeys(named)
        again = self._replace(
            call=call._replace(arguments=arguments, keywords=keywords, places=places)
        )
        return again._with(loss, not_passed)

    def _by_name(self) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of the call, those after logits and targets by their names.

        Another loss may have them in another order.
        """
        call, places = self.call, self.call.places
        keywords = {k: v for k, v in call.keywords.items() if k not in places}
        first = 1 + max([i for i in places if isinstance(i, int)], default=-1)
        arguments, others = list(call.arguments[:first]), list(call.arguments[first:])
        names = self.names[first:]
        if len(names) != len(others) or not all(name.isidentifier() for name in names):
            return [*arguments, *others], keywords
        return arguments, {**dict(zip(names, others, strict=True)), **keywords}

    def _with(self, loss: Loss, not_passed: list[str]) -> Capture:
        return Capture(
            self.call._replace(loss=loss),
            self.form,
            self.told,
            self.source,
            self.versions,
            not_passed,
            self.is_enough,
            self.lost,
            self.fails_again,
        )

    def _loss(self, trust: bool) -> Loss:
        """The loss of the file, if it is known or trusted."""
        source, place = self.source, in_a_line(self.source.place)
        code = f", whose code was: {in_a_line(source.text)}" if source.is_run else ""
        if not source.place and not (trust and source.is_run):
            how = " --show-code shows all of it, --trust runs it," if code else ""
            raise ValueError(
                f"{self.path}: its loss can't be imported, like any lambda, local function or "
                f"method{code};{how} {_YOURS}"
            )
        if not self.fails_again:
            lost = f" (not held: {in_a_line(', '.join(self.lost))})" if self.lost else ""
            raise ValueError(
                f"{self.path}: its loss {place or 'in the code'} can't be made again: made from "
                f"what the file holds{lost}, it doesn't fail as it did; {_YOURS}"
            )
        try:
            return source.build(trust=trust)
        except TrustError as error:
            how = "--show-code shows all of it, --trust runs it" if code else "--trust imports it"
            raise ValueError(
                f"{self.path}: not imported: {in_a_line(error)}{code}. If you trust the file and "
                f"the code there, {how}; {_YOURS}"
            ) from error
        except OptionsError as error:
            raise ValueError(
                f"{self.path}: {place or 'its code'} can't be made with the options of the "
                f"capture: {error}; {_YOURS}"
            ) from error
        except (Exception, SystemExit) as error:  # whatever a module raises that is imported
            what = "its code doesn't run by itself" if source.is_run else f"can't import {place}"
            told = error if isinstance(error, PlaceError) else f"{type(error).__name__}: {error}"
            raise ValueError(f"{self.path}: {what}: {in_a_line(told)}; {_YOURS}") from error


def read_record(path: str | Path) -> Record:
    """Read a file, and import nothing.

    Raises:
        ValueError: not a capture, or a damaged one; NoDataError, of one without data.
        OSError: it can't be read.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"expected a guard's capture file, found none at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("parfocal")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is no capture: {in_a_line(error)}") from error
    if text is None:
        raise ValueError(f"{path} is no capture: it holds tensors, but no failure")
    try:
        words = _typed(json.loads(text), dict, "the text")
        known = words.get("format")
        if known not in (1, 2, FORMAT):
            raise ValueError(f"expected format 1, 2 or {FORMAT}, got {known!r}")
        told = _diagnosis(_field(words, "told", dict))
        if known != 1 and "logits" not in tensors:
            raise NoDataError(
                f"{path} was written without data, so it can't be replayed. Then: "
                f"{in_a_line(told.paragraph, 1000)}"
            )
        return _record(path, words, tensors, told)
    except NoDataError:
        raise
    except _DAMAGES as error:
        what = f"no {error}" if isinstance(error, KeyError) else error
        raise ValueError(
            f"{path} is a damaged capture, or one of another version: {in_a_line(what)}"
        ) from error


def _record(
    path: Path, words: dict[str, Any], tensors: dict[str, Tensor], told: Diagnosis
) -> Record:
    """What the words and tensors of a file say.

    Raises:
        KeyError, TypeError, ValueError, IndexError: they say nothing that could be.
    """
    is_old, call = words["format"] < FORMAT, _field(words, "call", dict)
    source = _source(call.get("loss"), tensors)
    kept = _call(call, tensors, words["format"])._replace(
        step=_field(words, "step", int), rank=_field(words, "rank", int)
    )
    lost = _lost_of_old(source, kept) if is_old else _texts(words["lost"], "lost")
    form = words.get("form")
    versions = _field(words, "versions", dict)
    _texts([versions["torch"], *versions.values()], "versions")
    return Record(
        path,
        source,
        kept,
        _texts(call.get("names", []), "names of arguments"),
        None if form is None else _form(_typed(form, dict, "the form"), kept),
        told,
        versions,
        _typed(words.get("is_enough", True), bool, "is_enough"),
        _typed(words.get("fails_again", True), bool, "fails_again"),
        lost,
    )


def _lost_of_old(source: LossSource, call: LossCall) -> list[str]:
    """What a former version may have left out without saying so: one that it couldn't keep took
    all options with it, and in a call there is nothing in its place.
    """
    every = [*enumerate(call.arguments), *call.keywords.items()]
    nothing = [name for name, value in every if value is None and name not in call.places]
    words = [f"argument {n + 1}" if isinstance(n, int) else n for n in nothing]
    lost = [f"{name}, if it was a list or an object" for name in words]
    return lost if source.place else [_OF_OLD, *lost]


def _source(words: Any, tensors: Mapping[str, Tensor]) -> LossSource:
    if words is None:  # of a lambda, in formats 1 and 2
        return LossSource("", {}, is_class=False)
    _typed(words, dict, "the loss")
    options, bound, variables = (
        _values(words.get(name, {}), tensors, name) for name in ("options", "bound", "variables")
    )
    text = _typed(words.get("text", ""), str, "the code")
    if len(text) > _CODE:
        raise ValueError(f"expected code of at most {_CODE} characters, got {len(text)}")
    is_class = _field(words, "is_class", bool)
    positional = _texts(words.get("positional", []), "positional options")
    if not set(positional) <= (bound if is_class else options).keys():
        raise ValueError(f"expected names of options, got {positional!r}")
    place = _field(words, "place", str)
    return LossSource(place, options, is_class, text, bound, positional, variables)


def _call(words: dict[str, Any], tensors: dict[str, Tensor], written: int) -> LossCall:
    """A call without its loss."""
    logits, targets, samples = tensors["logits"], tensors["targets"], tensors.get("samples")
    if not logits.is_floating_point():
        raise TypeError(f"expected logits of floats, got {logits.dtype}")
    if samples is not None and samples.shape[:1] != logits.shape[:1]:
        raise ValueError(f"expected {logits.shape[:1].numel()} samples, got {len(samples)}")
    arguments = [value_of(value, tensors) for value in _field(words, "arguments", list)]
    keywords = _values(_field(words, "keywords", dict), tensors, "keywords")
    if written < FORMAT:
        arguments = [tensors.get(f"{_TENSOR}{i}", v) for i, v in enumerate(arguments)]
        keywords = {name: tensors.get(_TENSOR + name, v) for name, v in keywords.items()}
    if written == 1:  # where logits and targets were always the first two
        arguments = [None, None, *arguments]
    places = _typed(words.get("places", [0, 1]), list, "places")
    for place in places:
        is_there = place in keywords if isinstance(place, str) else place in range(len(arguments))
        if not is_there or isinstance(place, bool):
            raise ValueError(f"expected places of the call, got {place!r}")
    if len(places) != 2 or places[0] == places[1]:
        raise ValueError(f"expected places of logits and targets, got {places!r}")
    autocast = words["autocast"]
    return LossCall(
        _no_loss,
        logits,
        targets,
        arguments,
        keywords,
        Places(*places),
        None if autocast is None else dtype_of(autocast),
        samples,
    )


def _no_loss(*_: Any, **__: Any) -> Any:
    """Stands in the place of a loss that hasn't been imported."""
    raise TypeError("the loss of the capture hasn't been imported")


def _form(words: dict[str, Any], call: LossCall) -> Form:
    """A form, if it fits the logits and targets."""
    mask = words.get("mask")
    ignored = _typed(words.get("ignored", []), list, "ignored")
    if mask is not None and not _is_number(mask, int) and not isinstance(mask, str):
        raise TypeError(f"expected the mask to be an argument, got {mask!r}")
    if not all(_is_number(value, int | float) for value in ignored):
        raise TypeError(f"expected numbers to be ignored, got {ignored!r}")
    form = Form(
        _one_of(words["kind"], get_args(Kind), "kind"),
        _typed(words.get("dim", 1), int, "dim"),
        _typed(words.get("has_channel", False), bool, "has_channel"),
        tuple(ignored),
        mask,
    )
    if form.kind == "unknown":
        return form
    if not 1 <= form.dim < max(call.logits.ndim, 2):
        raise ValueError(f"expected classes in a dimension of the logits, got {form.dim}")
    try:
        form.counts(call)
        shape = form.margins(call).shape
    except (RuntimeError, TypeError, IndexError) as error:
        raise ValueError(f"expected targets of the form {form.kind}: {error}") from error
    x = form.over_classes(call.logits)
    if shape != (x.shape if form.is_binary else (*x.shape[:1], *x.shape[2:])):
        raise ValueError(f"expected targets of the form {form.kind}")
    return form


def _diagnosis(words: dict[str, Any]) -> Diagnosis:
    sample, position = words["sample"], _field(words, "position", list)
    for value in [*position, *([] if sample is None else [sample])]:
        _typed(value, int, "a place in the batch")
    return Diagnosis(
        _one_of(words["cause"], get_args(Cause), "cause"),
        _field(words, "paragraph", str),
        sample,
        tuple(position),
        _field(words, "logit", int | float),
        _field(words, "margin", int | float),
        _field(words, "broken", int),
    )


def _values(words: Any, tensors: Mapping[str, Tensor], what: str) -> dict[str, Any]:
    values = _typed(words, dict, what).items()
    return {name: value_of(value, tensors) for name, value in values}


def _texts(words: Any, what: str) -> list[str]:
    return [_typed(text, str, what) for text in _typed(words, list, what)]


def _field(words: Mapping[str, Any], name: str, kind: Any) -> Any:
    return _typed(words[name], kind, name)


def _typed(value: Any, kind: Any, what: str) -> Any:
    """The value.

    Raises:
        TypeError: it is of another type.
    """
    if not (isinstance(value, bool) if kind is bool else _is_number(value, kind)):
        raise TypeError(f"expected {what} to be {_NAMES.get(kind, 'a number')}, got {value!r}")
    return value


def _is_number(value: Any, kind: Any) -> bool:
    """Whether it is of a type, and no truth in the place of a number."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _one_of(value: Any, known: tuple[str, ...], what: str) -> Any:
    if value not in known:
        raise ValueError(f"expected {what} to be one of {', '.join(known)}, got {value!r}")
    return value


_NAMES = {bool: "true or false", dict: "a table", int: "a whole number", list: "a list",
          str: "a text"}  # fmt: skip
