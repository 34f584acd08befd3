"""One live source from its first packet to its last answer: a worker process, opened again when the source is lost.

Answers never queue up: while the network works on one window, only the newest of those that end waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

from mmx.runtime.errors import ConnectionLost, MmxError
from mmx.runtime.prediction import Prediction
from mmx.runtime.preprocess import Segment
from mmx.runtime.streaming.clock import Clock, SystemClock
from mmx.runtime.streaming.segments import LiveSegment, LiveTask, moved
from mmx.runtime.streaming.sources import OPEN_S
from mmx.runtime.workers.task import Rejected
from mmx.runtime.workers.worker import Died, LiveOpened, Worker, WorkerSettings

log = logging.getLogger(__name__)
RECONNECT_S = 30.0
FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 5.0
STUCK_S = 60.0  # beyond the source's own time-outs
AHEAD = 8  # windows of a recording that wait for the network, where none may be skipped
REMEMBERED = 100_000  # lags: half a day of two a second

Predict = Callable[[Segment], Awaitable[Prediction]]


@dataclass(frozen=True)
class LivePrediction:
    """An answer, and how late it is.

    Attributes:
        prediction: times are seconds since the source was first open.
        lag_s: from the window's end to the answer; None of a recording that is read as fast as it is answered.
        dropped, skipped, reconnects: frames and windows so far that came too late; how often the source was lost.
    """

    prediction: Prediction
    lag_s: float | None
    dropped: int
    skipped: int
    reconnects: int


@dataclass
class LiveCounts:
    """What a session did so far.

    Attributes:
        answered: predictions. dropped: frames. skipped: windows. reconnects: of the source.
        lags: the newest predictions' ``lag_s``.
    """

    answered: int = 0
    dropped: int = 0
    skipped: int = 0
    reconnects: int = 0
    lags: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def lag(self, part: float) -> float:
        """The lag that this part of the predictions does not exceed, in seconds; 0 without any."""
        ordered = sorted(self.lags)
        return ordered[min(int(part * len(ordered)), len(ordered) - 1)] if ordered else 0.0


class Session:
    """The predictions of one live source.

    Args:
        settings: of the worker process, which is this source's alone.
        predict: the network. clock: what lag is measured by.
        reconnect_s: how long a source that was lost is tried again; one that was never there is an error at once.
        first_retry_s: seconds before the first try; each further one waits longer.
        on_lost: called with the reason each time the source is lost.

    Attributes: ``counts``.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        task: LiveTask,
        predict: Predict,
        *,
        clock: Clock | None = None,
        reconnect_s: float = RECONNECT_S,
        first_retry_s: float = FIRST_RETRY_S,
        on_lost: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._settings, self._task, self._predict = settings, task, predict
        self._clock = clock or SystemClock()
        self._reconnect_s, self._first_retry_s, self._on_lost = reconnect_s, first_retry_s, on_lost
        self._began: float | None = None
        self._reached = 0.0  # seconds: the end of the newest window
        self._keeps_all = False  # a recording of which every window is answered
        self.counts = LiveCounts()

    async def predictions(self) -> AsyncGenerator[LivePrediction, None]:
        """The predictions, each as soon as it is there. Closing it ends the worker.

        Raises:
            MmxError: what is wrong with the source, the worker or the network; ConnectionLost: it did not come back.
        """
        waiting = _Waiting()
        reading = asyncio.create_task(self._read(waiting))
        reading.add_done_callback(lambda _: waiting.end())
        try:
            while (window := await waiting.take()) is not None:
                for each in window.segments:
                    yield await self._answer(each, window.came)
            await reading
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError, MmxError):
                await reading

    async def _answer(self, each: LiveSegment, came: float) -> LivePrediction:
        prediction = await self._predict(each.segment)
        counts = self.counts
        counts.answered += 1
        lag = None
        if not self._keeps_all:
            lag = each.behind_s + self._clock.now() - came
            counts.lags.append(lag)
        return LivePrediction(prediction, lag, counts.dropped, counts.skipped, counts.reconnects)

    async def _read(self, waiting: _Waiting) -> None:
        """Put every window where the network takes it from, until the source ends for good."""
        crashes = 0
        lost_since: float | None = None
        retry_s = self._first_retry_s
        while True:
            reason = MmxError("")
            seen = self.counts.answered
            try:
                if await self._read_once(waiting):
                    return
                reason = ConnectionLost(f"{self._task.source.name} ended")
            except ConnectionLost as e:
                if self._began is None or not self._task.source.comes_back:
                    raise
                reason = e
            except Rejected as e:
                if e.code != "too_much_memory" or self.counts.answered == seen or not self._task.source.comes_back:
                    raise
                reason = e  # of a worker that went well so far; the next one starts afresh
            except Died as e:
                crashes = 1 if self.counts.answered > seen else crashes + 1
                name = self._task.source.name
                reason = Rejected("decoder_crashed", f"{name} crashes the decoder", "send it as H.264 or VP8")
                if crashes > 1 or not self._task.source.comes_back:
                    raise reason from e
            if self.counts.answered > seen:
                lost_since, retry_s = None, self._first_retry_s
            now = self._clock.now()
            lost_since = now if lost_since is None else lost_since
            if now - lost_since >= self._reconnect_s:
                raise reason
            self.counts.reconnects += 1
            self._on_lost(reason.message)
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, LONGEST_RETRY_S)

    async def _read_once(self, waiting: _Waiting) -> bool:
        """Read the source until it ends; whether that is the end."""
        source = self._task.source
        worker = await Worker.start(self._settings)
        over, later = not source.comes_back, 0.0
        dropped = skipped = 0  # in this connection, by the worker
        try:
            async for each in worker.live(self._task, OPEN_S + source.silent_s + STUCK_S):
                now = self._clock.now()
                if isinstance(each, LiveOpened):
                    over = over or each.ends
                    self._keeps_all = each.ends and not self._task.paced
                    self._began = now if self._began is None else self._began
                    later = max(now - self._began, self._reached)  # a source may have been faster than time
                    continue
                self.counts.dropped += each.dropped - dropped
                self.counts.skipped += each.skipped - skipped
                dropped, skipped = each.dropped, each.skipped
                one = replace(each, segment=moved(each.segment, later))
                self._reached = max(self._reached, one.segment.span.end)
                if self._keeps_all:
                    await waiting.room()
                self.counts.skipped += waiting.put(one, now, keep=self._keeps_all)
        finally:
            await worker.stop()
        return over


@dataclass
class _Window:
    """The segments of one window (one a person), and when the first came."""

    came: float
    segments: list[LiveSegment]


class _Waiting:
    """Windows that wait for the network: the newest, or of a recording that may wait, a few."""

    def __init__(self) -> None:
        self._windows: deque[_Window] = deque()
        self._changed = asyncio.Event()
        self._taken = asyncio.Event()
        self._over = False

    def put(self, segment: LiveSegment, now: float, *, keep: bool) -> int:
        """Add a segment; how many windows gave way to it."""
        self._changed.set()
        if self._windows and self._windows[-1].segments[0].segment.span == segment.segment.span:
            self._windows[-1].segments.append(segment)
            return 0
        gone = 0 if keep else len(self._windows)
        if gone:
            self._windows.clear()
        self._windows.append(_Window(now, [segment]))
        return gone

    async def room(self) -> None:
        """Wait until the network has caught up."""
        while len(self._windows) >= AHEAD:
            self._taken.clear()
            await self._taken.wait()

    async def take(self) -> _Window | None:
        """The next window; None at the end."""
        while not self._windows and not self._over:
            self._changed.clear()
            await self._changed.wait()
        if not self._windows:
            return None
        self._taken.set()
        return self._windows.popleft()

    def end(self) -> None:
        """Nothing more comes."""
        self._over = True
        self._changed.set()
