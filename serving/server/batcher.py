"""Samples of many requests in one batch: the first waits a bounded time for others while the network is free."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.errors import BadDataError
from mmx.runtime.packing import rows
from mmx.runtime.types import Sample
from mmx.serving.server.metrics import Metrics

MAX_ROWS = 256  # tower rows in one batch, about a dozen utterances; they are what bounds memory

Outputs = dict[str, NDArray[np.float32]]
Run = Callable[[Sequence[Sample]], Outputs]


@dataclass(frozen=True)
class Row:
    """One sample's outputs, float32 [labels] by name, and its share of the network's time."""

    outputs: Outputs
    network_ms: float


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A sample in the queue, and where its answer goes; a future that is done is no longer wanted."""

    sample: Sample
    answer: asyncio.Future[Row]
    since: float


class Batcher:
    """Runs the network on samples as they come, several at once.

    There are lanes, each of which runs one batch at a time. While all are busy samples wait; when one is free, it takes
    the oldest and with it those whose text is most like it in length, since texts in a batch are padded to the longest.
    It takes its share of what waits, and leaves the other lanes theirs: they will be free before a larger batch would
    be done. Each answer goes to whoever asked for it.

    Args:
        runs: one for each lane: samples -> the graph's outputs, float32 [samples, labels] by name; called from threads
            of the batcher's own.
        max_batch: samples at once, at most. max_wait_s: how long the oldest waits for company while the network idles.
    """

    def __init__(self, runs: Sequence[Run], metrics: Metrics, *, max_batch: int, max_wait_s: float) -> None:
        self._runs = runs
        self._turn = asyncio.Lock()
        self._metrics = metrics
        self._max_batch = max_batch
        self._max_wait_s = max_wait_s if max_batch > 1 else 0.0
        self._waiting: list[_Waiting] = []
        self._arrived = asyncio.Event()
        self._threads = ThreadPoolExecutor(len(runs), thread_name_prefix="network")
        self._lanes: list[asyncio.Task[None]] = []

    @property
    def waiting(self) -> int:
        """Samples in the queue."""
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        """Whether samples are being taken."""
        return bool(self._lanes) and not any(lane.done() for lane in self._lanes)

    def open(self) -> None:
        """Start taking samples."""
        self._lanes = [asyncio.create_task(self._work(run)) for run in self._runs]

    async def close(self) -> None:
        """Stop; what is in the queue is not answered."""
        for lane in self._lanes:
            lane.cancel()
        await asyncio.gather(*self._lanes, return_exceptions=True)
        for waiting in self._waiting:
            waiting.answer.cancel()
        self._threads.shutdown()

    def submit(self, sample: Sample) -> asyncio.Future[Row]:
        """Put a sample in the queue. Cancelling the future takes it out again.

        The future raises BadDataError where the network gives no finite numbers for this sample.
        """
        answer: asyncio.Future[Row] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(sample, answer, time.monotonic()))
        self._arrived.set()
        return answer

    async def _work(self, run: Run) -> None:
        """One lane."""
        loop = asyncio.get_running_loop()
        while True:
            async with self._turn:
                batch = await self._gather()
            try:
                samples = [each.sample for each in batch]
                rows_ = await loop.run_in_executor(self._threads, self._answers, run, samples)
            except asyncio.CancelledError:
                for waiting in batch:
                    waiting.answer.cancel()
                raise
            for waiting, row in zip(batch, rows_, strict=True):
                if waiting.answer.done():
                    continue
                if isinstance(row, Exception):
                    waiting.answer.set_exception(row)
                else:
                    waiting.answer.set_result(row)

    async def _gather(self) -> list[_Waiting]:
        """Wait for a sample, then a bounded time for others, and take a batch out of the queue."""
        while True:
            self._waiting = [each for each in self._waiting if not each.answer.done()]
            if not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            left = self._waiting[0].since + self._max_wait_s - time.monotonic()
            if left <= 0 or len(self._waiting) >= self._max_batch:
                return self._take()
            self._arrived.clear()
            try:
                async with asyncio.timeout(left):
                    await self._arrived.wait()
            except TimeoutError:
                pass

    def _take(self) -> list[_Waiting]:
        """The oldest, and those most like it in length of text, within the bounds."""
        oldest = self._waiting[0]
        batch = [oldest]
        most = min(self._max_batch, math.ceil(len(self._waiting) / len(self._runs)))
        for other in sorted(self._waiting[1:], key=lambda each: abs(_tokens(each) - _tokens(oldest))):
            if len(batch) == most:
                break
            if rows([each.sample for each in [*batch, other]]) <= MAX_ROWS:
                batch.append(other)
        taken = set(map(id, batch))
        self._waiting = [each for each in self._waiting if id(each) not in taken]
        now = time.monotonic()
        for each in batch:
            self._metrics.stage("wait", now - each.since)
        self._metrics.batch(len(batch), rows([each.sample for each in batch]))
        return batch

    def _answers(self, run: Run, samples: Sequence[Sample]) -> list[Row | Exception]:
        """Each sample's row, or what is wrong with it; where a batch fails, each is tried alone."""
        started = time.perf_counter()
        try:
            outputs = run(samples)
        except Exception as e:  # whatever an engine raises: one request's fault must not be the others'
            return [e] if len(samples) == 1 else [row for sample in samples for row in self._answers(run, [sample])]
        took = time.perf_counter() - started
        self._metrics.stage("network", took)
        share_ms = took * 1000 / len(samples)
        return [_row({name: values[i] for name, values in outputs.items()}, share_ms) for i in range(len(samples))]


def _row(outputs: Outputs, share_ms: float) -> Row | Exception:
    if not all(np.isfinite(values).all() for values in outputs.values()):
        return BadDataError("the network gives no finite numbers for this input", "check that its values are in range")
    return Row(outputs, share_ms)


def _tokens(waiting: _Waiting) -> int:
    ids = waiting.sample.token_ids
    return 0 if ids is None else len(ids)
