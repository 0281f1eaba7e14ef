"""How many steps are left, from how the largest margin has grown."""

import math

# Records that are kept, at most; over that every other one goes.
_MOST = 1000


class Trend:
    """The largest margin so far, by step, and when it will have grown to a limit.

    The pace is that of the last half of the steps. Margins grow more slowly the larger they are,
    as the gradient of a sure answer fades, so that the estimate is early rather than late.
    """

    def __init__(self) -> None:
        self._records: list[tuple[int, float]] = []

    def add(self, step: int, level: float) -> None:
        """A reading: the largest margin since the last one."""
        if math.isfinite(level) and (not self._records or level > self._records[-1][1]):
            self._records.append((step, level))
            if len(self._records) > _MOST:
                del self._records[1:-1:2]

    @property
    def highest(self) -> float:
        """The largest so far."""
        return self._records[-1][1] if self._records else -math.inf

    def steps_left(self, step: int, limit: float) -> float:
        """Until the largest margin reaches the limit; infinite if it hasn't grown.

        >>> trend = Trend()
        >>> for step in range(0, 101, 10):
        ...     trend.add(step, step / 10)
        >>> trend.steps_left(100, 12.0)
        20.0
        """
        before = [level for at, level in self._records if at <= step / 2]
        if not before or self.highest <= before[-1]:
            return math.inf
        pace = (self.highest - before[-1]) / (step / 2)
        return max(limit - self.highest, 0.0) / pace
