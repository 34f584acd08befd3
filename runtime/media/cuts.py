"""Where a media file is cut into segments: at given utterances, in windows, or not at all unless it is too long."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from mmx.runtime.errors import UsageError
from mmx.runtime.types import Span

EPSILON_S = 1e-6  # times this close are the same
REST_S = 0.4  # one mel piece: a shorter rest is no window of its own
SHORTEST_WINDOW_S = 0.1
FORGOTTEN_S = 300.0  # frames are decoded no longer after the utterances around them are known


@dataclass(frozen=True)
class Cut:
    """One segment to be read: start <= time < end, in seconds, and what is said in it.

    ``split``: whether it is a part of a longer utterance; None: it is if the file goes on after it.
    """

    start: float
    end: float
    text: str | None = None
    split: bool | None = False

    def holds(self, time: float) -> bool:
        """Whether a frame at ``time`` is one of its frames."""
        return self.start - EPSILON_S <= time < self.end - EPSILON_S


class Cuts(Protocol):
    """Segments in order of start, handed out as the reading reaches them."""

    def starting(self, time: float, end: float) -> Iterator[Cut]:
        """Those not handed out yet that something at ``time`` to ``end`` reaches."""

    def remaining(self) -> Iterator[Cut]:
        """Utterances of which nothing was reached, each as one cut, once the file has ended."""

    def between(self, time: float, end: float) -> Iterable[Cut]:
        """Those that share some time with ``time`` to ``end``, whether or not they were handed out."""

    @property
    def exhausted(self) -> bool:
        """Whether none is left, however long the file goes on."""


def plan_cuts(spans: Sequence[Span] | None, window: float | None, duration: float | None, max_segment_s: float) -> Cuts:
    """The cuts of a file of ``duration`` seconds (None: not declared). See ``reader.read_segments``.

    Raises:
        UsageError: spans together with a window, a window that is too short or too long, a span that ends before it
            starts or has no finite times.
    """
    if window is not None:
        if spans is not None:
            raise UsageError("utterances and a window were both given", "give one of them")
        if not SHORTEST_WINDOW_S <= window <= max_segment_s:
            raise UsageError(f"a window of {window} s", f"windows last {SHORTEST_WINDOW_S} to {max_segment_s:g} s")
        return WindowCuts(window, duration)
    if spans is None:
        parts = math.ceil(duration / max_segment_s - EPSILON_S) if duration else 1
        return WindowCuts(duration / parts if duration and parts > 1 else max_segment_s, duration, of_one=True)
    return SpanCuts(spans, max_segment_s)


class SpanCuts:
    """The given utterances; each one that is too long in equal parts, which all carry its text.

    Parts are made as the reading reaches them: an utterance may claim to last for years.
    """

    def __init__(self, spans: Sequence[Span], max_segment_s: float) -> None:
        utterances: list[_Utterance] = []
        for span in spans:
            if not (math.isfinite(span.start) and math.isfinite(span.end) and span.start < span.end):
                raise UsageError(f"an utterance from {span.start} to {span.end} s", "an utterance ends after it starts")
            start = max(0.0, span.start)
            end = max(span.end, start)
            parts = max(1, math.ceil((end - start) / max_segment_s - EPSILON_S))
            utterances.append(_Utterance(start, end, span.text, parts))
        utterances.sort(key=lambda each: (each.start, each.end))
        self._short = [each for each in utterances if each.parts == 1]
        self._long = [each for each in utterances if each.parts > 1]
        self._longest_short = max((each.end - each.start for each in self._short), default=0.0)
        self._utterances = deque(enumerate(utterances))
        self._begun: list[tuple[float, float, int, int, _Utterance]] = []  # a heap: the next part of each

    def starting(self, time: float, end: float) -> Iterator[Cut]:
        while True:
            next_start = self._begun[0][0] if self._begun else math.inf
            if self._utterances and self._utterances[0][1].start <= next_start:
                if self._utterances[0][1].start > end + EPSILON_S:
                    return
                self._push(*self._utterances.popleft(), 0)
            elif next_start > end + EPSILON_S:
                return
            else:
                _, _, order, number, utterance = heapq.heappop(self._begun)
                self._push(order, utterance, number + 1)
                yield utterance.part(number)

    def _push(self, order: int, utterance: _Utterance, number: int) -> None:
        if number < utterance.parts:
            part = utterance.part(number)
            heapq.heappush(self._begun, (part.start, part.end, order, number, utterance))

    def remaining(self) -> Iterator[Cut]:
        while self._utterances:
            _, utterance = self._utterances.popleft()
            yield Cut(utterance.start, utterance.end, utterance.text, utterance.parts > 1)
        self._begun.clear()

    def between(self, time: float, end: float) -> Iterator[Cut]:
        first = bisect_left(self._short, time - self._longest_short, key=_start)
        for utterance in self._short[first : bisect_left(self._short, end, key=_start)]:
            yield from utterance.between(time, end)
        for utterance in self._long[: bisect_left(self._long, end, key=_start)]:
            yield from utterance.between(time, end)

    @property
    def exhausted(self) -> bool:
        return not (self._utterances or self._begun)


class SpokenCuts:
    """Utterances that become known while the file is read, in order of start, none longer than a segment may be."""

    def __init__(self, spans: Iterator[Span]) -> None:
        self._spans = spans
        self._waiting: deque[Cut] = deque()  # known, not handed out
        self._recent: deque[Cut] = deque()  # known, and perhaps still on screen
        self._known = -math.inf
        self._over = False

    def starting(self, time: float, end: float) -> Iterator[Cut]:
        self._listen(end)
        while self._waiting and self._waiting[0].start <= end + EPSILON_S:
            yield self._waiting.popleft()

    def remaining(self) -> Iterator[Cut]:
        self._listen(math.inf)
        while self._waiting:
            yield self._waiting.popleft()

    def between(self, time: float, end: float) -> Iterator[Cut]:
        self._listen(end)
        return (cut for cut in self._recent if cut.start < end and cut.end > time)

    @property
    def exhausted(self) -> bool:
        return self._over and not self._waiting

    def _listen(self, time: float) -> None:
        """Wait for the utterances that start until ``time``."""
        while not self._over and self._known <= time + EPSILON_S:
            span = next(self._spans, None)
            if span is None:
                self._over = True
                return
            self._known = span.start
            self._waiting.append(Cut(span.start, span.end, span.text))
            self._recent.append(self._waiting[-1])
            while self._recent[0].end < span.start - FORGOTTEN_S:
                self._recent.popleft()


@dataclass(frozen=True)
class _Utterance:
    """An utterance in so many equal parts."""

    start: float
    end: float
    text: str | None
    parts: int

    def part(self, number: int) -> Cut:
        return Cut(self._edge(number), self._edge(number + 1), self.text, self.parts > 1)

    def _edge(self, number: int) -> float:
        return self.end if number == self.parts else self.start + (self.end - self.start) * number / self.parts

    def between(self, time: float, end: float) -> Iterator[Cut]:
        if time >= self.end:
            return
        length = (self.end - self.start) / self.parts
        number = max(0, int((time - self.start) / length) - 1)
        while number < self.parts and (cut := self.part(number)).start < end:
            number += 1
            if cut.end > time:
                yield cut


def _start(utterance: _Utterance) -> float:
    return utterance.start


class WindowCuts:
    """Windows of equal length, without end; those in which the file has nothing are passed over.

    Where the file's length is declared, a rest that is shorter than half a window and ``REST_S`` joins the last one.
    ``of_one``: the windows are the parts of one utterance that is too long.
    """

    def __init__(self, length: float, duration: float | None, *, of_one: bool = False) -> None:
        rest = min(REST_S, length / 2)
        self._length = length
        self._of_one = of_one
        self._next = 0
        self._last = max(1, math.ceil((duration - rest) / length)) - 1 if duration else -1
        self._last_end = max((self._last + 1) * length, duration + rest) if duration else 0.0

    def starting(self, time: float, end: float) -> Iterator[Cut]:
        if end < 0:
            return
        last = self._number(max(time, end - 2 * EPSILON_S))
        for number in range(max(self._next, self._number(time)), last + 1):
            self._next = number + 1
            split = (True if number else None) if self._of_one else False
            yield Cut(self._edge(number), self._edge(number + 1), split=split)

    def remaining(self) -> Iterator[Cut]:
        return iter(())

    def between(self, time: float, end: float) -> Iterator[Cut]:
        for number in range(self._number(time), self._number(end) + 1):
            yield Cut(self._edge(number), self._edge(number + 1))

    @property
    def exhausted(self) -> bool:
        return False

    def _number(self, time: float) -> int:
        """The window that ``time`` lies in."""
        number = int((max(time, 0.0) + EPSILON_S) / self._length)
        return self._last if self._last < number and time + EPSILON_S < self._last_end else number

    def _edge(self, number: int) -> float:
        """Where a window starts."""
        return self._last_end if number == self._last + 1 and number else number * self._length
