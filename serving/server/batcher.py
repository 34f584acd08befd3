"""Samples of many requests in one batch: the first waits a bounded time for others while the network is free."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from mmx.runtime.errors import MmxError, as_error
from mmx.runtime.network import Network, Outputs
from mmx.runtime.packing import rows
from mmx.runtime.types import Sample
from mmx.serving.server.metrics import Metrics

log = logging.getLogger(__name__)
MAX_ROWS = 256  # tower rows in one batch, about a dozen utterances; they are what bounds memory


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

    Each stream runs one batch at a time. While all are busy samples wait; when one is free, it takes the oldest and
    with it those whose text is most like it in length, since texts in a batch are padded to the longest. It takes its
    share of what waits, and leaves the other streams theirs: they will be free before a larger batch would be done.
    Each answer goes to whoever asked for it.

    Args:
        network: called from threads of the batcher's own. streams: batches that run side by side.
        max_batch: samples at once, at most. max_wait_s: how long the oldest waits for company while the network idles.
    """

    def __init__(self, network: Network, streams: int, metrics: Metrics, *, max_batch: int, max_wait_s: float) -> None:
        self._network, self._count = network, streams
        self._turn = asyncio.Lock()
        self._metrics = metrics
        self._max_batch = max_batch
        self._max_wait_s = max_wait_s if max_batch > 1 else 0.0
        self._waiting: list[_Waiting] = []
        self._arrived = asyncio.Event()
        self._threads = ThreadPoolExecutor(streams, thread_name_prefix="network")
        self._streams: list[asyncio.Task[None]] = []

    @property
    def waiting(self) -> int:
        """Samples in the queue."""
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        """Whether samples are being taken."""
        return bool(self._streams) and not any(stream.done() for stream in self._streams)

    def open(self) -> None:
        """Start taking samples."""
        self._streams = [asyncio.create_task(self._work()) for _ in range(self._count)]

    async def close(self) -> None:
        """Stop; what is in the queue is not answered."""
        for stream in self._streams:
            stream.cancel()
        await asyncio.gather(*self._streams, return_exceptions=True)
        for waiting in self._waiting:
            waiting.answer.cancel()
        self._threads.shutdown()

    def submit(self, sample: Sample) -> asyncio.Future[Row]:
        """Put a sample in the queue. Cancelling the future takes it out again.

        The future raises MmxError where the network fails on this sample.
        """
        answer: asyncio.Future[Row] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(sample, answer, time.monotonic()))
        self._arrived.set()
        return answer

    async def _work(self) -> None:
        """One stream."""
        loop = asyncio.get_running_loop()
        answered: list[tuple[_Waiting, Row | MmxError]]
        while True:
            async with self._turn:
                batch = await self._gather()
            try:
                samples = [each.sample for each in batch]
                found = await loop.run_in_executor(self._threads, self._answers, samples)
                answered = list(zip(batch, found, strict=True))
            except asyncio.CancelledError:
                for waiting in batch:
                    waiting.answer.cancel()
                raise
            except Exception as e:  # a fault of mmx: these requests fail, and the stream goes on
                log.exception("a batch failed")
                answered = [(waiting, as_error(e)) for waiting in batch]
            for waiting, row in answered:
                if waiting.answer.done():
                    continue
                if isinstance(row, MmxError):
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
        most = min(self._max_batch, math.ceil(len(self._waiting) / self._count))
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

    def _answers(self, samples: Sequence[Sample]) -> list[Row | MmxError]:
        """Each sample's row, or what is wrong with it."""
        started = time.perf_counter()
        answers = self._network.each(samples)
        took = time.perf_counter() - started
        self._metrics.stage("network", took)
        share_ms = took * 1000 / len(samples)
        return [each if isinstance(each, MmxError) else Row(each, share_ms) for each in answers]


def _tokens(waiting: _Waiting) -> int:
    ids = waiting.sample.token_ids
    return 0 if ids is None else len(ids)
