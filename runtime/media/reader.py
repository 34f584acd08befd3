"""A media file cut into segments: the frames that are looked at and the sound, as they come, in bounded memory.

for event in read_segments("talk.mp4", spans, preprocessing):
    match event:
        case Frame(segment, time, rgb): ...
        case SegmentEnd(segment, span, sound, frames, flags): ...
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from mmx.runtime.errors import BadDataError
from mmx.runtime.manifest import Preprocessing, VideoSpec
from mmx.runtime.media.container import MediaInfo, probe
from mmx.runtime.media.cuts import EPSILON_S, Cut, Cuts, plan_cuts
from mmx.runtime.media.decode import SoundTrack, VideoTrack, upright_rgb
from mmx.runtime.media.packets import MediaFile
from mmx.runtime.media.skipping import Looks
from mmx.runtime.types import Span

__all__ = ["Frame", "MediaInfo", "SegmentEnd", "probe", "read_segments"]

MAX_OPEN = 200  # segments that overlap at one moment; more is no transcript
FAULT_FLAGS = ("corrupt_media", "repaired_timestamps", "sound_gap")  # in the order of Track.faults
TRUNCATED_S = 0.5  # media that end this much before the declared end were cut short


@dataclass(frozen=True)
class Frame:
    """One frame that is looked at: its segment, its time in the file in seconds, uint8 RGB [height, width, 3]."""

    segment: int
    time: float
    rgb: NDArray[np.uint8]


@dataclass(frozen=True)
class SegmentEnd:
    """All of a segment has been read.

    Attributes:
        segment: counts from 0 in order of start.
        span: the segment, cut at the end of the media, with its text.
        sound: float32 [n], mono, at the mel spec's rate, from the segment's start (silence where the track begins later
            or has a hole) to its end or the track's. Empty if the track has nothing in the segment.
        frames: how many were looked at.
        flags: ``utterance_split`` (a part of an utterance too long for one segment), ``outside_media`` (the file ends
            before it begins), ``truncated_media`` (the file breaks off in it), ``corrupt_media`` (something in it could
            not be decoded), ``sound_gap`` (the sound stops and goes on later in it), ``repaired_timestamps`` (times in
            it were impossible and were replaced).
    """

    segment: int
    span: Span
    sound: NDArray[np.float32]
    frames: int
    flags: tuple[str, ...]


def read_segments(
    file: str | Path | MediaFile,
    spans: Sequence[Span] | None,
    preprocessing: Preprocessing,
    *,
    window: float | None = None,
    video: bool = True,
    audio: bool = True,
    threads: int | None = None,
) -> Iterator[Frame | SegmentEnd]:
    """Decode a file once and yield, in time order, each segment's frames and then its end.

    Of a segment's frames those are looked at that come first at or after start + k * ``interval_s`` (or every n-th, see
    ``VideoSpec``), and only those are converted to RGB. A segment takes the frames with start <= time < end.

    Args:
        file: its path, or the open file, which is closed in the end.
        spans: the utterances, in any order; they may overlap. None: the whole file is one utterance.
            Utterances longer than ``max_segment_s`` are cut into equal parts.
        window: cut the file into windows of so many seconds instead. Where the file declares its length, a rest shorter
            than half a window and 0.4 s joins the last one. Windows in which the file has nothing are left out.
        video, audio: whether to decode that track.
        threads: for the decoders; None: as many as there are cores.

    Raises:
        UsageError: spans or a window that make no sense.
        BadDataError: a file that cannot be read (see ``container.probe``), or in which nothing can be decoded.
    """
    opened = file if isinstance(file, MediaFile) else MediaFile(file)
    info = opened.info
    cuts = plan_cuts(spans, window, info.duration, preprocessing.max_segment_s)
    return _read(opened, cuts, preprocessing, video and info.has_video, audio and info.has_audio, threads)


def _read(
    file: MediaFile, cuts: Cuts, preprocessing: Preprocessing, video: bool, audio: bool, threads: int | None
) -> Iterator[Frame | SegmentEnd]:
    info = file.info
    with ExitStack() as closing:
        closing.enter_context(file)
        tracks: list[VideoTrack | SoundTrack] = []
        streams: list[Iterator[_Event]] = []
        if video:
            looks = None if preprocessing.video.every_nth else _looks(cuts, preprocessing.video)
            pictures = closing.enter_context(VideoTrack(file, threads, looks))
            tracks.append(pictures)
            streams.append(_Event(time, time, frame=frame) for time, frame in pictures)
        if audio:
            sounds = closing.enter_context(SoundTrack(file, preprocessing.mel.sample_rate, threads))
            tracks.append(sounds)
            streams.append(_sound_events(sounds))
        desk = _Desk(cuts, preprocessing)
        seen: tuple[int, ...] = (0, 0, 0)
        for event in heapq.merge(*streams, key=lambda event: event.time):
            yield from desk.close_until(event.time)
            if desk.finished:
                return
            yield from desk.take(event)
            faults = tuple(sum(counts) for counts in zip(*(track.faults() for track in tracks), strict=True))
            if faults != seen:
                desk.flag(*(flag for flag, now, before in zip(FAULT_FLAGS, faults, seen, strict=True) if now > before))
                seen = faults
        if tracks and not any(track.decoded for track in tracks):
            raise BadDataError(f"{info.path}: nothing in it could be decoded", "copy or download it again")
        end = max((track.end for track in tracks), default=info.duration or 0.0)
        if not tracks:
            yield from desk.take(_Event(0.0, end))
        truncated = len(tracks) == info.has_video + info.has_audio and end < (info.duration or 0.0) - TRUNCATED_S
        yield from desk.close_all(end, truncated=truncated)


def _looks(cuts: Cuts, spec: VideoSpec) -> Looks:
    """Which segments a frame at some time lies in, and which step of each."""

    def looks(time: float) -> set[Hashable]:
        return {(cut.start, cut.end, _step(cut, time, spec)) for cut in cuts.at(time)}

    return looks


def _step(cut: Cut, time: float, spec: VideoSpec) -> int:
    """The k of start + k * ``interval_s`` that ``time`` comes at or after; the first frame of each is looked at."""
    return math.floor((time - cut.start + EPSILON_S) / spec.interval_s)


@dataclass(frozen=True)
class _Event:
    """A frame, or a chunk of sound that starts at sample ``index``; ``time`` to ``end`` in seconds."""

    time: float
    end: float
    frame: VideoFrame | None = None
    sound: NDArray[np.float32] | None = None
    index: int = 0


def _sound_events(track: SoundTrack) -> Iterator[_Event]:
    rate = track.sample_rate
    for index, sound in track:
        yield _Event(index / rate, (index + len(sound)) / rate, sound=sound, index=index)


@dataclass
class _Open:
    """A segment that is being read."""

    number: int
    cut: Cut
    flags: set[str]
    step: int = -1
    passed: int = 0
    taken: int = 0

    def wants(self, time: float, spec: VideoSpec) -> bool:
        """Whether the frame at ``time`` is one of those that are looked at; call it once for each frame."""
        if not self.cut.holds(time):
            return False
        self.passed += 1
        if spec.every_nth:
            chosen = (self.passed - 1) % spec.every_nth == 0
        else:
            step = _step(self.cut, time, spec)
            chosen, self.step = step > self.step, max(step, self.step)
        self.taken += chosen
        return chosen


class _Desk:
    """Deals frames and sound out to the segments that are open at their time; keeps no more sound than those need."""

    def __init__(self, cuts: Cuts, preprocessing: Preprocessing) -> None:
        self._cuts = cuts
        self._spec = preprocessing.video
        self._rate = preprocessing.mel.sample_rate
        self._open: list[_Open] = []
        self._chunks: deque[tuple[int, NDArray[np.float32]]] = deque()
        self._number = 0

    @property
    def finished(self) -> bool:
        """No segment is open and none will come."""
        return not self._open and self._cuts.exhausted

    def take(self, event: _Event) -> Iterator[Frame | SegmentEnd]:
        """Give a frame or a chunk of sound to the segments it belongs to."""
        for cut in self._cuts.starting(event.time, event.end):
            self._start(cut)
            if cut.end <= event.time:  # it lies in a hole of the file
                yield from self.close_until(event.time)
        if event.sound is not None and self._open:
            self._chunks.append((event.index, event.sound))
        if event.frame is not None:
            takers = [segment for segment in self._open if segment.wants(event.time, self._spec)]
            if takers:
                rgb = upright_rgb(event.frame)
                yield from (Frame(segment.number, event.time, rgb) for segment in takers)

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
            segment = _Open(self._number, cut, outside)
            self._number += 1
            yield self._ended(segment, cut.end, split=bool(cut.split))

    def _start(self, cut: Cut) -> None:
        if len(self._open) == MAX_OPEN:
            raise BadDataError(f"more than {MAX_OPEN} utterances overlap at {cut.start:.2f} s", "check the transcript")
        self._open.append(_Open(self._number, cut, set()))
        self._number += 1

    def _ended(self, segment: _Open, end: float, *, split: bool) -> SegmentEnd:
        cut = segment.cut
        flags = segment.flags | ({"utterance_split"} if split else set())
        span = Span(cut.start, end, cut.text)
        return SegmentEnd(segment.number, span, self._sound(cut.start, end), segment.taken, tuple(sorted(flags)))

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
