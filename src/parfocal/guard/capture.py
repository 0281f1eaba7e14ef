"""A failure in a file of a few kilobytes, from which another machine can reproduce it.

The file has the safetensors format, which holds arrays and text and runs no code. It keeps logits
and targets of the samples that matter and, as JSON, the loss by its place and arguments, the dtype
of the autocast, versions, and the paragraph. `record` reads it.
"""

import json
import os
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from parfocal.guard.diagnosis import Diagnosis, diagnose
from parfocal.guard.form import Form, measure_form
from parfocal.guard.loss_call import Loss, LossCall, parameters
from parfocal.guard.plain import Keeper, value_of
from parfocal.guard.record import FORMAT, Capture, read_record
from parfocal.guard.source import LossSource, target
from parfocal.guard.trial import unchanged
from parfocal.guard.window import corner, position, samples

# Of a call at most so many samples, and logits, are kept; and classes of a softmax over more.
_SAMPLES = 64
_NUMBERS = 1 << 12
_CLASSES = 1 << 10


def save_capture(
    path: str | Path,
    call: LossCall,
    told: Diagnosis,
    form: Form | None = None,
    *,
    keep_data: bool = True,
) -> Path:
    """Write what matters of a failing call to a file.

    Args:
        path: the file; its folder is created. An existing file isn't overwritten: the new one gets
            a number in its name.
        call: the call.
        told: its diagnosis.
        form: how its targets are read; measured if None.
        keep_data: whether to keep logits, targets, sample numbers and arguments that are tensors.

    Returns:
        The path of the file.

    Raises:
        ModuleNotFoundError: without safetensors, which the extra `guard` installs.
        OSError: the file can't be written.
    """
    from safetensors.torch import save_file

    form = measure_form(call) if form is None else form
    part, is_enough = _part(call, told, form)
    with unchanged(call.loss, call.logits.device), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a loss that is constructed again
        keeper = Keeper()
        words = _words_of(part, keeper)
        is_tried = is_enough and (keeper.lost or words["call"]["loss"]["is_class"])
        fails_again = not is_tried or _fails_again(part, told, form, words["call"], keeper.tensors)
    words |= {
        "format": FORMAT,
        "form": form._asdict(),
        "step": part.step,
        "rank": part.rank,
        "told": told._asdict(),
        "is_enough": is_enough,
        "fails_again": fails_again,
        "lost": keeper.lost,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }
    tensors: dict[str, Tensor] = {}
    if keep_data:
        tensors = {**keeper.tensors, "logits": part.logits, "targets": part.targets}
        if part.samples is not None:
            tensors["samples"] = part.samples
        tensors = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
        }
    return _exclusively(
        Path(path), lambda new: save_file(tensors, new, {"parfocal": json.dumps(words)})
    )


def load_capture(path: str | Path, loss: Loss | None = None, *, trust: bool = False) -> Capture:
    """Read a capture, and import its loss or use another.

    Args:
        path: the file.
        loss: what to call instead of the loss that the file names: a function or a class. It gets
            the options of the captured loss that it accepts.
        trust: whether to import whatever the file names, or run the code in it, and call it with
            the options in the file. If False, only losses of parfocal and of known libraries are
            imported.

    Raises:
        ValueError: not a capture, or one whose loss can't be imported or isn't trusted, when
            `loss` is None; NoDataError if it holds no data.
        OSError: it can't be read.
    """
    record = read_record(path)
    return record.capture(trust=trust) if loss is None else record.capture_of(loss)


def _exclusively(path: Path, write: Callable[[Path], None]) -> Path:
    """Write a file that isn't there yet, under this name or one with a number; nothing, or all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new, number = path, 1
    while True:
        try:
            os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            break
        except FileExistsError:
            number += 1
            new = path.with_name(f"{path.stem}-{number}{path.suffix}")
    try:
        write(new)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    return new


def _words_of(call: LossCall, keeper: Keeper) -> dict[str, Any]:
    """A call as JSON, without logits and targets."""
    source = LossSource.from_loss(call.loss)
    keeper.lost += source.lost
    kept: dict[str, Any] = {
        "place": source.place,
        "is_class": source.is_class,
        "text": source.text,
        "options": keeper.keep(source.options),
        "bound": keeper.keep(source.bound),
        "variables": keeper.keep(source.variables),
    }
    bound = kept["bound"] if source.is_class else kept["options"]
    kept["positional"] = [name for name in source.positional if name in bound]
    known = list(parameters(call.loss))
    names = [
        known[i] if i < len(known) else f"argument {i + 1}" for i in range(len(call.arguments))
    ]
    arguments = _kept(dict(zip(names, call.arguments, strict=True)), keeper)
    return {
        "call": {
            "loss": kept,
            "places": call.places,
            "arguments": [arguments.get(name) for name in names],
            "names": names,
            "keywords": _kept(call.keywords, keeper),
            "autocast": call.autocast and str(call.autocast).removeprefix("torch."),
        }
    }


def _kept(arguments: Mapping[str, Any], keeper: Keeper) -> dict[str, Any]:
    """Arguments of a call as JSON; of a tensor that is too large an empty one is kept."""
    kept = keeper.keep(arguments)
    for name, value in arguments.items():
        if name not in kept and isinstance(value, Tensor) and value.layout == torch.strided:
            kept |= keeper.keep({name: value.detach()[:0]})
    return kept


def _fails_again(
    call: LossCall,
    told: Diagnosis,
    form: Form,
    words: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> bool:
    """Whether a loss that is made from the words fails as it did.

    Nothing is imported for it: the script of a training would begin anew.
    """
    kept = words["loss"]
    try:
        options, bound = (
            {name: value_of(value, tensors) for name, value in kept[of].items()}
            for of in ("options", "bound")
        )
        source = LossSource(
            kept["place"], options, kept["is_class"], bound=bound, positional=kept["positional"]
        )
        again = call._replace(
            loss=source.make(target(call.loss)),
            arguments=[value_of(value, tensors) for value in words["arguments"]],
            keywords={name: value_of(v, tensors) for name, v in words["keywords"].items()},
        )
        return _fails_so(again, told, form)
    except Exception:  # whatever a class or a loss raises
        return False


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
