"""Whoever records a call, or stands in for its tensors, gets the loss and no constant."""

import contextlib
import io
import os
from functools import partial

import pytest
import torch
from loss_cases import LOSSES, SHAPES, way_of
from sampled import first_of_each
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

import parfocal

# The mean of those that have one: a sum in one pass looks at values, where it may.
MEANS = [
    case._replace(loss=partial(case.loss, reduction="mean"))
    if "reduction" in case.options
    else case
    for case in LOSSES
]

every_case = pytest.mark.parametrize("case", MEANS, ids=lambda case: case.name)
# Of what takes seconds each.
every_way = pytest.mark.parametrize(
    "case", first_of_each(MEANS, way_of), ids=lambda case: case.name
)

# What torch says about its own tracing.
pytestmark = pytest.mark.filterwarnings("ignore")


class Criterion(torch.nn.Module):
    """A loss as a module, which exporters want."""

    def __init__(self, case):
        super().__init__()
        self.loss = case.loss

    def forward(self, logits, targets):
        """The loss."""
        return self.loss(logits, targets)


def draw(case, seed=0, times=1):
    """Logits in float32 and targets, of a batch or of several."""
    logits, targets = case.draw(seed, torch.float32)
    targets = targets.float() if targets.is_floating_point() else targets
    return torch.cat([logits] * times), torch.cat([targets] * times)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@every_case
def test_a_trace_is_the_loss_of_other_batches_too(case):
    """By torch.jit.trace, saved and loaded, so that no Python is in it; with its gradient."""
    traced = torch.jit.trace(Criterion(case), draw(case))
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    traced = torch.jit.load(file)
    for batch in (draw(case, 3), draw(case, 3, times=3)):
        close(traced(*batch), case.loss(*batch))
    gradients = []
    for loss in (traced, case.loss):
        logits, targets = draw(case, 3)
        logits.requires_grad_()
        gradients.append(torch.autograd.grad(loss(logits, targets), logits)[0])
    close(*gradients)


@every_way
def test_exports_for_any_batch(case):
    """By torch.export, with a dimension that varies."""
    batch = torch.export.Dim("batch", min=2, max=1024)
    shapes = ({0: batch}, {0: batch})
    program = torch.export.export(Criterion(case), draw(case), dynamic_shapes=shapes)
    for other in (draw(case, 3), draw(case, 3, times=3)):
        close(program.module()(*other), case.loss(*other))


@every_way
def test_onnx_computes_the_same(case):
    """By torch.onnx.export, with onnxruntime."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        program = torch.onnx.export(Criterion(case), draw(case), dynamo=True)
    file = io.BytesIO()
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue())
    logits, targets = draw(case, 3)
    names = [given.name for given in session.get_inputs()]
    (found,) = session.run(None, dict(zip(names, (logits.numpy(), targets.numpy()), strict=True)))
    expected = case.loss(logits, targets)
    found = torch.from_numpy(found).view(expected.shape)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@every_way
def test_a_graph_of_operations_is_the_loss(case):
    """By make_fx, of plain tensors, forward and backward."""

    def slope(logits, targets):
        loss = case.loss(logits, targets)
        return loss, torch.autograd.grad(loss, logits)[0]

    def leaf(logits, targets):
        return logits.detach().requires_grad_(), targets

    graph = make_fx(slope)(*leaf(*draw(case)))
    for found, expected in zip(
        graph(*leaf(*draw(case, 3))), slope(*leaf(*draw(case, 3))), strict=True
    ):
        close(found, expected)


# DTensor has an operation more with each release, amax and the mean of a shard among them.
KNOWS_ENOUGH = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    """A mesh of this process alone."""
    from torch.distributed.device_mesh import init_device_mesh

    store = tmp_path_factory.mktemp("group") / "store"
    before = os.environ.copy()
    torch.distributed.init_process_group("gloo", f"file://{store}", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.skipif(not KNOWS_ENOUGH, reason="this torch's DTensor lacks operations")
@every_case
@pytest.mark.parametrize("dim", [None, 0, 1])
def test_distributed_tensors_have_the_loss_of_plain_ones(case, dim, mesh):
    """Sharded by rows or by classes, or replicated; value and gradient."""
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    logits, targets = draw(case)
    place = Replicate() if dim is None else Shard(dim)
    is_index = targets.shape != logits.shape
    of_targets = Replicate() if dim == 1 and is_index else place
    sharded = distribute_tensor(logits, mesh, [place]).requires_grad_()
    loss = case.loss(sharded, distribute_tensor(targets, mesh, [of_targets]))
    (gradient,) = torch.autograd.grad(loss.sum(), sharded)
    plain = logits.requires_grad_()
    expected = case.loss(plain, targets)
    close(loss.full_tensor(), expected)
    close(gradient.full_tensor(), torch.autograd.grad(expected.sum(), plain)[0])


@every_case
def test_a_selective_checkpoint_keeps_what_it_has_seen(case):
    """Nothing is changed in place under a mode, which may keep any intermediate."""

    def policy(context, operation, *arguments, **options):
        return CheckpointPolicy.MUST_SAVE

    gradients = []
    for contexts in (None, partial(create_selective_checkpoint_contexts, policy)):
        logits, targets = draw(case)
        logits.requires_grad_()
        if contexts is None:
            loss = case.loss(logits, targets)
        else:
            loss = checkpoint(
                lambda x, y=targets: case.loss(x * 1, y),
                logits,
                use_reentrant=False,
                context_fn=contexts,
            )
        gradients.append(torch.autograd.grad(loss, logits)[0])
    close(*gradients)


def sparse(tensor):
    """As it holds the numbers that are not 0 alone."""
    return tensor.to_sparse()


def rows_of_sparse(tensor):
    """The same, compressed by rows."""
    return tensor.flatten(1).to_sparse_csr() if tensor.ndim >= 2 else tensor.to_sparse()


def nested(tensor):
    """Rows that might have different lengths."""
    rows = tensor if tensor.ndim > 1 else tensor.unsqueeze(0)
    return torch.nested.nested_tensor(list(rows), layout=torch.jagged)


@every_case
@pytest.mark.parametrize("kind", [sparse, rows_of_sparse, nested], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", ["inputs", "targets", "weight", "mask"])
def test_what_is_not_dense_is_refused(case, kind, name):
    """In the name of the call and of the argument, with what came."""
    logits, targets = case.draw()
    options = {}
    if name in ("weight", "mask"):
        if name not in case.options or case.kind not in ("binary", "likelihoods"):
            pytest.skip("no such option of this shape")
        tensor = torch.ones(SHAPES[case.kind])
        options[name] = kind(tensor if name == "weight" else tensor.bool())
    elif name == "inputs":
        logits = kind(logits)
        name = "nll" if case.kind == "likelihoods" else name
    elif case.kind == "likelihoods":
        pytest.skip("has no targets")
    else:
        targets = kind(targets)
    call = case.name.partition(",")[0]
    with pytest.raises((TypeError, ValueError), match=f"^{call}: expected `{name}?` .*got a"):
        case.loss(logits, targets, **options)


OPTIONS = {
    "weight": (parfocal.sigmoid_focal_loss, torch.ones(4, 3), torch.ones(3)),
    "alpha": (parfocal.sigmoid_focal_loss, torch.ones(4, 3), torch.ones(3)),
    "position_weight": (parfocal.softmax_focal_loss, torch.tensor([0, 1, 2, 0]), torch.ones(4)),
    "normalizer": (
        partial(parfocal.sigmoid_focal_loss, reduction="sum"),
        torch.ones(4, 3),
        torch.ones(1),
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_that_is_not_dense_is_refused(name):
    """Whatever is taken as a tensor beside logits and targets."""
    loss, targets, option = OPTIONS[name]
    with pytest.raises(TypeError, match=rf"expected `{name}` to be dense, got a sparse_coo"):
        loss(torch.randn(4, 3), targets, **{name: option.to_sparse()})


def test_sparse_labels_of_a_matcher_are_refused():
    with pytest.raises(TypeError, match="expected `labels` to be dense, got a sparse_coo"):
        parfocal.focal_matching_cost(torch.randn(4, 3), torch.tensor([0, 1]).to_sparse())


def test_a_script_is_refused_by_torch():
    """TorchScript has no keyword arguments with defaults of several types; the docs say so."""
    with pytest.raises((RuntimeError, torch.jit.frontend.NotSupportedError)):
        torch.jit.script(parfocal.sigmoid_focal_loss)
