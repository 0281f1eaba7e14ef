"""What a call has in memory at most, as torch's profiler is told of it by the allocator."""

from typing import NamedTuple

from torch.profiler import ProfilerActivity, profile


class Memory(NamedTuple):
    """Bytes beyond what there was before: all that was alive at once, and the largest tensor."""

    peak: int
    largest: int


def memory_of(call):
    """The memory of a call, whose tensors are what they are without a profiler.

    A TorchDispatchMode wouldn't do: a loss that is looked at takes its composition.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    events = profiler.profiler.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    alive = peak = 0
    for _, change in sorted(changes, key=lambda change: change[0]):
        alive += change
        peak = max(peak, alive)
    return Memory(peak, max(change for _, change in changes))
