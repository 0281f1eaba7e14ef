"""A failure in a file of a few kilobytes, from which it can be made again on another machine.

The file is in the format of safetensors, which holds arrays and text and runs no code: logits and
targets of the samples that matter, and, as JSON, the loss by its place and arguments, the dtype of
the autocast, versions, and the paragraph. To replay it, the loss is imported from its place, if it
is one of `trust` or the place is trusted by whoever replays it.
"""

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from parfocal.guard.diagnosis import Diagnosis, diagnose
from parfocal.guard.loss_call import Call, Pass
from parfocal.guard.source import Recipe, plain_number, recipe_of
from parfocal.guard.trust import TrustError
from parfocal.places import PlaceError

FORMAT = 1

# Of these at most so many are kept: positions of binary logits, rows of class logits.
_POSITIONS = 64
_NUMBERS = 1 << 14

# Before the name or the place of an argument of the loss that is a tensor.
_TENSOR = "argument "


class Capture(NamedTuple):
    """What a file holds.

    told: what was said of the failure when it happened.
    loss: the place of the loss, `package.module:name`; None if it has none that can be imported.
    """

    seen: Pass
    told: Diagnosis
    loss: str | None
    versions: dict[str, str]


def save_capture(path: str | Path, seen: Pass, found: Diagnosis) -> Path:
    """Write what matters of a failing pass.

    Raises:
        ModuleNotFoundError: without safetensors, which the extra `guard` brings.
        OSError: the file can't be written.
    """
    from safetensors.torch import save_file

    part = _part(seen, found)
    recipe = _tried_recipe(part, found)
    call = {
        "loss": recipe and recipe._asdict(),
        "arguments": [_plain(value) for value in part.call.arguments],
        "keywords": {name: _plain(value) for name, value in part.call.keywords.items()},
        "autocast": part.call.autocast and str(part.call.autocast).removeprefix("torch."),
    }
    words = {
        "format": FORMAT,
        "call": call,
        "step": part.step,
        "rank": part.rank,
        "told": found._asdict(),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }
    tensors = {"logits": part.logits, "targets": part.targets}
    if part.samples is not None:
        tensors["samples"] = part.samples
    tensors |= {_TENSOR + str(i): v for i, v in enumerate(part.call.arguments) if _is_tensor(v)}
    tensors |= {_TENSOR + name: v for name, v in part.call.keywords.items() if _is_tensor(v)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {"parfocal": json.dumps(words)})
    return path


def load_capture(
    path: str | Path, loss: Callable[..., Tensor] | None = None, *, trust: bool = False
) -> Capture:
    """Read a file, and import its loss, or take the one that is given.

    Args:
        path: the file.
        loss: what is called in place of the loss that the file names.
        trust: whether to import whatever the file names, which runs the code of that module and
            calls it with the options in the file. Without, only losses of parfocal and of the
            libraries that it knows are imported.

    Raises:
        ValueError: not a capture, or one whose loss can't be imported or isn't trusted, with no
            other given.
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
        if words.get("format") != FORMAT:
            raise ValueError(f"{path} is no capture of a guard, or of another version")
        return _capture(path, words, tensors, loss, trust)
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is no capture, or a damaged one: {error!r}") from error


def _capture(
    path: Path,
    words: dict[str, Any],
    tensors: dict[str, Tensor],
    loss: Callable[..., Tensor] | None,
    trust: bool,
) -> Capture:
    """What the words and tensors of a file say; see `load_capture`."""
    call, versions = words["call"], words["versions"]
    recipe = call["loss"] and Recipe(**call["loss"])
    if not isinstance(versions["torch"], str) or not tensors["logits"].is_floating_point():
        raise TypeError("expected the version of torch as text, and logits that are numbers")
    if loss is None:
        if recipe is None:
            raise ValueError(
                f"{path}: its loss can't be imported as it was, a lambda or a local function, say; "
                "name one by --loss"
            )
        try:
            loss = recipe.make(trust=trust)
        except TrustError as error:
            raise ValueError(
                f"{path}: not imported: {error}. If you trust the file and the code there, "
                "--trust imports it; --loss calls a loss of yours in its place"
            ) from error
        except (PlaceError, ImportError, TypeError) as error:
            raise ValueError(f"{path}: can't import {recipe.place}: {error}") from error
    autocast = call["autocast"] and getattr(torch, call["autocast"], None)
    if autocast is not None and not isinstance(autocast, torch.dtype):
        raise ValueError(f"{path} is no capture: expected a dtype of autocast, got {autocast!r}")
    arguments = [tensors.get(_TENSOR + str(i), v) for i, v in enumerate(call["arguments"])]
    keywords = {name: tensors.get(_TENSOR + name, v) for name, v in call["keywords"].items()}
    seen = Pass(
        Call(loss, arguments, keywords, autocast),
        tensors["logits"],
        tensors["targets"],
        tensors.get("samples"),
        words["step"],
        words["rank"],
    )
    told = Diagnosis(**words["told"])
    if not isinstance(told.paragraph, str):
        raise TypeError("expected a paragraph as text")
    return Capture(seen, told, recipe and recipe.place, versions)


def _tried_recipe(seen: Pass, found: Diagnosis) -> Recipe | None:
    """How the loss is made again, if that fails as the loss itself did."""
    recipe = recipe_of(seen.call.loss)
    try:
        if recipe and _fails_so(
            seen._replace(call=seen.call._replace(loss=recipe.make(trust=True))), found
        ):
            return recipe
    except Exception:  # whatever importing or constructing it may raise
        return None
    return None


def _part(seen: Pass, found: Diagnosis) -> Pass:
    """The samples that matter, if the failure is theirs alone; else the first of the batch."""
    for chosen in _choices(seen, found):
        try:
            if _fails_so(chosen, found):
                return chosen
        except Exception:  # whatever a loss may raise that needs the whole batch
            continue
    return _samples(seen, torch.arange(min(len(seen.logits), _POSITIONS)))


def _fails_so(seen: Pass, found: Diagnosis) -> bool:
    again = diagnose(seen)
    return again is not None and again.cause == found.cause


def _choices(seen: Pass, found: Diagnosis) -> list[Pass]:
    if seen.logits.ndim == 0:
        return [seen]
    u = seen.margin().nan_to_num(nan=torch.inf).abs()
    of_samples = u.flatten(1).amax(1) if u.ndim > 1 else u
    if found.sample is not None:
        of_samples[found.sample] = torch.inf
    few = of_samples.argsort(descending=True, stable=True)
    size = max(seen.logits[0].numel(), 1)
    choices = [_samples(seen, few[:count]) for count in (8, _POSITIONS) if count * size <= _NUMBERS]
    if not choices and found.position:
        choices.append(_position(seen, found.position))
    return [*choices, seen] if seen.logits.numel() <= _NUMBERS else choices


def _samples(seen: Pass, chosen: Tensor) -> Pass:
    """Some samples of the batch."""
    return seen._replace(
        call=seen.call.of_samples(chosen, len(seen.logits)),
        logits=seen.logits[chosen],
        targets=seen.targets[chosen],
        samples=chosen if seen.samples is None else seen.samples[chosen],
    )


def _position(seen: Pass, position: tuple[int, ...]) -> Pass:
    """One position of one sample, with dimensions of one element in place of the others."""
    at = tuple(slice(i, i + 1) for i in position)
    of_logits = at if seen.kind == "binary" else (at[0], slice(None), *at[1:])
    return seen._replace(
        call=seen.call.without_batch(len(seen.logits)),
        logits=seen.logits[of_logits],
        targets=seen.targets[at],
        samples=torch.tensor(position[:1]) if seen.samples is None else seen.samples[at[0]],
    )


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _plain(value: Any) -> Any:
    """A number or text; None for a tensor, which is kept as one, and for what can't be kept."""
    return number if isinstance(number := plain_number(value), str | int | float) else None
