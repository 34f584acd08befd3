"""How much of the time that a run may take is over, and what is still to come."""

from __future__ import annotations

import time
from collections.abc import Iterable

UNLIMITED_S = 1e9
# Seconds on 2 quiet cores of what follows the interleaving; ``rounds`` leaves them so much.
COSTS_S = {"offline": 38, "server": 18, "paper": 25, "stages": 35, "residual": 20}
OPENING_S = 4  # of a system that a later round opens


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

    def left_before(self, coming: Iterable[str]) -> float:
        """Seconds that are left when as many as ``coming`` (of ``COSTS_S``) will take are set aside."""
        return self.left - sum(COSTS_S[what] for what in coming)

    def past(self, share: float) -> bool:
        """Whether more than this share of the time is over."""
        return self.spent > share * self._allowed
