"""How many may come in: a bounded number of requests at a time, and when to try again."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mmx.serving.server.rejection import Rejection

REMEMBERED = 0.1  # weight of the latest request in the mean of their times
LONGEST_RETRY_S = 60


class Admission:
    """Counts requests in and out and rejects (429) what is over ``limit``.

    ``what`` is said of them in the rejection: "64 requests are being answered".
    """

    def __init__(self, limit: int, what: str) -> None:
        self._limit = limit
        self._what = what
        self._mean_s = 1.0
        self.inside = 0

    def check(self) -> None:
        """Reject if it is full now."""
        if self.inside >= self._limit:
            raise Rejection(
                429,
                "busy",
                f"{self._limit} {self._what}",
                "try again later",
                retry_after=min(max(math.ceil(self._mean_s), 1), LONGEST_RETRY_S),
            )

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Take a place while the block runs."""
        self.check()
        self.inside += 1
        started = time.monotonic()
        try:
            yield
        finally:
            self.inside -= 1
            self._mean_s += REMEMBERED * (time.monotonic() - started - self._mean_s)
