"""The bodies that arrive and what all uploads hold: places, a share for each client, a least rate, one budget."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mmx.serving.server.rejection import Rejection

OWN_PLACES = 8  # that any client may have, however few there are
YOUNG_S = 1.0  # an upload is not called slow before it is this old
RETRY_S = 2


class Upload:
    """One body: ``taken``, its bytes so far, which count against the budget until its request has ended."""

    def __init__(self, uploads: Uploads, client: str) -> None:
        self._uploads, self.client = uploads, client
        self._began = time.monotonic()
        self._timer: asyncio.Timeout | None = None
        self.taken = 0
        self.pushed_out = False

    @property
    def rate(self) -> float:
        """Bytes a second since it began."""
        return self.taken / max(time.monotonic() - self._began, 1e-3)

    @property
    def is_young(self) -> bool:
        """Whether nothing can be said of its rate yet."""
        return time.monotonic() - self._began < YOUNG_S

    def take(self, count: int) -> None:
        """Count bytes that came. Reject (429) where all uploads together would hold more than the budget."""
        self._uploads.take(count)
        self.taken += count

    def complete(self) -> None:
        """The body is here; its place is free, its bytes are still held."""
        self._uploads.leave(self)

    @contextmanager
    def waiting(self, timer: asyncio.Timeout) -> Iterator[None]:
        """While it waits for bytes, ``push_out`` ends the wait as if ``timer`` had run out."""
        self._timer = timer
        try:
            yield
        finally:
            self._timer = None

    def push_out(self) -> None:
        """Another takes its place."""
        self.pushed_out = True
        self._uploads.leave(self)
        if self._timer is not None:
            self._timer.reschedule(asyncio.get_running_loop().time())


class Uploads:
    """Lets bodies in, or rejects them (429).

    A client (an address) has at most half of the places. Where no place is left, the slowest body below the least rate
    makes room, so that many trickling ones lock nobody out.

    Args:
        places: bodies that may be arriving. budget: bytes that all uploads may hold, arriving or being answered.
        rate: the least, in bytes a second.

    Attributes: ``held``: bytes of all uploads.
    """

    def __init__(self, places: int, budget: int, rate: float) -> None:
        self._places, self._budget, self._rate = places, budget, rate
        self._share = max(OWN_PLACES, places // 2)
        self._arriving: set[Upload] = set()
        self.held = 0

    @property
    def inside(self) -> int:
        """Bodies that are arriving."""
        return len(self._arriving)

    @contextmanager
    def upload(self, client: str, declared: int) -> Iterator[Upload]:
        """Take a place, and give it and the bytes back when the block ends.

        Args:
            client: its address. declared: the length it claims; 0 for none.
        """
        own = [each for each in self._arriving if each.client == client]
        if len(own) >= self._share:
            self._make_room(own, f"{self._share} uploads of this address are arriving")
        if len(self._arriving) >= self._places:
            self._make_room(self._arriving, f"{self._places} uploads are arriving")
        self._check_budget(declared)
        upload = Upload(self, client)
        self._arriving.add(upload)
        try:
            yield upload
        finally:
            self._arriving.discard(upload)
            self.held -= upload.taken

    def take(self, count: int) -> None:
        """Hold more bytes; reject (429) what is over the budget."""
        self._check_budget(count)
        self.held += count

    def leave(self, upload: Upload) -> None:
        """Its place is free."""
        self._arriving.discard(upload)

    def _check_budget(self, more: int) -> None:
        if self.held + more > self._budget:
            raise _busy(f"all uploads together hold more than {self._budget >> 20} MB")

    def _make_room(self, among: set[Upload] | list[Upload], why_not: str) -> None:
        slow = [each for each in among if not each.is_young and each.rate < self._rate]
        if not slow:
            raise _busy(why_not)
        min(slow, key=lambda each: each.rate).push_out()


def _busy(message: str) -> Rejection:
    return Rejection(429, "busy", message, "try again later", retry_after=RETRY_S)
