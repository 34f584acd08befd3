"""How much of the time that a run may take is over, and what is still to come."""

from __future__ import annotations

import time
from collections.abc import Iterable

UNLIMITED_S = 1e9
# Seconds on 2 quiet cores of what follows the interleaving: for each system compared in full, and once in a run.
EACH_S = {"offline": 20, "server": 25, "side by side": 50}
ONCE_S = {"paper": 22, "stages": 36, "residual": 16}
OPENING_S = 4  # of a system that a later round opens
SLACK_S = 45  # that a run takes beyond its time rather than leave contenders out


class Clock:
    """Started when it is made."""

    def __init__(self, minutes: float) -> None:
        """``minutes``: what the run may take; 0: no limit."""
        self._began = time.perf_counter()
        self._allowed = minutes * 60 or UNLIMITED_S

    @property
    def spent(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self._began

    @property
    def left(self) -> float:
        """Seconds that are left; negative when the time is over."""
        return self._allowed - self.spent

    def left_before(self, coming: Iterable[str], systems: int) -> float:
        """Seconds left when what is ``coming`` (of ``EACH_S`` and ``ONCE_S``) for so many systems is set aside."""
        return self.left - sum(EACH_S.get(what, 0) * systems + ONCE_S.get(what, 0) for what in coming)

    def past(self, share: float) -> bool:
        """Whether more than this share of the time is over."""
        return self.spent > share * self._allowed
