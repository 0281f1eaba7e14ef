"""A step that was recorded once as a CUDA graph, and is replayed by one launch.

A small network's step is some hundred kernels of a few microseconds each, and their launches take
longer than they do. https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Calls before the recording, in which libraries choose their kernels and get their memory.
_WARM_UPS = 3


class Replay:
    """A function of CUDA tensors of fixed shapes, as a graph; it may not wait for the device.

    Args:
        function: of the inputs; its result is a tensor.
        inputs: of the shapes that all calls will have.
        state: all tensors that the function changes besides its result and its own memory; they
            are restored.
    """

    def __init__(
        self, function: Callable[..., Tensor], inputs: Sequence[Tensor], state: Sequence[Tensor]
    ) -> None:
        self._inputs = [tensor.clone() for tensor in inputs]
        before = [tensor.detach().clone() for tensor in state]
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UPS):
                function(*self._inputs)
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._result = function(*self._inputs)
        for tensor, value in zip(state, before, strict=True):
            tensor.detach().copy_(value)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The function's result, in memory of its own."""
        for place, tensor in zip(self._inputs, inputs, strict=True):
            place.copy_(tensor, non_blocking=True)
        self._graph.replay()
        return self._result.clone()
