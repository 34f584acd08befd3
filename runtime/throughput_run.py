"""One run of a ``Pipeline``: its threads, and what waits between them.

    caller: draws tasks -> [tasks] -> feeders: one worker process each -> [pool] -> answerer: towers, fusion -> caller

A feeder takes the segments of one file after another from the workers; the answerer empties the pool when it is full,
or when no file is being read, and answers its segments sorted by length. Everything is bounded: files under way, rows
in the pool, rows in a batch. All of it is guarded by one condition; the work itself is done outside it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from mmx.runtime.errors import EnvironmentMissing, MmxError, as_error
from mmx.runtime.network import Network
from mmx.runtime.packing import length, rows, split
from mmx.runtime.prediction import Prediction
from mmx.runtime.preprocess import Segment
from mmx.runtime.workers.blocking import Reading, Workers
from mmx.runtime.workers.task import Task

WINDOW = 2  # batches that are sorted together; another window is read meanwhile
IDLE_S = 5.0  # a file that takes long to read does not keep the others' answers back for longer
AHEAD = 256  # files that may be under way, or answered and waiting for one before them: enough to fill a window


@dataclass(frozen=True)
class FileResult:
    """The result of one file.

    Attributes:
        file: its name as the caller gave it (see ``Task``). task: as given.
        predictions: one for each segment, in the order they end; after an error, those made before it.
        error: why the file could not be read, or not to its end.
    """

    file: str
    predictions: tuple[Prediction, ...]
    task: Task
    error: MmxError | None = None


@dataclass
class _File:
    """A file under way: what is known of its segments so far."""

    task: Task
    read: bool = False
    segments: int = 0
    settled: int = 0
    answers: dict[int, Prediction] = field(default_factory=dict)
    error: MmxError | None = None

    @property
    def done(self) -> bool:
        return self.read and self.settled == self.segments

    def result(self) -> FileResult:
        answers = tuple(self.answers[number] for number in sorted(self.answers))
        return FileResult(self.task.shown, answers, self.task, self.error)


@dataclass(frozen=True)
class _Waiting:
    """A segment in the pool: the ``number``-th of its file."""

    file: _File
    number: int
    segment: Segment


class Run:
    """The threads of one run. Leaving the ``with`` stops them and waits for their end."""

    def __init__(self, network: Network, workers: Workers, side_by_side: int, max_rows: int, batch_size: int) -> None:
        self._network, self._workers = network, workers
        self._max_rows, self._batch_size = max_rows, batch_size
        self._changed = threading.Condition()
        self._tasks: deque[_File] = deque()
        self._pool: list[_Waiting] = []
        self._pool_rows = 0
        self._reading = 0
        self._readings: set[Reading] = set()
        self._stopping = threading.Event()
        self._fault: BaseException | None = None
        works = [("read", self._read)] * side_by_side + [("answer", self._answer)]
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), name=f"mmx-{name}", daemon=True)
            for name, work in works
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._stopping.set()
            readings = list(self._readings)
            self._changed.notify_all()
        for reading in readings:
            reading.close()
        for thread in self._threads:
            thread.join()

    def results(self, tasks: Iterable[Task]) -> Iterator[FileResult]:
        """Feed the workers and yield results in the order of the tasks."""
        source = iter(tasks)
        under_way: deque[_File] = deque()
        more = True
        while more or under_way:
            if under_way and under_way[0].done:
                yield under_way.popleft().result()
            elif more and len(under_way) < AHEAD:
                task = next(source, None)
                if task is None:
                    more = False
                    continue
                under_way.append(_File(task))
                with self._changed:
                    self._tasks.append(under_way[-1])
                    self._changed.notify_all()
            else:
                with self._changed:
                    self._changed.wait_for(lambda: under_way[0].done or self._fault is not None)
                    if self._fault is not None:
                        raise self._fault

    def _guarded(self, work: Callable[[], None]) -> None:
        """Run a thread's work; what it could not foresee ends the run in the caller's thread, not in silence."""
        try:
            work()
        except BaseException as e:
            with self._changed:
                self._fault = e
                self._changed.notify_all()

    def _read(self) -> None:
        """A feeder: files -> segments in the pool."""
        while (file := self._next_task()) is not None:
            error = None
            try:
                reading = self._begin(file.task)
                try:
                    for segment in reading:
                        if not self._offer(file, segment):
                            return
                finally:
                    reading.close()
                    self._readings.discard(reading)
            except EnvironmentMissing:  # no worker is left: no file's fault
                raise
            except Exception as e:
                error = as_error(e, file.task.shown)
            with self._changed:
                file.read, file.error = True, error or file.error
                self._reading -= 1
                self._changed.notify_all()

    def _begin(self, task: Task) -> Reading:
        with self._changed:
            reading = self._workers.read(task)
            self._readings.add(reading)
            return reading

    def _next_task(self) -> _File | None:
        with self._changed:
            self._changed.wait_for(lambda: self._tasks or self._stopping.is_set())
            if self._stopping.is_set():
                return None
            self._reading += 1
            return self._tasks.popleft()

    def _offer(self, file: _File, segment: Segment) -> bool:
        """Put a segment into the pool, once there is room; False when the run stops."""
        with self._changed:
            self._changed.wait_for(lambda: not self._full or self._stopping.is_set())
            if self._stopping.is_set():
                return False
            self._pool.append(_Waiting(file, file.segments, segment))
            self._pool_rows += rows([segment.sample])
            file.segments += 1
            self._changed.notify_all()
            return True

    @property
    def _full(self) -> bool:
        return self._pool_rows >= WINDOW * self._max_rows

    def _answer(self) -> None:
        """The answerer: segments in the pool -> predictions of their files."""
        while window := self._next_window():
            ordered = deque(sorted(window, key=lambda waiting: length(waiting.segment.sample)))
            window.clear()
            for group in split(
                _popped(ordered), self._max_rows, self._batch_size, sample_of=lambda waiting: waiting.segment.sample
            ):
                if self._stopping.is_set():
                    return
                self._settle(group)

    def _next_window(self) -> list[_Waiting]:
        """Everything in the pool, once it is full or nothing is being read, or for a while nothing came; nothing when
        the run stops.
        """

        def ready() -> bool:
            idle = not self._reading and not self._tasks
            return self._stopping.is_set() or self._full or (bool(self._pool) and idle)

        with self._changed:
            while not self._changed.wait_for(ready, IDLE_S) and not self._pool:
                pass
            if self._stopping.is_set():
                return []
            window, self._pool, self._pool_rows = self._pool, [], 0
            self._changed.notify_all()
            return window

    def _settle(self, group: Sequence[_Waiting]) -> None:
        """Answer a batch; a segment that fails is the fault of its file alone."""
        answers = self._network.predict([waiting.segment for waiting in group])
        with self._changed:
            for waiting, answer in zip(group, answers, strict=True):
                waiting.file.settled += 1
                if isinstance(answer, MmxError):
                    waiting.file.error = waiting.file.error or answer
                else:
                    waiting.file.answers[waiting.number] = answer
            self._changed.notify_all()


def _popped(items: deque[_Waiting]) -> Iterator[_Waiting]:
    """What is answered is not kept: the next window is being read."""
    while items:
        yield items.popleft()
