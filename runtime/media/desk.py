"""Frames and sound, in time order, dealt out to the segments that they belong to, in bounded memory."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.errors import BadDataError
from mmx.runtime.manifest import VideoSpec
from mmx.runtime.media.cuts import EPSILON_S, Cut, Cuts
from mmx.runtime.types import Span

MAX_OPEN = 200  # segments that overlap at one moment; more is no transcript
FAULT_FLAGS = ("corrupt_media", "repaired_timestamps", "sound_gap")  # in the order of Track.faults
PIECE_S = 0.5  # a frame that stays on screen longer is handed out in pieces, so that the sound keeps up with it
LEVEL_S = 0.3  # of sound that a glance's level is that of
ON_SCREEN_S = 0.001  # a frame that begins this little after a time is on screen at it: containers round times to this


@dataclass(frozen=True)
class Frame:
    """One look at a frame: its segment, the time in the file in seconds, uint8 RGB [height, width, 3].

    Looks at the same frame hold the same array.
    """

    segment: int
    time: float
    rgb: NDArray[np.uint8]


@dataclass(frozen=True)
class SegmentEnd:
    """All of a segment has been read.

    Attributes:
        segment: counts from 0 in order of start.
        span: the segment, cut at the end of the media, with its text.
        sound: float32 [n], mono, from the segment's start (silence where the track begins later or has a hole) to its
            end or the track's. Empty if the track has nothing in the segment.
        sample_rate: of ``sound``, in Hz: the mel spec's, or the file's own where the spec asks for that.
        frames: how many looks at frames there were.
        flags: ``utterance_split`` (a part of an utterance too long for one segment), ``outside_media`` (the file ends
            before it begins), ``truncated_media`` (the file breaks off in it), ``corrupt_media`` (something in it could
            not be decoded), ``sound_gap`` (the sound stops and goes on later in it), ``repaired_timestamps`` (times in
            it were impossible and were replaced), ``hdr_video``, ``several_video_tracks`` and ``several_audio_tracks``
            (one was chosen by default).
    """

    segment: int
    span: Span
    sound: NDArray[np.float32]
    sample_rate: int
    frames: int
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Glance:
    """A frame between those that are looked at, converted to RGB if anybody asks for it.

    ``level``: of the sound just before it, RMS in dB of full scale; -120 for silence, or without sound.
    """

    time: float
    shown: Shown
    level: float

    @property
    def rgb(self) -> NDArray[np.uint8]:
        """uint8 RGB [height, width, 3]."""
        return self.shown.rgb


def looked_at(cut: Cut, time: float, end: float, spec: VideoSpec) -> range:
    """The k of those start + k * ``interval_s`` of a segment at which a frame from ``time`` to ``end`` is on screen."""

    def first_at_or_after(seconds: float) -> int:
        return max(0, math.ceil((seconds - cut.start - EPSILON_S) / spec.interval_s))

    return range(first_at_or_after(time - ON_SCREEN_S), first_at_or_after(min(end - ON_SCREEN_S, cut.end)))


@dataclass
class Shown:
    """A frame on screen, converted to RGB once, when it is first looked at."""

    convert: Callable[[], NDArray[np.uint8]]
    first: bool  # of the file

    @cached_property
    def rgb(self) -> NDArray[np.uint8]:
        return self.convert()


@dataclass(frozen=True)
class Event:
    """A frame, or a chunk of sound that starts at sample ``index``; ``time`` to ``end`` in seconds."""

    time: float
    end: float
    frame: Shown | None = None
    begins: bool = False  # whether this is the frame's first piece
    sound: NDArray[np.float32] | None = None
    index: int = 0


def in_pieces(time: float, shown: Shown, end: float, begins: bool = True) -> Iterator[Event]:
    """A frame that is on screen from ``time`` to ``end``, as events; ``begins``: whether it comes on screen then."""
    pieces = max(1, math.ceil((end - time) / PIECE_S))
    edges = [time + (end - time) * n / pieces for n in range(pieces)] + [end]
    for number, (start, stop) in enumerate(pairwise(edges)):
        yield Event(start, stop, frame=shown, begins=begins and not number)


@dataclass
class OpenSegment:
    """A segment that is being read."""

    number: int
    cut: Cut
    flags: set[str]
    passed: int = 0
    taken: int = 0

    def looks_at(self, event: Event, shown: Shown, spec: VideoSpec) -> list[float]:
        """The times at which it looks at a frame on screen; call it once for each piece of a frame."""
        if spec.every_nth:
            begins = event.begins and self.cut.holds(event.time)
            self.passed += begins
            times = [event.time] if begins and (self.passed - 1) % spec.every_nth == 0 else []
        else:
            times = [self.cut.start + k * spec.interval_s for k in looked_at(self.cut, event.time, event.end, spec)]
            if shown.first and event.begins and self.cut.holds(event.time) and not (times and times[0] <= event.time):
                late = event.time - self.cut.start > ON_SCREEN_S + EPSILON_S
                times = [event.time] * late + times
        self.taken += len(times)
        return times


class Desk:
    """Deals frames and sound out to the segments that are open at their time; keeps no more sound than those need.

    ``always``: flags that every segment gets. ``glance_s``: also hand out a ``Glance`` so often while a segment is
    open.
    """

    def __init__(self, cuts: Cuts, spec: VideoSpec, rate: int, always: set[str], glance_s: float | None = None) -> None:
        self._glance_s = glance_s
        self._cuts = cuts
        self._spec = spec
        self._rate = rate
        self._always = always
        self._open: list[OpenSegment] = []
        self._chunks: deque[tuple[int, NDArray[np.float32]]] = deque()
        self._number = 0

    @property
    def finished(self) -> bool:
        """No segment is open and none will come."""
        return not self._open and self._cuts.exhausted

    def take(self, event: Event) -> Iterator[Frame | Glance | SegmentEnd]:
        """Give a frame or a chunk of sound to the segments it belongs to."""
        for cut in self._cuts.starting(event.time, event.end):
            self._start(cut)
            if cut.end <= event.time:  # it lies in a hole of the file
                yield from self.close_until(event.time)
        if event.sound is not None and self._open:
            self._chunks.append((event.index, event.sound))
        if event.frame is not None:
            for segment in self._open:
                for time in segment.looks_at(event, event.frame, self._spec):
                    yield Frame(segment.number, time, event.frame.rgb)
            yield from self._glances(event, event.frame)

    def _glances(self, event: Event, shown: Shown) -> Iterator[Glance]:
        if self._glance_s is None or not self._open:
            return
        first, stop = (math.ceil(time / self._glance_s - EPSILON_S) for time in (event.time, event.end))
        for number in range(first, stop):
            time = number * self._glance_s
            sound = self._sound(max(time - LEVEL_S, 0.0), time)
            power = float(np.mean(sound * sound)) if len(sound) else 0.0
            yield Glance(time, shown, 10 * math.log10(max(power, 1e-12)))

    def flag(self, *flags: str) -> None:
        """Put flags on every open segment."""
        for segment in self._open:
            segment.flags.update(flags)

    def close_until(self, time: float) -> Iterator[SegmentEnd]:
        """End the segments that end at or before ``time``, and forget the sound that none of the others needs."""
        over = [segment for segment in self._open if segment.cut.end <= time]
        if not over:
            return
        self._open = [segment for segment in self._open if segment.cut.end > time]
        for segment in sorted(over, key=lambda segment: segment.cut.end):
            yield self._ended(segment, segment.cut.end, split=segment.cut.split is not False)
        needed = min((segment.cut.start for segment in self._open), default=math.inf)
        while self._chunks and (self._chunks[0][0] + len(self._chunks[0][1])) / self._rate <= needed:
            self._chunks.popleft()

    def close_all(self, end: float, *, truncated: bool) -> Iterator[SegmentEnd]:
        """The media end at ``end``: end what is open, and say of what was never reached that it is outside."""
        if truncated:
            self.flag("truncated_media")
        for segment in sorted(self._open, key=lambda segment: segment.cut.end):
            yield self._ended(segment, min(end, segment.cut.end), split=bool(segment.cut.split))
        for cut in self._cuts.remaining():
            outside = {"truncated_media" if truncated else "outside_media"} if cut.start >= end - EPSILON_S else set()
            segment = OpenSegment(self._number, cut, outside)
            self._number += 1
            yield self._ended(segment, cut.end, split=bool(cut.split))

    def _start(self, cut: Cut) -> None:
        if len(self._open) == MAX_OPEN:
            raise BadDataError(f"more than {MAX_OPEN} utterances overlap at {cut.start:.2f} s", "check the transcript")
        self._open.append(OpenSegment(self._number, cut, set()))
        self._number += 1

    def _ended(self, segment: OpenSegment, end: float, *, split: bool) -> SegmentEnd:
        cut = segment.cut
        flags = segment.flags | self._always | ({"utterance_split"} if split else set())
        span, sound = Span(cut.start, end, cut.text), self._sound(cut.start, end)
        return SegmentEnd(segment.number, span, sound, self._rate, segment.taken, tuple(sorted(flags)))

    def _sound(self, start: float, end: float) -> NDArray[np.float32]:
        """The sound of a stretch: silence before and between chunks, nothing after the last."""
        first, last = round(start * self._rate), round(end * self._rate)
        parts = [(i, chunk) for i, chunk in self._chunks if i < last and i + len(chunk) > first]
        if not parts:
            return np.empty(0, np.float32)
        length = min(last, max(i + len(chunk) for i, chunk in parts)) - first
        sound = np.zeros(length, np.float32)
        for i, chunk in parts:
            low, high = max(i, first), min(i + len(chunk), first + length)
            sound[low - first : high - first] = chunk[low - i : high - i]
        return sound


class Faults:
    """What goes wrong in tracks (``decode.Track``), as flags."""

    def __init__(self, tracks: Sequence[_CountsFaults]) -> None:
        self._tracks = tracks
        self._seen: tuple[int, ...] = (0,) * len(FAULT_FLAGS)

    def new(self) -> list[str]:
        """The flags of what went wrong since the last call."""
        before, self._seen = self._seen, tuple(map(sum, zip(*(track.faults() for track in self._tracks), strict=True)))
        return [flag for flag, now, then in zip(FAULT_FLAGS, self._seen, before, strict=False) if now > then]


class _CountsFaults(Protocol):
    def faults(self) -> tuple[int, int, int]: ...
