"""Run by test_detection under torchrun: each process compares with the whole batch."""

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from parfocal import positive_count, sigmoid_focal_loss


def main() -> None:
    """Gradients of a quarter of the batch, averaged, beside those of the whole."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    targets = torch.zeros(12, 2, dtype=torch.float64)
    targets.view(-1)[: int(sys.argv[1])] = 1.0  # all of them on the first process

    torch.manual_seed(1)
    model = nn.Linear(5, 2).double()
    whole = sigmoid_focal_loss(
        model(inputs), targets, gamma=0.5, reduction="sum", normalizer=max(1, int(sys.argv[1]))
    )
    expected = torch.autograd.grad(whole, list(model.parameters()))

    # 4, 4 and 4 samples, and none.
    share = slice(4 * rank, 4 * rank + 4)
    parallel = DistributedDataParallel(model)
    own = targets[share]
    loss = sigmoid_focal_loss(
        parallel(inputs[share]), own, gamma=0.5, reduction="sum", normalizer=positive_count(own)
    )
    loss.backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-7, atol=1e-12)
    assert len(own) == (4 if rank < 3 else 0)
    print("same gradient", flush=True)
    dist.barrier()  # no process leaves while another still reads from it
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
