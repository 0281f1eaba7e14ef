"""Run by test_guard under torchrun: a failure of the second process stops both."""

from functools import partial

import torch
import torch.distributed as dist
from torch import nn
from torchvision.ops import sigmoid_focal_loss

from parfocal.monitor import FocalGuard, FocalGuardError


def main() -> None:
    """A step that is fine, and one that fails on rank 1 alone."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    loss = partial(sigmoid_focal_loss, gamma=0.5, reduction="mean")
    guard = FocalGuard(loss, every=1, near=1.0, horizon=0)
    head = nn.Linear(1, 1)
    nn.init.ones_(head.weight)
    nn.init.zeros_(head.bias)
    layer = nn.parallel.DistributedDataParallel(head)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3)
    guard.attach(optimizer)
    stopped = None
    for largest in (3.0 + rank, 20.0 if rank else 1.0):
        before = head.weight.item()
        optimizer.zero_grad()
        guard(layer(torch.tensor([[1.0], [largest]])).view(-1), torch.ones(2)).backward()
        try:
            optimizer.step()
        except FocalGuardError as error:
            stopped = error
    assert stopped is not None
    assert "rank 1" in str(stopped), stopped
    assert stopped.diagnosis.sample == 1
    assert (guard.readings[0].largest_margin, guard.readings[0].positions) == (4.0, 4)
    assert head.weight.item() == before
    print("both stopped", flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
