"""A live stream -> the segments of its windows, as they end; what would come too late is skipped and counted."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from mmx.runtime.errors import UsageError
from mmx.runtime.media.desk import SegmentEnd
from mmx.runtime.preprocess import Preprocessor, Segment
from mmx.runtime.streaming.clock import Clock
from mmx.runtime.streaming.raw import RawFormat
from mmx.runtime.streaming.reading import MAX_LAG_S, LiveReading, LiveStream
from mmx.runtime.streaming.sources import LiveSource
from mmx.runtime.streaming.windows import Rolling


@dataclass(frozen=True)
class LiveTask:
    """A source, and how it is answered.

    Attributes:
        rolling: the windows.
        paced: a recording comes at its own speed, as from a camera, and what is late is dropped; otherwise it is read
            as fast as it is answered.
        max_lag: seconds after which a frame that was not looked at is dropped. people: see ``Preprocessor.segments``.
    """

    source: LiveSource
    rolling: Rolling = field(default_factory=Rolling)
    paced: bool = True
    max_lag: float = MAX_LAG_S
    people: str = "largest"

    def __post_init__(self) -> None:
        if not 0.05 <= self.max_lag <= 60:  # also NaN
            raise UsageError(f"a lag of {self.max_lag} s", "it is 0.05 to 60 s")

    def to_plain(self) -> dict[str, Any]:
        """The task as JSON has it."""
        return asdict(self)

    @classmethod
    def of(cls, plain: dict[str, Any]) -> LiveTask:
        """The task that ``to_plain`` wrote."""
        source = dict(plain["source"])
        source["raw"] = source["raw"] and RawFormat(**source["raw"])
        return cls(**{**plain, "source": LiveSource(**source), "rolling": Rolling(**plain["rolling"])})


@dataclass(frozen=True)
class LiveSegment:
    """One window, and how reading fares.

    Attributes:
        segment: the window. behind_s: seconds since it was over in the stream.
        dropped, skipped: frames and windows so far that came too late.
    """

    segment: Segment
    behind_s: float
    dropped: int
    skipped: int


def live_segments(
    preprocessor: Preprocessor, stream: LiveStream, task: LiveTask, clock: Clock
) -> Generator[LiveSegment, None, None]:
    """The windows of a stream, in the order they end.

    Raises:
        MmxError: see ``Preprocessor.segments``; ConnectionLost: the stream broke off.
    """
    drops = task.paced or not stream.ends
    reading = LiveReading(
        stream,
        task.rolling,
        preprocessor.spec,
        clock,
        paced=task.paced,
        max_lag=task.max_lag if drops else None,
    )
    newer = max(task.rolling.hop, task.max_lag)  # by then the next window is over
    skipped = 0

    def wanted(end: SegmentEnd) -> bool:
        nonlocal skipped
        late = drops and reading.behind(end.span.end) > newer
        skipped += late
        return not late

    for segment in preprocessor.segments_of(reading, stream.info, wanted, task.people):
        yield LiveSegment(segment, reading.behind(segment.span.end), reading.dropped, skipped)


def moved(segment: Segment, seconds: float) -> Segment:
    """The segment with its times so much later: of a stream that was opened again."""
    if not seconds:
        return segment
    span = replace(segment.span, start=segment.span.start + seconds, end=segment.span.end + seconds)
    faces, others = (
        tuple(replace(face, time=face.time + seconds) for face in seen) for seen in (segment.faces, segment.others)
    )
    words = tuple(replace(word, start=word.start + seconds, end=word.end + seconds) for word in segment.words)
    return replace(segment, span=span, faces=faces, others=others, words=words)
