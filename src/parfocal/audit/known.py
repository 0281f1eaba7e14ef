"""The focal losses of known libraries: one entry is how one of them is called."""

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from parfocal.audit.subject import Subject, SubjectError, load


@dataclass(frozen=True)
class Known:
    """A loss of a distribution; the other fields are those of `Subject`.

    note: what a reader of the table should know.
    """

    name: str
    distribution: str
    target: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def version(self) -> str | None:
        """Of the distribution, None if it isn't installed."""
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return None

    def subject(self) -> Subject:
        """How it is called; imports it."""
        return Subject(self.name, self.target, load(self.target), **self.fields)


_NONE = {"reduction": "none"}

KNOWN = (
    Known(
        "torchvision",
        "torchvision",
        "torchvision.ops:sigmoid_focal_loss",
        {"options": {"alpha": -1, **_NONE}},
    ),
    Known(
        "fvcore",
        "fvcore",
        "fvcore.nn:sigmoid_focal_loss",
        {"options": {"alpha": -1, **_NONE}},
        note="computes in float32",
    ),
    Known(
        "transformers",
        "transformers",
        "transformers.loss.loss_for_object_detection:sigmoid_focal_loss",
        {"options": {"num_boxes": 1, "alpha": -1}, "reduced": "sum", "column": True},
        note="a sum over boxes",
    ),
    Known(
        "segmentation_models_pytorch, binary",
        "segmentation-models-pytorch",
        "segmentation_models_pytorch.losses:FocalLoss",
        {"is_class": True, "options": {"mode": "binary", **_NONE}},
    ),
    Known(
        "segmentation_models_pytorch, multiclass",
        "segmentation-models-pytorch",
        "segmentation_models_pytorch.losses:FocalLoss",
        {
            "is_class": True,
            "kind": "multiclass",
            "reduced": "sum",
            "options": {"mode": "multiclass", "reduction": "sum"},
        },
    ),
    Known(
        "pytorch-toolbelt",
        "pytorch-toolbelt",
        "pytorch_toolbelt.losses:BinaryFocalLoss",
        {"is_class": True, "options": {"alpha": None, **_NONE}},
    ),
    Known(
        "Keras, binary",
        "keras",
        "keras.losses:BinaryFocalCrossentropy",
        {
            "is_class": True,
            "targets_first": True,
            "column": True,
            "options": {"from_logits": True, "reduction": None},
        },
        note="on its torch backend",
    ),
    Known(
        "Keras, categorical",
        "keras",
        "keras.losses:CategoricalFocalCrossentropy",
        {
            "is_class": True,
            "kind": "multiclass",
            "one_hot": True,
            "targets_first": True,
            "options": {"from_logits": True, "alpha": 1.0, "reduction": None},
        },
        note="on its torch backend",
    ),
    Known(
        "MONAI, sigmoid",
        "monai",
        "monai.losses:FocalLoss",
        {"is_class": True, "column": True, "options": dict(_NONE)},
    ),
    Known(
        "MONAI, softmax",
        "monai",
        "monai.losses:FocalLoss",
        {
            "is_class": True,
            "kind": "multiclass",
            "one_hot": True,
            "options": {"use_softmax": True, **_NONE},
        },
    ),
    Known(
        "kornia, binary",
        "kornia",
        "kornia.losses:binary_focal_loss_with_logits",
        {"column": True, "options": {"alpha": None, **_NONE}},
    ),
    Known(
        "kornia, multiclass",
        "kornia",
        "kornia.losses:focal_loss",
        {"kind": "multiclass", "options": {"alpha": None, **_NONE}},
    ),
    Known(
        "optax",
        "optax",
        "optax.losses:sigmoid_focal_loss",
        {"framework": "jax"},
    ),
    Known(
        "parfocal, sigmoid",
        "parfocal",
        "parfocal:sigmoid_focal_loss",
        {"options": {"alpha": None, **_NONE}},
    ),
    Known(
        "parfocal, softmax",
        "parfocal",
        "parfocal:softmax_focal_loss",
        {"kind": "multiclass", "options": dict(_NONE)},
    ),
)


def known(name: str) -> Known:
    """The entry of a name."""
    for entry in KNOWN:
        if entry.name == name:
            return entry
    raise SubjectError(f"no known loss is called {name!r}")
