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
        "transformers, Grounding DINO",
        "transformers",
        "transformers.loss.loss_grounding_dino:sigmoid_focal_loss",
        {"options": {"num_boxes": 1, "alpha": -1}, "reduced": "sum"},
        note="a sum over boxes",
    ),
    Known(
        "transformers, MaskFormer",
        "transformers",
        "transformers.models.maskformer.modeling_maskformer:sigmoid_focal_loss",
        {"options": {"num_masks": 1, "alpha": -1}, "reduced": "sum", "column": True},
        note="a sum over masks",
    ),
    Known(
        "timm, asymmetric, multi-label",
        "timm",
        "timm.loss:AsymmetricLossMultiLabel",
        {"is_class": True, "gamma": "gamma_neg", "options": dict(_NONE)},
        note="gamma_neg, at its gamma_pos of 1; computes in float32",
    ),
    Known(
        "timm, asymmetric, one label",
        "timm",
        "timm.loss:AsymmetricLossSingleLabel",
        {
            "is_class": True,
            "kind": "multiclass",
            "gamma": "gamma_pos",
            "options": {"eps": 0.0, **_NONE},
        },
        note="without its label smoothing, where gamma_neg has no part in it",
    ),
    Known(
        "fastai",
        "fastai",
        "fastai.losses:FocalLoss",
        {"is_class": True, "kind": "multiclass", "options": dict(_NONE)},
    ),
    Known(
        "GLiNER",
        "gliner",
        "gliner.modeling.loss_functions:focal_loss_with_logits",
        {"options": {"alpha": -1, **_NONE}},
    ),
    Known(
        "Ultralytics",
        "ultralytics",
        "ultralytics.utils.loss:FocalLoss",
        {"is_class": True, "column": True, "reduced": "sum", "options": {"alpha": -1}},
    ),
    Known(
        "MMDetection, focal",
        "mmdet",
        "mmdet.models.losses:FocalLoss",
        {"is_class": True, "options": dict(_NONE)},
        note="in Python, as on a CPU",
    ),
    Known(
        "MMDetection, focal of probabilities",
        "mmdet",
        "mmdet.models.losses:FocalLoss",
        {"is_class": True, "takes": "probabilities", "options": {"activated": True, **_NONE}},
    ),
    Known(
        "MMDetection, varifocal",
        "mmdet",
        "mmdet.models.losses:VarifocalLoss",
        {"is_class": True, "options": dict(_NONE)},
    ),
    Known(
        "MMDetection, quality focal",
        "mmdet",
        "mmdet.models.losses:QualityFocalLoss",
        {"is_class": True, "gamma": "beta", "column": True, "options": dict(_NONE)},
    ),
    Known(
        "MMDetection, Gaussian focal",
        "mmdet",
        "mmdet.models.losses:GaussianFocalLoss",
        {"is_class": True, "takes": "probabilities", "gamma": "alpha", "options": dict(_NONE)},
        note="alpha is its focusing exponent",
    ),
    Known(
        "MMSegmentation",
        "mmsegmentation",
        "mmseg.models.losses:FocalLoss",
        {"is_class": True, "column": True, "options": dict(_NONE)},
        note="in Python, as on a CPU",
    ),
    Known(
        "RF-DETR, focal",
        "rfdetr",
        "rfdetr.models.criterion:sigmoid_focal_loss",
        {"options": {"num_boxes": 1, "alpha": -1}, "reduced": "sum", "column": True},
        note="a sum over boxes",
    ),
    Known(
        "RF-DETR, varifocal",
        "rfdetr",
        "rfdetr.models.criterion:sigmoid_varifocal_loss",
        {"options": {"num_boxes": 1}, "reduced": "sum", "column": True},
        note="a sum over boxes",
    ),
    Known(
        "RF-DETR, position-supervised",
        "rfdetr",
        "rfdetr.models.criterion:position_supervised_loss",
        {"options": {"num_boxes": 1, "alpha": -1}, "reduced": "sum", "column": True},
        note="a sum over boxes",
    ),
    Known(
        "effdet",
        "effdet",
        "effdet.loss:new_focal_loss",
        {"options": {"alpha": 0.25, "normalizer": 1.0, "label_smoothing": 0.0}},
        note="without its label smoothing",
    ),
    Known(
        "effdet, legacy",
        "effdet",
        "effdet.loss:focal_loss_legacy",
        {"options": {"alpha": 0.25, "normalizer": 1.0}},
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
        note="computes in float32",
    ),
    Known(
        "pytorch-toolbelt, multiclass",
        "pytorch-toolbelt",
        "pytorch_toolbelt.losses:CrossEntropyFocalLoss",
        {"is_class": True, "kind": "multiclass", "options": dict(_NONE)},
        note="each class's binary cross-entropy, weighed by the softmax",
    ),
    Known(
        "pytorch-toolbelt, quality focal",
        "pytorch-toolbelt",
        "pytorch_toolbelt.losses:QualityFocalLoss",
        {"is_class": True, "gamma": "beta", "options": dict(_NONE)},
        note="computes in float32",
    ),
    Known(
        "Catalyst, binary",
        "catalyst",
        "catalyst.contrib.losses.focal:FocalLossBinary",
        {"is_class": True, "options": {"alpha": None, **_NONE}},
    ),
    Known(
        "Catalyst, multiclass",
        "catalyst",
        "catalyst.contrib.losses.focal:FocalLossMultiClass",
        {"is_class": True, "kind": "multiclass", "options": {"alpha": None, **_NONE}},
    ),
    Known(
        "imbalanced-losses, sigmoid",
        "imbalanced-losses",
        "imbalanced_losses:SigmoidFocalLoss",
        {"is_class": True, "options": {"alpha": -1, **_NONE}},
    ),
    Known(
        "imbalanced-losses, softmax",
        "imbalanced-losses",
        "imbalanced_losses:SoftmaxFocalLoss",
        {"is_class": True, "kind": "multiclass", "options": dict(_NONE)},
    ),
    Known(
        "focal-loss-torch",
        "focal-loss-torch",
        "focal_loss.focal_loss:FocalLoss",
        {
            "is_class": True,
            "kind": "multiclass",
            "takes": "probabilities",
            "options": dict(_NONE),
        },
    ),
    Known(
        "pytorch-focalloss, binary",
        "pytorch-focalloss",
        "torch_focalloss:BinaryFocalLoss",
        {"is_class": True, "options": dict(_NONE)},
    ),
    Known(
        "pytorch-focalloss, multiclass",
        "pytorch-focalloss",
        "torch_focalloss:MultiClassFocalLoss",
        {"is_class": True, "kind": "multiclass", "options": dict(_NONE)},
    ),
    Known(
        "balanced-loss",
        "balanced-loss",
        "balanced_loss.losses:focal_loss",
        {"kind": "multiclass", "one_hot": True, "reduced": "mean"},
        note="a sum over the number of positives",
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
        "MONAI, sigmoid_focal_loss",
        "monai",
        "monai.losses.focal_loss:sigmoid_focal_loss",
    ),
    Known(
        "MONAI, softmax_focal_loss",
        "monai",
        "monai.losses.focal_loss:softmax_focal_loss",
        {"kind": "multiclass", "one_hot": True},
    ),
    Known(
        "MONAI, asymmetric",
        "monai",
        "monai.losses.unified_focal_loss:AsymmetricFocalLoss",
        {
            "is_class": True,
            "kind": "multiclass",
            "takes": "probabilities",
            "one_hot": True,
            "options": dict(_NONE),
        },
        note="of two classes",
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
