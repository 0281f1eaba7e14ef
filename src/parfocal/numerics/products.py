"""Matrix products with the weight of a linear map, accumulated in float32 at least.

On a CPU factors of 16 bits are widened, a few classes at a time, and multiplied in float32: torch
would round each product to 16 bits, and is many times as slow where the processor has no
instruction for it. On other devices the factors stay in 16 bits. Their products are float32 where
torch has such a product, on CUDA from 2.8 on (`out_dtype`); elsewhere each is rounded to 16 bits.

A sum in float32 that ends as 16 bits takes twice the memory of its result. So a weight's gradient
in bfloat16 is accumulated in two parts, each of which is rounded into the first half of its own
memory, the second behind the first. Of n numbers, with two thirds in the first part,

    4 bytes * 2/3 n  =  2 bytes * 2/3 n + 4 bytes * 1/3 n  =  4/3 of the 2 bytes * n of the result
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# Numbers of a weight in 16 bits that are widened at a time.
_WIDENED = 2**22

# Numbers in 16 bits from which on their sum is made in two parts.
_LARGE = 2**24

# Whether torch has products of 16 bits in float32, which only its CUDA backend implements.
_HAS_WIDE_PRODUCTS = hasattr(torch.ops.aten.mm, "dtype_out")


class Products(NamedTuple):
    """The products with a weight (C, D).

    dtype: of the factors.
    wide: of sums of products: float32 or float64.
    """

    weight: Tensor
    bias: Tensor | None
    dtype: torch.dtype
    wide: torch.dtype

    def logits(self, input: Tensor, classes: slice, *, behind: int = 0) -> Tensor:
        """input weight^T + bias of some classes, with columns behind them for others."""
        count = classes.stop - classes.start
        shape = (len(input), count + behind)
        x = torch.empty(shape, dtype=self.wide, device=input.device)
        for block in self._blocks(classes):
            columns = slice(block.start - classes.start, block.stop - classes.start)
            _multiply(input, self._factor(block).T, x[:, columns])
        if self.bias is not None:
            x[:, :count] += self.bias[classes]
        return x

    def back(self, gradient: Tensor) -> Tensor:
        """gradient weight, of all classes."""
        shape = (len(gradient), self.weight.shape[1])
        result = torch.zeros(shape, dtype=self.wide, device=gradient.device)
        for block in self._blocks(slice(0, len(self.weight))):
            _add_product(result, gradient[:, block], self._factor(block))
        return result

    def _blocks(self, classes: slice) -> Iterator[slice]:
        """Classes whose weight is in the dtype of the factors, or is brought to it, at once."""
        step = classes.stop - classes.start
        if self.weight.is_cpu and self.weight.dtype != self.dtype:
            step = max(1, _WIDENED // max(1, self.weight.shape[1]))
        for start in range(classes.start, classes.stop, step):
            yield slice(start, min(start + step, classes.stop))

    def _factor(self, block: slice) -> Tensor:
        return self.weight[block].to(self.dtype)


class WideSum:
    """The sum of gradient^T input (C, D), made of some of its classes after others.

    In `memory` stand the classes that are rounded, in the dtype of the result, and behind them
    those that are being accumulated.
    """

    def __init__(self, like: Tensor, wide: torch.dtype, *, is_whole: bool) -> None:
        self.shape, self.dtype, self.wide = like.shape, like.dtype, wide
        classes, features = like.shape
        is_bfloat16 = like.dtype == torch.bfloat16
        if not is_bfloat16:  # of float16 the range is too small before all factors are known
            self.dtype = wide
        self.first = classes
        if is_bfloat16 and not is_whole and like.numel() >= _LARGE:
            self.first = classes * 2 // 3 // 2 * 2  # even, as a number is two of 16 bits
        ratio = wide.itemsize // self.dtype.itemsize
        numbers = max(ratio * self.first, self.first + ratio * (classes - self.first)) * features
        self.memory = torch.empty(numbers, dtype=self.dtype, device=like.device)
        self.rounded = 0
        self.part = self._begin(self.first)

    def add(self, gradient: Tensor, input: Tensor) -> None:
        """Add the product of some rows, of the classes that are being accumulated."""
        _add_product(self.part, gradient.T, input)

    def settle(self, scale: float | Tensor) -> None:
        """Scale and round the classes that were accumulated, and begin with the others."""
        self.part *= scale
        if self.dtype != self.wide:
            start, source = self.rounded * self.shape[1], self.part.flatten()
            for begin in range(0, len(source), _WIDENED):
                block = source[begin : begin + _WIDENED].to(self.dtype)  # no later one is under it
                self.memory[start + begin : start + begin + len(block)] = block
        self.rounded += len(self.part)
        self.part = self._begin(self.shape[0] - self.rounded)

    def result(self) -> Tensor:
        """All classes, settled."""
        return self.memory[: self.shape.numel()].view(self.shape)

    def _begin(self, classes: int) -> Tensor:
        """Zeros for so many classes, behind those that are rounded."""
        start, features = self.rounded * self.shape[1], self.shape[1]
        numbers = classes * features * self.wide.itemsize // self.dtype.itemsize
        part = self.memory[start : start + numbers].view(self.wide).view(classes, features)
        return part.zero_()


def scale_(tensor: Tensor, factor: Tensor) -> None:
    """Multiply in place by a number in float32, with which 16 bits are multiplied in float32."""
    if tensor.dtype.itemsize > 2:
        tensor *= factor
        return
    for block in tensor.flatten().split(_WIDENED):
        block.copy_(block.float() * factor)


def _multiply(a: Tensor, b: Tensor, out: Tensor) -> None:
    """out = a b."""
    if a.dtype == out.dtype:
        torch.mm(a, b, out=out)
    elif _HAS_WIDE_PRODUCTS and a.is_cuda:
        torch.ops.aten.mm.dtype_out(a, b, out.dtype, out=out)
    else:
        out.copy_(a @ b)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a b."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    elif _HAS_WIDE_PRODUCTS and a.is_cuda:
        torch.ops.aten.addmm.dtype_out(total, a, b, total.dtype, out=total)
    else:
        total += a @ b
