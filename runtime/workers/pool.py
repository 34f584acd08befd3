"""A fixed number of workers for asyncio. A task waits for a free one; what fails is replaced at once."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from typing import Any

from mmx.runtime.errors import EnvironmentMissing, MmxError
from mmx.runtime.preprocess import Segment
from mmx.runtime.workers.task import Rejected, Task
from mmx.runtime.workers.worker import Died, Worker, WorkerSettings

log = logging.getLogger(__name__)
TRIES = 2  # workers that a file may crash before it is blamed: the first may have been killed for another reason
FAILED_STARTS = 3  # in a row, and with no process left: nothing works here any more
RESPAWN_S = 1.0  # before trying again where a process could not even start


class Pool:
    """Workers that are alike.

    Args:
        count: how many. on_replaced: called with the reason each time one is replaced.

    Attributes: ``waiting``: tasks that wait for a free worker.
    """

    def __init__(
        self, settings: WorkerSettings, count: int, on_replaced: Callable[[str], None] = lambda reason: None
    ) -> None:
        self._settings, self._count, self._on_replaced = settings, count, on_replaced
        self._free: deque[Worker] = deque()
        self._all: set[Worker] = set()
        self._ending: set[Worker] = set()
        self._changed = asyncio.Condition()
        self._starting: set[asyncio.Task[None]] = set()
        self._closing = False
        self._failed_starts = 0
        self._why = EnvironmentMissing("no worker can be started", "mmx doctor")
        self.waiting = 0

    async def open(self) -> None:
        """Start all processes.

        Raises:
            EnvironmentMissing: one could not start.
        """
        starts = [self._in_background(self._start()) for _ in range(self._count)]
        for result in await asyncio.gather(*starts, return_exceptions=True):
            if isinstance(result, BaseException):
                await self.close()
                raise result

    @property
    def alive(self) -> bool:
        """Whether there is a process, or will be in a moment: not when none is left and none can be started."""
        return bool(self._all) or self._failed_starts < FAILED_STARTS

    @property
    def pids(self) -> list[int]:
        """Their numbers."""
        return sorted(worker.pid for worker in self._all)

    async def segments(self, task: Task) -> AsyncGenerator[Segment, None]:
        """Work on one task, on the next process that is free; on another one if that dies.

        Raises:
            MmxError: what is wrong with the file; Rejected if it breaks a limit or crashes ``TRIES`` workers.
            EnvironmentMissing: no worker is left, and none can be started.
        """
        limits = self._settings.limits
        given = crashes = died_idle = 0
        while True:
            seen = 0
            try:
                async with (
                    self._one() as worker,
                    aclosing(worker.segments(task, limits.seconds, limits.stall_s)) as segments,
                ):
                    async for segment in segments:
                        seen += 1
                        if seen > given:  # the others were given before a crash
                            given = seen
                            yield segment
                return
            except Died as e:
                crashes += e.begun
                died_idle += not e.begun
                if crashes >= TRIES or died_idle > self._count:
                    raise Rejected(
                        "decoder_crashed", f"{task.shown} crashes the decoder", "convert it to MP4 (H.264, AAC) first"
                    ) from e

    async def close(self) -> None:
        """End all processes."""
        self._closing = True
        for task in self._starting:
            if not task.cancelling():  # a second time would interrupt it while it ends its process
                task.cancel()
        ends = (worker.stop() for worker in self._all | self._ending)
        await asyncio.gather(*self._starting, *ends, return_exceptions=True)
        self._all.clear()
        self._free.clear()

    @asynccontextmanager
    async def _one(self) -> AsyncIterator[Worker]:
        """A process that nobody else uses; afterwards the next may have it, or its successor."""
        worker = await self._next_free()
        reason = "cancelled"
        try:
            yield worker
        except Died:
            reason = "crashed"
            raise
        except MmxError as e:
            reason = e.code if isinstance(e, Rejected) else "failed"
            raise
        finally:
            if worker.usable:
                self._free.append(worker)
                await asyncio.shield(self._notify())
            else:
                self._discard(worker, reason)

    async def _next_free(self) -> Worker:
        self.waiting += 1
        try:
            while True:
                async with self._changed:
                    await self._changed.wait_for(lambda: self._free or not self.alive)
                    if not self._free:
                        raise self._why
                    worker = self._free.popleft()
                if not worker.has_ended:
                    return worker
                self._discard(worker, "ended")  # killed while it was idle: no file's fault
        finally:
            self.waiting -= 1

    def _discard(self, old: Worker, reason: str) -> None:
        """Have another process take its place."""
        self._all.discard(old)
        self._ending.add(old)
        self._on_replaced(reason)
        self._in_background(self._started_again(old))

    def _in_background(self, start: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that ``close`` ends."""
        task = asyncio.create_task(start)
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)
        return task

    async def _start(self) -> None:
        await self._add(await Worker.start(self._settings))

    async def _started_again(self, old: Worker) -> None:
        """Try until there is a new process: the machine may be short of memory only for now."""
        await old.stop()
        self._ending.discard(old)
        while not self._closing:
            try:
                await self._start()
            except EnvironmentMissing as e:
                log.warning("%s", e)
                self._failed_starts += 1
                self._why = e
                await self._notify()
                await asyncio.sleep(RESPAWN_S)
            else:
                self._failed_starts = 0
                return

    async def _add(self, worker: Worker) -> None:
        self._all.add(worker)
        self._free.append(worker)
        await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()
