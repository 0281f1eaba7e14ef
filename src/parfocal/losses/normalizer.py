"""How many positives there are, on all processes together."""

import torch
import torch.distributed as dist
from torch import Tensor


def positive_count(targets: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    r"""Number of positives, as the `normalizer` of a summed loss; never 0.

    ::

        count = max(1, sum over all processes of [targets > 0]) / number of processes

    DistributedDataParallel averages the gradients of the processes. With this count on each of
    them, the average is the gradient of one process that has all samples; also where a process
    has no positives, or no samples at all.

    Args:
        targets: Any shape and real dtype; what is greater than 0 is a positive, so that qualities
            and class indices with background 0 count too. Give ``targets == 1`` for centres of
            heat maps alone.
        group: Process group; the default group if torch.distributed is initialised, else this
            process alone. All its processes have to call this.

    Returns:
        A scalar in float32, on the device of `targets`, without gradient.

    Example:
        >>> import torch
        >>> from parfocal import positive_count, sigmoid_focal_loss
        >>> targets = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
        >>> positive_count(targets)
        tensor(3.)
        >>> logits = torch.zeros(2, 3)
        >>> sigmoid_focal_loss(logits, targets, reduction="sum", normalizer=positive_count(targets))
        tensor(0.1733)

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, section 4.1.
    """
    if not isinstance(targets, Tensor):
        kind = f"{targets!r} ({type(targets).__name__})"
        raise TypeError(f"positive_count: expected `targets` to be a tensor, got {kind}")
    count = (targets.detach() > 0).sum()
    ranks = 1
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(count, group=group)
        ranks = dist.get_world_size(group)
    return count.clamp(min=1).to(torch.float32) / ranks
