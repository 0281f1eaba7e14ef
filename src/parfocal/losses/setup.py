"""What is set up beside a loss: how many positives there are, and where a head begins."""

from collections.abc import Iterable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from parfocal.losses import checks, values

Layer = TypeVar("Layer", bound=nn.Module)


def positive_count(
    targets: Tensor,
    group: dist.ProcessGroup | None = None,
    *,
    ignore_index: int | Iterable[int] | None = 255,
) -> Tensor:
    r"""Number of positives, as the `normalizer` of a summed loss; never 0.

    ::

        count = max(1, sum over all processes of [targets > 0]) / number of processes

    DistributedDataParallel averages the gradients of the processes. With this count on each of
    them, the average is the gradient of one process that has all samples, even if a process has no
    positives, or no samples at all.

    Args:
        targets: Any shape and real dtype; anything greater than 0 is a positive, so qualities and
            class indices with background 0 count too. Give ``targets == 1`` for centres of heat
            maps alone, ``targets < C`` for class indices with background C.
        group: Process group; the default group if torch.distributed is initialised, else this
            process alone. All its processes must call this.
        ignore_index: Class indices, of an integer dtype, that mark what doesn't count, one or
            several; 255, the usual void of index maps, by default. None counts it as a class, as it
            is if there are more than 255. Other dtypes have no index to ignore.

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

    Raises:
        TypeError: targets or `ignore_index` of the wrong type.

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, section 4.1.
    """
    call = "positive_count"
    checks.real_targets(call, targets)
    positive = targets.detach() > 0
    if ignore_index is not None and not targets.is_floating_point() and targets.dtype != torch.bool:
        labels = targets.detach().long()
        for index in checks.ignore_index(call, ignore_index):
            positive &= labels != index
        values.binary_mask(call, labels, positive)
    count = positive.sum()
    ranks = 1
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(count, group=group)
        ranks = dist.get_world_size(group)
    return count.clamp(min=1).to(torch.float32) / ranks


def init_prior_bias_(
    layer: Layer, prior: float | Tensor = 0.01, *, head: str | None = None
) -> Layer:
    r"""Set the bias of a classification head so that it predicts `prior`; in place.

    ::

        bias = log(prior / (1 - prior))     of a sigmoid
        bias = log(prior)                   of a softmax over the classes

    Without it the first steps see half of all negatives as positives, or all classes as equally
    frequent, and their loss drowns out everything else. With an `alpha` that balances the classes,
    such as that of `alpha_from_counts`, the best constant is 1 / 2 or 1 / C, and the bias stays 0.

    Args:
        layer: The last layer, with a `bias`: nn.Linear, nn.Conv2d, and the like.
        prior: Share of positives, in (0, 1): a number, or a tensor with one per class that
            broadcasts to the bias. For a softmax, the share of each class.
        head: ``"sigmoid"`` or ``"softmax"``, which turns the logits into probabilities. By default
            it is a softmax if the shares of several classes add up to 1, within 1e-3, as those of
            exclusive classes do; else a sigmoid.

    Returns:
        The layer.

    Raises:
        TypeError: a layer without a bias.
        ValueError: a prior out of (0, 1), or of a shape that doesn't fit; another `head`.

    Example:
        >>> import torch
        >>> from parfocal import init_prior_bias_
        >>> layer = init_prior_bias_(torch.nn.Linear(8, 2), prior=0.01)
        >>> layer.bias.sigmoid()
        tensor([0.0100, 0.0100], grad_fn=<SigmoidBackward0>)
        >>> layer = init_prior_bias_(torch.nn.Linear(8, 3), prior=torch.tensor([0.7, 0.2, 0.1]))
        >>> layer.bias.softmax(0)
        tensor([0.7000, 0.2000, 0.1000], grad_fn=<SoftmaxBackward0>)

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, section 4.1.
    """
    bias = getattr(layer, "bias", None)
    if not isinstance(bias, Tensor):
        raise TypeError(f"init_prior_bias_: expected `layer` to have a bias, got {layer}")
    if head is not None:
        checks.word("init_prior_bias_", "head", head, ("sigmoid", "softmax"))
    share = torch.as_tensor(prior, dtype=torch.float64)
    if not bool(((share > 0) & (share < 1)).all()):
        raise ValueError(f"init_prior_bias_: expected `prior` in (0, 1), got {prior}")
    if share.ndim > bias.ndim or any(
        n not in (1, m) for n, m in zip(reversed(share.shape), reversed(bias.shape), strict=False)
    ):
        raise ValueError(
            f"init_prior_bias_: expected `prior` to broadcast to the bias, {tuple(bias.shape)}, "
            f"got the shape {tuple(share.shape)}"
        )
    if head is None:
        is_exclusive = share.numel() > 1 and abs(share.sum().item() - 1) <= 1e-3
        head = "softmax" if is_exclusive else "sigmoid"
    with torch.no_grad():
        bias.copy_(torch.log(share) - (torch.log1p(-share) if head == "sigmoid" else 0.0))
    return layer
