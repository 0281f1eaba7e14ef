"""A part of a call: some samples, a window of maps, and what of the arguments belongs to it."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from parfocal.guard.loss_call import LossCall


def window(call: LossCall, starts: Sequence[int], sizes: Sequence[int]) -> LossCall:
    """The call at a window of its logits.

    An argument that has the dimensions of the logits, with the classes or without, is cut where it
    isn't broadcast. One of a number a sample is cut too, unless it might be of a number a class.
    """
    shape = call.logits.shape

    def cut(tensor: Tensor) -> Tensor:
        dims = _dims(tensor, shape)
        for i, dim in enumerate(dims):
            if tensor.shape[i] == shape[dim] != sizes[dim]:
                tensor = tensor.narrow(i, starts[dim], sizes[dim])
        return tensor

    rows = slice(starts[0], starts[0] + sizes[0]) if sizes else slice(None)
    return call.map_tensors(cut)._replace(
        logits=cut(call.logits),
        targets=cut(call.targets),
        samples=None if call.samples is None else call.samples[rows],
    )


def _dims(tensor: Tensor, shape: Sequence[int]) -> list[int]:
    """Which dimensions of the logits those of a tensor are; [] if they aren't."""
    every = list(range(len(shape)))
    without = [[d for d in every if d != missing] for missing in dict.fromkeys((1, len(shape) - 1))]
    for dims in (every, *without):
        if len(dims) == tensor.ndim > 1 and all(
            tensor.shape[i] in (1, shape[dim]) for i, dim in enumerate(dims)
        ):
            return dims
    if tensor.ndim == 1 and shape and len(tensor) == shape[0] and len(tensor) not in shape[1:]:
        return [0]
    return []


def corner(call: LossCall, class_dim: int, most: int) -> LossCall:
    """The first samples and the corner of their maps, of at most so many logits if that can be."""
    sizes = list(call.logits.shape)
    for dim in range(1, len(sizes)):
        if math.prod(sizes) > most and dim != class_dim:
            sizes[dim] = min(sizes[dim], 8)
    if math.prod(sizes) > most:
        sizes[0] = max(1, most // max(1, math.prod(sizes[1:])))
    if sizes == list(call.logits.shape):
        return call
    return window(call, [0] * len(sizes), sizes)


def rows(call: LossCall, count: int) -> LossCall:
    """The arguments of one position, for `count` samples of logits that are still to be made.

    What has an entry for each sample, or each place of a map, has the first of them for all.
    """
    shape = call.logits.shape

    def first(tensor: Tensor) -> Tensor:
        dims = _dims(tensor, shape)
        for i, dim in enumerate(dims):
            if tensor.shape[i] == shape[dim] > 1 and dim != 1:
                tensor = tensor.narrow(i, 0, 1)
        if dims and tensor.shape[0] == 1:
            tensor = tensor.expand(count, *tensor.shape[1:])
        return tensor

    return call.map_tensors(first)


def samples(call: LossCall, chosen: Tensor) -> LossCall:
    """The call of some samples of its batch."""
    shape = call.logits.shape

    def take(tensor: Tensor) -> Tensor:
        dims = _dims(tensor, shape)
        belongs = dims[:1] == [0] and tensor.shape[0] == shape[0]
        return tensor[chosen.to(tensor.device)] if belongs else tensor

    numbers = chosen if call.samples is None else call.samples[chosen.to(call.samples.device)]
    return call.map_tensors(take)._replace(
        logits=take(call.logits), targets=take(call.targets), samples=numbers
    )


def position(call: LossCall, at: Sequence[int], class_dim: int) -> LossCall:
    """The call of one place of one sample, with all its classes; `at` is without the classes."""
    places = [*at[:class_dim], 0, *at[class_dim:]]
    sizes = [1] * len(places)
    sizes[class_dim] = call.logits.shape[class_dim]
    part = window(call, places, sizes)
    return part if call.samples is not None else part._replace(samples=torch.tensor([at[0]]))
