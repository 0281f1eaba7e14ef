"""A failure in a file of a few kilobytes, from which it can be made again on another machine.

The file is in the format of safetensors, which holds arrays and text and runs no code: logits and
targets of the samples that matter, and, as JSON, the loss by its place and arguments, the dtype of
the autocast, versions, and the paragraph. To replay it, the loss is imported from its place, if it
is one of `trust` or the place is trusted by whoever replays it.
"""

import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from parfocal.guard.diagnosis import Diagnosis, diagnose
from parfocal.guard.form import Form, measure_form
from parfocal.guard.loss_call import Loss, LossCall, Places
from parfocal.guard.source import LossSource, plain_or_none, with_options
from parfocal.guard.trust import TrustError
from parfocal.guard.window import corner, position, samples
from parfocal.places import PlaceError

FORMAT = 2

# Of a call at most so many samples, logits, and numbers of an argument are kept; and classes of a
# softmax over more.
_SAMPLES = 64
_NUMBERS = 1 << 12
_CLASSES = 1 << 10

# Before the name or the place of an argument of the loss that is a tensor.
_TENSOR = "argument "


class Capture(NamedTuple):
    """What a file holds.

    call: the part of the failing call that was kept. form: how its targets are read.
    told: what was said of the failure when it happened.
    source: of the loss. not_passed: the options of that which a loss in its place doesn't take.
    is_enough: whether the part that was kept fails as the whole did.
    """

    call: LossCall
    form: Form | None
    told: Diagnosis
    source: LossSource
    versions: dict[str, str]
    not_passed: list[str]
    is_enough: bool


class NoDataError(ValueError):
    """A capture that was written without logits and targets."""


def save_capture(
    path: str | Path,
    call: LossCall,
    told: Diagnosis,
    form: Form | None = None,
    *,
    keep_data: bool = True,
) -> Path:
    """Write what matters of a failing call.

    Args:
        path: the file; its folder is made.
        call: the call.
        told: its diagnosis.
        form: how its targets are read; measured without.
        keep_data: whether logits, targets, sample numbers and arguments that are tensors are kept.

    Raises:
        ModuleNotFoundError: without safetensors, which the extra `guard` brings.
        OSError: the file can't be written.
    """
    from safetensors.torch import save_file

    form = measure_form(call) if form is None else form
    part, is_enough = _part(call, told, form)
    part = part.map_tensors(lambda tensor: tensor if tensor.numel() <= _NUMBERS else tensor[:0])
    words = {
        "format": FORMAT,
        "call": {
            "loss": _tried_source(part, told, form)._asdict(),
            "places": part.places,
            "arguments": plain_or_none(part.arguments),
            "keywords": dict(
                zip(part.keywords, plain_or_none(list(part.keywords.values())), strict=True)
            ),
            "autocast": part.autocast and str(part.autocast).removeprefix("torch."),
        },
        "form": form._asdict(),
        "step": part.step,
        "rank": part.rank,
        "told": told._asdict(),
        "is_enough": is_enough,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }
    tensors: dict[str, Tensor] = {}
    if keep_data:
        tensors = {"logits": part.logits, "targets": part.targets}
        if part.samples is not None:
            tensors["samples"] = part.samples
        named = [*enumerate(part.arguments), *part.keywords.items()]
        tensors |= {f"{_TENSOR}{name}": v for name, v in named if isinstance(v, Tensor)}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {"parfocal": json.dumps(words)})
    return path


def load_capture(path: str | Path, loss: Loss | None = None, *, trust: bool = False) -> Capture:
    """Read a file, and import its loss, or take the one that is given.

    Args:
        path: the file.
        loss: what is called in place of the loss that the file names: a function, or a class, with
            the options of the captured loss that it takes.
        trust: whether to import whatever the file names, or run the code in it, and to call it with
            the options in the file. Without, only losses of parfocal and of the libraries that it
            knows are imported.

    Raises:
        ValueError: not a capture, or one whose loss can't be imported or isn't trusted, with no
            other given; NoDataError, of one without data.
        OSError: it can't be read.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("parfocal")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is no capture: {error}") from error
    try:
        words = json.loads(text or "{}")
        if words.get("format") not in (1, FORMAT):
            raise ValueError(f"{path} is no capture of a guard, or of another version")
        told, versions = Diagnosis(**words["told"]), words["versions"]
        if not isinstance(told.paragraph, str) or not isinstance(versions["torch"], str):
            raise TypeError("expected a paragraph and the version of torch as text")
        if words["format"] == FORMAT and "logits" not in tensors:
            raise NoDataError(f"{path} was written without data. Then: {told.paragraph}")
        return _capture(path, words, tensors, loss, trust, told)
    except (AttributeError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise ValueError(f"{path} is no capture, or a damaged one: {error!r}") from error


def _capture(
    path: Path,
    words: dict[str, Any],
    tensors: dict[str, Tensor],
    loss: Loss | None,
    trust: bool,
    told: Diagnosis,
) -> Capture:
    """What the words and tensors of a file say; see `load_capture`."""
    call = words["call"]
    source = LossSource(**(call["loss"] or {"place": "", "options": {}, "is_class": False}))
    if not tensors["logits"].is_floating_point() or not isinstance(source.place, str):
        raise TypeError("expected logits that are numbers, and the place of a loss")
    arguments = [tensors.get(f"{_TENSOR}{i}", v) for i, v in enumerate(call["arguments"])]
    if words["format"] == 1:  # where logits and targets were always the first two
        arguments = [None, None, *arguments]
    keywords = {name: tensors.get(_TENSOR + name, v) for name, v in call["keywords"].items()}
    not_passed: list[str] = []
    if loss is None:
        loss = _loss(path, source, trust)
    else:
        loss, keywords, not_passed = with_options(loss, source.options, keywords)
    autocast = call["autocast"] and getattr(torch, call["autocast"], None)
    if autocast is not None and not isinstance(autocast, torch.dtype):
        raise ValueError(f"{path} is no capture: expected a dtype of autocast, got {autocast!r}")
    places = Places(*call.get("places", (0, 1)))
    form = words.get("form")
    kept = LossCall(
        loss,
        tensors["logits"],
        tensors["targets"],
        arguments,
        keywords,
        places,
        autocast,
        tensors.get("samples"),
        words["step"],
        words["rank"],
    )
    return Capture(
        kept,
        form and Form(**{**form, "ignored": tuple(form["ignored"])}),
        told,
        source,
        words["versions"],
        not_passed,
        bool(words.get("is_enough", True)),
    )


def _loss(path: Path, source: LossSource, trust: bool) -> Loss:
    """The loss of a file, if it is known or trusted."""
    shown = f", whose code was\n\n{source.text}\n" if source.text else ""
    if not source.place and not (trust and source.text):
        raise ValueError(
            f"{path}: its loss can't be imported as it was, a lambda or a local function, say"
            f"{shown or ';'} name one by --loss"
        )
    try:
        return source.build(trust=trust)
    except TrustError as error:
        raise ValueError(
            f"{path}: not imported: {error}{shown or '.'} If you trust the file and the code "
            "there, --trust imports it; --loss calls a loss of yours in its place"
        ) from error
    except (PlaceError, ImportError, TypeError) as error:
        raise ValueError(
            f"{path}: can't import {source.place}: {error}; --loss calls another loss"
        ) from error


def _tried_source(call: LossCall, told: Diagnosis, form: Form) -> LossSource:
    """How the loss is made again; of a module only if one that is made so fails as it did.

    Nothing is imported for it: the script of a training would begin anew.
    """
    source = LossSource.from_loss(call.loss)
    if not source.is_class:
        return source
    try:
        make: Any = type(call.loss)
        again = call._replace(loss=make(**source.options))
        if _fails_so(again, told, form):
            return source
    except Exception:
        pass
    return source._replace(place="")


def _part(call: LossCall, told: Diagnosis, form: Form) -> tuple[LossCall, bool]:
    """The samples that matter, and whether the failure is theirs alone."""
    for part in _parts(call, told, form):
        try:
            if part.logits.numel() <= _NUMBERS and _fails_so(part, told, form):
                return part, True
        except Exception:
            continue
    part = corner(call, form.dim, _NUMBERS)
    while part.logits.numel() > _NUMBERS and form.kind in ("index", "one-vs-rest"):
        part = _of_classes(part, form)
    return part, False


def _fails_so(call: LossCall, told: Diagnosis, form: Form) -> bool:
    again = diagnose(call, form)
    return again is not None and again.cause == told.cause


def _parts(call: LossCall, told: Diagnosis, form: Form) -> Iterator[LossCall]:
    """Parts of a call, the first of which that fails is kept."""
    x = call.logits
    if x.ndim == 0:
        yield call
        return
    if form.kind == "unknown":
        of_samples = x.abs().nan_to_num(nan=torch.inf).flatten(1).amax(1) if x.ndim > 1 else x.abs()
    else:
        u = form.margins(call).nan_to_num(nan=torch.inf).abs()
        of_samples = u.flatten(1).amax(1) if u.ndim > 1 else u
    if told.sample is not None:
        of_samples = of_samples.clone()
        of_samples[told.sample] = torch.inf
    few = of_samples.argsort(descending=True, stable=True)
    size = max(x[0].numel(), 1)
    for count in (8, _SAMPLES, 1):
        if count * size <= _NUMBERS:
            yield samples(call, few[:count])
    if told.position and x.ndim > 1:
        at = told.position
        if form.is_binary and len(at) == x.ndim:
            at = (*at[:1], *at[2:])
        one = position(call, at, form.dim)
        yield one
        if form.kind in ("index", "one-vs-rest"):
            yield _of_classes(one, form)
    yield call


def _of_classes(call: LossCall, form: Form) -> LossCall:
    """The classes with the largest logits, and those of the targets."""
    x = form.over_classes(call.logits)
    score = x.flatten(2).amax(2).amax(0) if x.ndim > 2 else x.amax(0)
    y = form.targets(call)
    score[y[(y >= 0) & (y < len(score))]] = torch.inf
    kept = score.topk(min(_CLASSES, max(1, len(score) // 2))).indices.sort().values
    place = torch.searchsorted(kept, y.clamp(0, int(kept[-1])))
    targets = torch.where((y >= 0) & (y < len(score)), place, y).to(call.targets.dtype)

    def take(tensor: Tensor) -> Tensor:
        return tensor[kept] if tensor.shape == score.shape else tensor

    return call.map_tensors(take)._replace(
        logits=call.logits.index_select(form.dim, kept),
        targets=targets.unsqueeze(form.dim) if form.has_channel else targets,
    )
