"""``Workers``: the pool for programs that use threads rather than asyncio.

with Workers(bundle, 4) as workers, closing(workers.read(Task("talk.mp4", window=2.0))) as segments:
    for segment in segments: ...
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Any, Self, TypeVar

from mmx.runtime.bundle import Bundle
from mmx.runtime.closing import Closing, close_generator
from mmx.runtime.preprocess import Segment
from mmx.runtime.speech.find import resolve
from mmx.runtime.workers.pool import Pool
from mmx.runtime.workers.task import Limits, Task
from mmx.runtime.workers.worker import WorkerSettings

T = TypeVar("T")


class Workers(Closing):
    """Worker processes, started at once and in the background; they end with ``close``, or with this process.

    Args:
        bundle: the bundle whose preprocessing they do. count: how many processes.
        faces, threads, asr, language: see ``Preprocessor``. limits: what one file may cost.

    Thread-safe.
    """

    def __init__(
        self,
        bundle: Bundle,
        count: int,
        *,
        faces: str = "exact",
        threads: int = 1,
        limits: Limits | None = None,
        asr: str = "none",
        language: str | None = None,
    ) -> None:
        settings = WorkerSettings(bundle, faces, threads, limits or Limits(), resolve(asr), language)
        self._loop = asyncio.new_event_loop()
        # The workers' parent in the kernel's eyes is this thread: when it ends, they do.
        self._thread = threading.Thread(target=self._loop.run_forever, name="mmx-workers", daemon=True)
        self._thread.start()
        self._pool = Pool(settings, count)
        self._opened = self._submit(self._pool.open())

    def wait(self) -> None:
        """Return when all are ready. Raises EnvironmentMissing: one could not start, and why."""
        self._opened.result()

    @property
    def pids(self) -> list[int]:
        """The numbers of the processes."""
        return self._pool.pids

    def read(self, task: Task) -> Reading:
        """Begin to read one file; see ``Pool.segments`` for what iterating raises."""
        return Reading(self, task)

    def close(self) -> None:
        """End all processes; twice is fine."""
        if self._loop.is_closed():
            return
        if not self._opened.done():
            self._opened.cancel()
        self._submit(self._pool.close()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)


class Reading:
    """The segments of one file as they come: iterate, and close it, which another thread may do."""

    def __init__(self, workers: Workers, task: Task) -> None:
        self._workers = workers
        self._segments = workers._pool.segments(task)
        self._lock = threading.Lock()
        self._step: Future[Segment | None] | None = None
        self._closed = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Segment:
        self._workers.wait()
        with self._lock:
            if self._closed:
                raise StopIteration
            self._step = self._workers._submit(self._next())
        try:
            segment = self._step.result()
        except CancelledError:
            segment = None
        if segment is None:
            raise StopIteration
        return segment

    def close(self) -> None:
        """Give the file up; who waits for its next segment gets no more."""
        with self._lock:
            self._closed = True
            step = self._step
        if step is not None:
            step.cancel()
            with suppress(RuntimeError):  # the loop was closed
                self._workers._submit(close_generator(self._segments)).result()

    async def _next(self) -> Segment | None:
        return await anext(self._segments, None)
