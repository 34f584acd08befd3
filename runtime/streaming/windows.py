"""Windows of equal length that begin one ``hop`` after the other and overlap."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from mmx.runtime.errors import UsageError
from mmx.runtime.media.cuts import EPSILON_S, SHORTEST_WINDOW_S, Cut

MOST_OPEN = 100  # windows that overlap at one moment
LONGEST_S = 60.0


@dataclass(frozen=True)
class Rolling:
    """Windows of ``window`` seconds, each ``hop`` seconds after the one before.

    Raises:
        UsageError: seconds that make no windows.
    """

    window: float = 3.0
    hop: float = 0.5

    def __post_init__(self) -> None:
        for name, value, least in (("window", self.window, 0.4), ("hop", self.hop, SHORTEST_WINDOW_S)):
            if not least <= value <= LONGEST_S:  # also NaN
                raise UsageError(f"a {name} of {value} s", f"it lasts {least:g} to {LONGEST_S:g} s")
        if self.window / self.hop > MOST_OPEN:
            raise UsageError(
                f"windows of {self.window:g} s every {self.hop:g} s: more than {MOST_OPEN} overlap", "take a longer hop"
            )
        if self.hop > self.window:
            raise UsageError(f"a hop of {self.hop:g} s leaves gaps between windows of {self.window:g} s", "shorten it")

    def start(self, number: int) -> float:
        """Where a window starts, counted from 0."""
        return number * self.hop


class RollingCuts:
    """The windows as ``media.cuts.Cuts`` hands them out; those of which nothing was there are left out."""

    def __init__(self, rolling: Rolling) -> None:
        self._rolling = rolling
        self._next = 0

    def starting(self, time: float, end: float) -> Iterator[Cut]:
        first = math.floor((time - self._rolling.window) / self._rolling.hop) + 1  # the first that ends after ``time``
        self._next = max(self._next, first)
        while (start := self._rolling.start(self._next)) <= end + EPSILON_S:
            self._next += 1
            if start + self._rolling.window > time:
                yield Cut(start, start + self._rolling.window)

    def remaining(self) -> Iterator[Cut]:
        return iter(())

    def between(self, time: float, end: float) -> Iterator[Cut]:
        number = max(0, math.floor((time - self._rolling.window) / self._rolling.hop))
        while (start := self._rolling.start(number)) < end:
            number += 1
            if start + self._rolling.window > time:
                yield Cut(start, start + self._rolling.window)

    @property
    def exhausted(self) -> bool:
        return False
