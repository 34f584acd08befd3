"""Where a media file is cut into segments: at given utterances, in windows, or not at all unless it is too long."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from mmx.runtime.errors import UsageError
from mmx.runtime.types import Span

EPSILON_S = 1e-6  # times this close are the same
REST_S = 0.4  # one mel piece: a shorter rest is no window of its own
SHORTEST_WINDOW_S = 0.1


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
        """Those that were never reached, once the file has ended."""

    def at(self, time: float) -> list[Cut]:
        """Those that ``time`` lies in, whether or not they were handed out."""

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
    """The given utterances; each one that is too long in equal parts, which all carry its text."""

    def __init__(self, spans: Sequence[Span], max_segment_s: float) -> None:
        cuts: list[Cut] = []
        for span in spans:
            if not (math.isfinite(span.start) and math.isfinite(span.end) and span.start < span.end):
                raise UsageError(f"an utterance from {span.start} to {span.end} s", "an utterance ends after it starts")
            start = max(0.0, span.start)
            parts = max(1, math.ceil((span.end - start) / max_segment_s - EPSILON_S))
            edges = [start + (span.end - start) * i / parts for i in range(parts)] + [max(span.end, start)]
            cuts += [Cut(a, b, span.text, parts > 1) for a, b in pairwise(edges)]
        self._cuts = sorted(cuts, key=lambda cut: (cut.start, cut.end))
        self._starts = [cut.start for cut in self._cuts]
        self._longest = max((cut.end - cut.start for cut in cuts), default=0.0)
        self._next = 0

    def starting(self, time: float, end: float) -> Iterator[Cut]:
        while self._next < len(self._cuts) and self._cuts[self._next].start <= end + EPSILON_S:
            self._next += 1
            yield self._cuts[self._next - 1]

    def remaining(self) -> Iterator[Cut]:
        return self.starting(math.inf, math.inf)

    def at(self, time: float) -> list[Cut]:
        first = bisect_left(self._starts, time - self._longest - EPSILON_S)
        last = bisect_right(self._starts, time + EPSILON_S)
        return [cut for cut in self._cuts[first:last] if cut.holds(time)]

    @property
    def exhausted(self) -> bool:
        return self._next == len(self._cuts)


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

    def at(self, time: float) -> list[Cut]:
        number = self._number(time)
        cut = Cut(self._edge(number), self._edge(number + 1))
        return [cut] if cut.holds(time) else []

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
