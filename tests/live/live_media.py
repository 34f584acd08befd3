"""A clock that tests set, and what reading offline gives for the same windows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mmx.runtime.manifest import Preprocessing
from mmx.runtime.media.arrays import MediaArrays
from mmx.runtime.media.desk import Frame, SegmentEnd
from mmx.runtime.media.reader import read_segments
from mmx.runtime.types import Span


class FakeClock:
    """It goes on only when somebody waits, or works (``time`` is raised)."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def wait_until(self, moment: float) -> None:
        self.time = max(self.time, moment)


@dataclass
class Window:
    """What was read of one window: times and pixels of the looks, the sound, the flags."""

    start: float
    end: float = 0.0
    looks: list[tuple[float, NDArray[np.uint8]]] = field(default_factory=list)
    sound: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    flags: tuple[str, ...] = ()
    frames: int = 0


Event = list[Frame] | Frame | SegmentEnd


def windows_of(events: Iterable[Event], on_look: Callable[[], None] = lambda: None) -> Iterable[Window]:
    """The windows as they end; ``on_look`` is called once for each frame that has to be searched for faces."""
    looks: dict[int, list[tuple[float, NDArray[np.uint8]]]] = {}
    last = None
    for event in events:
        if isinstance(event, SegmentEnd):
            mine = looks.pop(event.segment, [])
            span = event.span
            yield Window(span.start, span.end, mine, event.sound, event.flags, event.frames)
            continue
        for frame in event if isinstance(event, list) else [event]:
            looks.setdefault(frame.segment, []).append((frame.time, frame.rgb))
        if isinstance(event, list) and event[0].rgb is not last:
            last = event[0].rgb
            on_look()


def offline(media: Path | MediaArrays, windows: list[Window], length: float) -> list[Window]:
    """The same windows of a file that is there as a whole."""
    spans = [Span(window.start, window.start + length) for window in windows]
    return list(windows_of(read_segments(media, spans, Preprocessing(), threads=1)))


def assert_same(live: list[Window], there: list[Window]) -> None:
    assert len(live) == len(there) > 0
    for one, other in zip(live, there, strict=True):
        assert (one.start, one.frames, one.flags) == (other.start, other.frames, other.flags)
        assert one.end == pytest.approx(other.end, abs=1e-9)
        assert [time for time, _ in one.looks] == [time for time, _ in other.looks]
        assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(one.looks, other.looks, strict=True))
        assert np.array_equal(one.sound, other.sound)
