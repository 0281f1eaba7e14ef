"""A module that stands where a loss stood."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from torch import nn

from parfocal.guard.loss_call import Loss

# What a module keeps of its own in dictionaries, which a stand-in has in common with its loss.
_SHARED = ("_parameters", "_buffers", "_modules")

# What tells people and loggers of a function which one it is.
_NAMES = ("__name__", "__qualname__", "__wrapped__")

# Before the names of the loss's state in checkpoints of former versions.
_FORMER = "loss."


class StandIn(nn.Module):
    """A module whose parameters, state and attributes are those of a loss, under the same names.

    A checkpoint of a model with one loads in a model without, and the other way round.

    own: the attributes of the stand-in itself, which hide those of the loss.
    """

    loss: Loss

    def __init__(self, loss: Loss, **own: Any) -> None:
        super().__init__()
        self.__dict__.update(own)
        self.__dict__["loss"] = loss  # not a submodule, whose name would be part of all keys
        if isinstance(loss, nn.Module):
            self.__dict__.update({name: getattr(loss, name) for name in _SHARED})
            self.training = loss.training
        signature = _signature(loss)
        if signature is not None:
            self.__dict__["__signature__"] = signature

    def __getattr__(self, name: str) -> Any:
        """What isn't the stand-in's own, of the loss."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            is_protocol = name.startswith("__") and name not in _NAMES
            if is_protocol or "loss" not in self.__dict__:
                raise
            return getattr(self.__dict__["loss"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Of the stand-in what is its own; else of the loss what it has, a gamma for one."""
        if name == "loss":
            raise AttributeError(f"{type(self).__name__}: expected a separate guard for each loss")
        is_own = name in self.__dict__ or hasattr(type(self), name) or "loss" not in self.__dict__
        if not is_own and hasattr(self.loss, name):
            setattr(self.loss, name, value)
        else:
            super().__setattr__(name, value)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the loss too."""
        super().train(mode)
        if isinstance(self.loss, nn.Module):
            self.loss.train(mode)
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """That of the loss."""
        if isinstance(self.loss, nn.Module):
            return self.loss.state_dict(*args, **kwargs)
        return super().state_dict(*args, **kwargs)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        former = prefix + _FORMER
        own = {} if not isinstance(self.loss, nn.Module) else self.loss.state_dict(prefix=prefix)
        for key in [key for key in state_dict if key.startswith(former) and key not in own]:
            state_dict[prefix + key.removeprefix(former)] = state_dict.pop(key)
        if isinstance(self.loss, nn.Module):
            self.loss._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        else:
            super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    @contextmanager
    def patching(self, target: str) -> Iterator[Self]:
        """Put it in the place of a name that some module calls the loss by.

        ``guard.patching("torchvision.models.detection.retinanet.sigmoid_focal_loss")`` watches a
        detector whose code can't be changed.
        """
        from unittest.mock import patch

        with patch(target, self):
            yield self


def _signature(loss: Loss) -> inspect.Signature | None:
    try:
        return inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss)
    except (TypeError, ValueError):
        return None
