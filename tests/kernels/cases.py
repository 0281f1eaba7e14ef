"""How the kernels of `parfocal.numerics.triton` are compiled for a call: cases for `offline`."""

from dataclasses import replace

from kernels.offline import Case
from parfocal.numerics.triton.tiles import OUTER

ELEMENTWISE = "parfocal.numerics.triton.elementwise"
EXPONENTS = dict.fromkeys(("gamma", "c", "c_rest", "number", "second", "c_2", "c_2_rest"), "fp32")


def _elementwise(name, pointers, constants, elements, warps):
    """A call with targets of the layout of x, no weight, no mask, and nothing that comes in."""
    none = dict.fromkeys(("weight_ptr", "mask_ptr", "incoming_ptr"))
    strides = {"y_stride": 1, "weight_stride": 0, "mask_stride": 0, "inner": 1}
    signature = pointers | {"n": "i32"} | EXPONENTS
    constants = none | strides | {"CLASSES": 0, "WIDE": False} | constants | {"BLOCK": elements}
    return Case(f"{ELEMENTWISE}:{name}", signature, constants, elements, warps=warps)


def of_classes(case, classes, *, in_maps=False, wide=False):
    """The same call with class indices, of rows or of maps, in place of targets.

    wide: whether there are more logits than 32 bits count.
    """
    constants = dict(case.constants) | {"CLASSES": classes, "WIDE": wide}
    if not in_maps:
        return replace(case, constants=constants)
    del constants["inner"]
    return replace(case, signature=dict(case.signature) | {"inner": "i32"}, constants=constants)


def sums(x, y, *, soft="never", alpha=None, loss="focal", elements=1024, warps=4):
    """A mean with its gradient, in one pass.

    x, y: Triton's types of logits and targets: *fp32, *fp16, *bf16; *i1 is bool.
    alpha: None, or "fp32".
    """
    pointers = {"x_ptr": x, "y_ptr": y, "partial_ptr": "*fp32", "gradient_ptr": x, "factor": "fp32"}
    constants = {"LOSS": loss, "SOFT": soft, "GRADE": _grade(x), "IS_MADE": False}
    constants |= {"divisor_ptr": None}
    numbers = {"alpha": alpha} if alpha else {}
    constants |= {} if alpha else {"alpha": None}
    return _elementwise("sum_kernel", pointers | numbers, constants, elements, warps)


def values(x, y, *, soft="never", loss="focal", elements=1024, warps=4):
    """Each loss, without alpha."""
    pointers = {"x_ptr": x, "y_ptr": y, "out_ptr": x}
    constants = {
        "LOSS": loss,
        "SOFT": soft,
        "GRADE": _grade(x),
        "incoming_stride": 0,
        "alpha": None,
    }
    return _elementwise("each_kernel", pointers, constants, elements, warps)


def _grade(x):
    return 32 if x == "*fp32" else 16


def rows_of_classes(tile, width, dtype, gpu="sm_90", strides=(), smoothing=None):
    """How rows of a width are compiled, their gradient wanted; strides: those that are 1.

    smoothing: None, "even", or "weighted" by class weights.
    """
    pointers = {f"{name}_ptr": dtype for name in ("x", "gradient")}
    pointers |= {"index_ptr": "*i64", "weight_ptr": "*fp32", "partial_ptr": "*fp32"}
    strides_of_x = {"positions", "classes", "image_stride", "position_stride", "class_stride"}
    numbers = dict.fromkeys(("gamma", "factor"), "fp32")
    module, prefix, constants = "classes", "_", {}
    if smoothing:
        module, prefix = "smoothed", ""
        numbers |= dict.fromkeys(("true_share", "even_share"), "fp32")
        constants = {"class_weight_ptr": None} if smoothing == "even" else {}
        pointers |= {"class_weight_ptr": "*fp32"} if smoothing == "weighted" else {}
    name = "a_position_a_thread" if tile.one_a_thread else "whole_rows"
    return Case(
        f"parfocal.numerics.triton.{module}:{prefix}{name}",
        pointers | dict.fromkeys(strides_of_x - set(strides), "i32") | numbers,
        dict.fromkeys(strides, 1)
        | constants
        | {
            "divisor_ptr": None,
            "incoming_ptr": None,
            "loss_ptr": None,
            "GRADE": 32 if dtype == "*fp32" else 16,
            "CLASSES": tile.classes,
            "POSITIONS": tile.positions,
            "LOOPS": tile.loops,
            "ALL_CLASSES": width if tile.classes <= 64 else 0,
            "IN_ROWS": tile.one_a_thread and not strides,
            "IS_MADE": False,
            "DIM": OUTER,
        },
        elements=tile.classes * tile.positions if tile.loops else width * tile.positions,
        warps=tile.warps,
        gpu=gpu,
        divisible=(),
    )
