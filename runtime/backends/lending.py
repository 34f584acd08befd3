"""What the streams of a backend run on, lent to one call at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Generic, TypeVar

Runner = TypeVar("Runner")


class Lent(Generic[Runner]):
    """One runner (a session, an inference request) for each stream. Thread-safe."""

    def __init__(self, runners: Sequence[Runner]) -> None:
        self._count = len(runners)
        self._free: SimpleQueue[Runner | None] = SimpleQueue()  # None where the backend is closed
        for runner in runners:
            self._free.put(runner)

    @contextmanager
    def one(self) -> Iterator[Runner]:
        """A runner that no other call uses; waits for one to be free.

        Raises:
            RuntimeError: the backend is closed.
        """
        runner = self._free.get()
        try:
            if runner is None:
                raise RuntimeError("this backend is closed")
            yield runner
        finally:
            self._free.put(runner)

    def close(self) -> None:
        """Wait for the runs under way, and let go of the runners. Closing twice is fine."""
        for _ in range(self._count):
            self._free.get()
        for _ in range(self._count):
            self._free.put(None)
