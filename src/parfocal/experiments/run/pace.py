"""How fast a training goes."""

import time

# Between two looks: often enough for the eye, seldom enough to cost nothing.
INTERVAL = 0.1


class Pace:
    """Images a second since the last look, looked at every so many seconds."""

    def __init__(self, interval: float = INTERVAL) -> None:
        self._interval = interval
        self._since = time.perf_counter()
        self._images = 0

    def add(self, images: int) -> float | None:
        """The pace if it is time to look, else None."""
        self._images += images
        passed = time.perf_counter() - self._since
        if passed < self._interval:
            return None
        pace = self._images / passed
        self._since, self._images = time.perf_counter(), 0
        return pace
