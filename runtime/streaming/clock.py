"""The time as live reading sees it, so that a test can decide how long everything takes."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds from any start; it never goes back."""

    def now(self) -> float:
        """The time."""
        ...

    def wait_until(self, moment: float) -> None:
        """Return at ``moment``, or at once where that has passed."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        """``time.monotonic``."""
        return time.monotonic()

    def wait_until(self, moment: float) -> None:
        """Sleep."""
        time.sleep(max(0.0, moment - time.monotonic()))
