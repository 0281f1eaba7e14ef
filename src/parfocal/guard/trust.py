"""Which losses a capture may name without asking: a table of places.

A capture comes from elsewhere. Importing what it names runs the code of that module, and a call
with options from the file may do anything. So a replay imports only what this table names, from
the place it names; whoever replays the capture must trust anything else.
"""

import importlib
from collections.abc import Callable
from typing import Any

from torch import Tensor

from parfocal.places import load

LIBRARIES = (
    "torch.nn:BCEWithLogitsLoss",
    "torch.nn:CrossEntropyLoss",
    "torch.nn.functional:binary_cross_entropy_with_logits",
    "torch.nn.functional:cross_entropy",
    "torchvision.ops:sigmoid_focal_loss",
    "fvcore.nn:sigmoid_focal_loss",
    "kornia.losses:BinaryFocalLossWithLogits",
    "kornia.losses:FocalLoss",
    "kornia.losses:TverskyLoss",
    "kornia.losses:binary_focal_loss_with_logits",
    "kornia.losses:focal_loss",
    "kornia.losses:tversky_loss",
    "monai.losses:DiceFocalLoss",
    "monai.losses:FocalLoss",
    "monai.losses:TverskyLoss",
    "pytorch_toolbelt.losses:BinaryFocalLoss",
    "pytorch_toolbelt.losses:CrossEntropyFocalLoss",
    "segmentation_models_pytorch.losses:FocalLoss",
    "segmentation_models_pytorch.losses:TverskyLoss",
    "transformers.loss.loss_for_object_detection:sigmoid_focal_loss",
)
"""The losses of other libraries, by their public places. A library may define them elsewhere."""


class TrustError(Exception):
    """A capture names something that isn't known to be a loss."""


def known_loss(place: str) -> Callable[..., Tensor]:
    """The loss at a place, if it is one of parfocal's or of LIBRARIES; nothing else is imported.

    Args:
        place: `package.module:name`, public or where the loss is defined.

    Raises:
        TrustError: no such loss is known.
        ImportError: its library isn't installed.

    >>> known_loss("parfocal.losses.sigmoid:sigmoid_focal_loss").__name__
    'sigmoid_focal_loss'
    >>> known_loss("os:system")
    Traceback (most recent call last):
    parfocal.guard.trust.TrustError: os:system is no loss of parfocal or of a library it knows
    """
    module, _, name = place.partition(":")
    package = module.partition(".")[0]
    public_places = (*_own(name), *LIBRARIES) if package == "parfocal" else LIBRARIES
    for public in public_places:
        if public.partition(".")[0].partition(":")[0] == package and public.endswith(f":{name}"):
            loss: Any = load(public)
            if place in (public, f"{loss.__module__}:{loss.__qualname__}"):
                return loss  # type: ignore[no-any-return]
    raise TrustError(f"{place} is no loss of parfocal or of a library it knows")


def _own(name: str) -> tuple[str, ...]:
    is_loss = "loss" in name.lower() and name in importlib.import_module("parfocal").__all__
    return (f"parfocal:{name}",) if is_loss else ()
