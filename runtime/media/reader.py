"""A media file cut into segments: the frames that are looked at and the sound, as they come, in bounded memory.

The frame on screen at a time is looked at, whenever it began: a still, or a screen recording in which nothing moved for
a minute, is seen in every segment. So a file that leaves out repeated frames gives what one with all of them gives.

for event in read_segments("talk.mp4", spans, preprocessing):
    match event:
        case Frame(segment, time, rgb): ...
        case SegmentEnd(segment, span, sound, frames, flags): ...
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise, tee
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.errors import BadDataError
from mmx.runtime.manifest import MelSpec, Preprocessing, VideoSpec
from mmx.runtime.media.arrays import ArrayMedia, FrameArray, MediaArrays, SoundArray
from mmx.runtime.media.container import DEFAULT_TRACKS, MediaInfo, Tracks, probe
from mmx.runtime.media.cuts import EPSILON_S, Cut, Cuts, SpokenCuts, plan_cuts
from mmx.runtime.media.decode import SoundTrack, VideoTrack
from mmx.runtime.media.packets import MediaFile
from mmx.runtime.media.skipping import Looks
from mmx.runtime.media.source import MediaInput
from mmx.runtime.speech.heard import Heard
from mmx.runtime.types import Span

__all__ = ["Frame", "MediaInfo", "OpenMedia", "SegmentEnd", "open_input", "probe", "read_segments"]

OpenMedia = MediaFile | ArrayMedia
_VideoTrack = VideoTrack | FrameArray
_SoundTrack = SoundTrack | SoundArray

MAX_OPEN = 200  # segments that overlap at one moment; more is no transcript
FAULT_FLAGS = ("corrupt_media", "repaired_timestamps", "sound_gap")  # in the order of Track.faults
ON_SCREEN_S = 0.001  # a frame that begins this little after a time is on screen at it: containers round times to this
PIECE_S = 0.5  # a frame that stays on screen longer is handed out in pieces, so that the sound keeps up with it
TRUNCATED_S = 0.5  # media that end this much before the declared end were cut short


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


def open_input(media: MediaInput | MediaArrays, tracks: Tracks = DEFAULT_TRACKS) -> OpenMedia:
    """Open whatever holds media.

    Raises:
        BadDataError: see ``container.probe``. UsageError: it is nothing that can hold media.
    """
    return ArrayMedia(media) if isinstance(media, MediaArrays) else MediaFile(media, tracks)


def read_segments(
    file: MediaInput | MediaArrays | OpenMedia,
    spans: Sequence[Span] | None,
    preprocessing: Preprocessing,
    *,
    window: float | None = None,
    heard: Heard | None = None,
    video: bool = True,
    audio: bool = True,
    threads: int | None = None,
) -> Iterator[Frame | SegmentEnd]:
    """Decode a file once and yield, in time order, each segment's frames and then its end.

    A segment looks at the frames that are on screen at start + k * ``interval_s`` (or at every n-th that begins in it,
    see ``VideoSpec``), and only those are converted to RGB. Before the first frame of the file nothing is on screen; a
    segment in which it begins looks at it once for the times that it missed.

    Args:
        file: what ``open_input`` takes or gives; it is closed in the end.
        spans: the utterances, in any order; they may overlap. None: the whole file is one utterance.
            Utterances longer than ``max_segment_s`` are cut into equal parts.
        window: cut the file into windows of so many seconds instead. A rest shorter than half a window and 0.4 s joins
            the last one. Windows in which the file has nothing are left out.
        heard: listens to the sound as it is decoded, ahead of the frames; without spans and a window, the segments are
            what it hears.
        video, audio: whether to decode that track.
        threads: for the decoders; None: as many as there are cores.

    Raises:
        UsageError: spans or a window that make no sense.
        BadDataError: a file that cannot be read (see ``container.probe``), or in which nothing can be decoded.
    """
    opened = file if isinstance(file, OpenMedia) else open_input(file)
    info = opened.info
    try:
        if heard is not None and spans is None and window is None:
            cuts: Cuts = SpokenCuts(heard.spans(opened.length))
        else:
            cuts = plan_cuts(spans, window, None if spans is not None else opened.length, preprocessing.max_segment_s)
    except BaseException:
        opened.close()
        raise
    return _read(opened, cuts, preprocessing, heard, video and info.has_video, audio and info.has_audio, threads)


def _read(
    file: OpenMedia,
    cuts: Cuts,
    preprocessing: Preprocessing,
    heard: Heard | None,
    video: bool,
    audio: bool,
    threads: int | None,
) -> Iterator[Frame | SegmentEnd]:
    info = file.info
    with ExitStack() as closing:
        closing.enter_context(file)
        tracks: list[_VideoTrack | _SoundTrack] = []
        streams: list[Iterator[_Event]] = []
        rate = preprocessing.mel.sample_rate
        if video:
            pictures = _video(file, cuts, preprocessing.video, threads)
            closing.enter_context(pictures)
            tracks.append(pictures)
            streams.append(_frame_events(pictures))
        if audio:
            sounds = _sound(file, preprocessing.mel, threads)
            closing.enter_context(sounds)
            tracks.append(sounds)
            rate = sounds.sample_rate
            chunks: Iterator[tuple[int, NDArray[np.float32]]] = iter(sounds)
            if heard is not None:
                chunks, listened_to = tee(chunks)
                heard.listen(listened_to)
            streams.append(_sound_events(chunks, rate))
        always = set()
        if video and info.video_tracks > 1 and not file.chosen("video"):
            always.add("several_video_tracks")
        if audio and info.audio_tracks > 1 and not file.chosen("audio"):
            always.add("several_audio_tracks")
        desk = _Desk(cuts, preprocessing.video, rate, always)
        seen: tuple[int, ...] = (0, 0, 0)
        for event in heapq.merge(*streams, key=lambda event: event.time):
            yield from desk.close_until(event.time)
            if desk.finished:
                return
            if video and pictures.hdr:
                always.add("hdr_video")
            yield from desk.take(event)
            faults = tuple(sum(counts) for counts in zip(*(track.faults() for track in tracks), strict=True))
            if faults != seen:
                desk.flag(*(flag for flag, now, before in zip(FAULT_FLAGS, faults, seen, strict=True) if now > before))
                seen = faults
        if tracks and not any(track.decoded for track in tracks):
            raise BadDataError(f"{info.name}: nothing in it could be decoded", "copy or download it again")
        end = max((track.end for track in tracks), default=info.duration or 0.0)
        if not tracks:
            yield from desk.take(_Event(0.0, end))
        truncated = len(tracks) == info.has_video + info.has_audio and end < (info.duration or 0.0) - TRUNCATED_S
        yield from desk.close_all(end, truncated=truncated)


def _video(file: OpenMedia, cuts: Cuts, spec: VideoSpec, threads: int | None) -> _VideoTrack:
    if isinstance(file, ArrayMedia):
        return file.video()
    return VideoTrack(file, threads, None if spec.every_nth else _looks(cuts, spec), spec.hdr)


def _sound(file: OpenMedia, spec: MelSpec, threads: int | None) -> _SoundTrack:
    rate = None if spec.own_rate else spec.sample_rate
    return file.audio(rate) if isinstance(file, ArrayMedia) else SoundTrack(file, rate, threads, spec.mix)


def _looks(cuts: Cuts, spec: VideoSpec) -> Looks:
    """Whether a frame that is on screen from ``time`` to ``end`` is looked at by any segment."""

    def looks(time: float, end: float) -> bool:
        return any(_times(cut, time, end, spec) for cut in cuts.between(time - ON_SCREEN_S, end))

    return looks


def _times(cut: Cut, time: float, end: float, spec: VideoSpec) -> range:
    """The k of those start + k * ``interval_s`` of a segment at which a frame from ``time`` to ``end`` is on screen."""

    def first_at_or_after(seconds: float) -> int:
        return max(0, math.ceil((seconds - cut.start - EPSILON_S) / spec.interval_s))

    return range(first_at_or_after(time - ON_SCREEN_S), first_at_or_after(min(end - ON_SCREEN_S, cut.end)))


@dataclass
class _Shown:
    """A frame on screen, converted to RGB once, when it is first looked at."""

    convert: Callable[[], NDArray[np.uint8]]
    first: bool  # of the file
    begins: bool = True  # whether this is its first piece

    @cached_property
    def rgb(self) -> NDArray[np.uint8]:
        return self.convert()


@dataclass(frozen=True)
class _Event:
    """A frame, or a chunk of sound that starts at sample ``index``; ``time`` to ``end`` in seconds."""

    time: float
    end: float
    frame: _Shown | None = None
    sound: NDArray[np.float32] | None = None
    index: int = 0


def _frame_events(track: _VideoTrack) -> Iterator[_Event]:
    """Each frame from its time to that of the next one, which has to be decoded first."""
    rgb: Callable[[Any], NDArray[np.uint8]] = track.rgb
    waiting: tuple[float, _Shown] | None = None
    for time, frame in track:
        if waiting:
            yield from _in_pieces(*waiting, time)
        waiting = time, _Shown(partial(rgb, frame), first=waiting is None)
    if waiting:
        yield from _in_pieces(*waiting, track.end)


def _in_pieces(time: float, shown: _Shown, end: float) -> Iterator[_Event]:
    pieces = max(1, math.ceil((end - time) / PIECE_S))
    edges = [time + (end - time) * n / pieces for n in range(pieces)] + [end]
    for start, stop in pairwise(edges):
        yield _Event(start, stop, frame=shown)
        shown.begins = False


def _sound_events(chunks: Iterator[tuple[int, NDArray[np.float32]]], rate: int) -> Iterator[_Event]:
    for index, sound in chunks:
        yield _Event(index / rate, (index + len(sound)) / rate, sound=sound, index=index)


@dataclass
class _Open:
    """A segment that is being read."""

    number: int
    cut: Cut
    flags: set[str]
    passed: int = 0
    taken: int = 0

    def looks_at(self, event: _Event, shown: _Shown, spec: VideoSpec) -> list[float]:
        """The times at which it looks at a frame on screen; call it once for each piece of a frame."""
        if spec.every_nth:
            begins = shown.begins and self.cut.holds(event.time)
            self.passed += begins
            times = [event.time] if begins and (self.passed - 1) % spec.every_nth == 0 else []
        else:
            times = [self.cut.start + k * spec.interval_s for k in _times(self.cut, event.time, event.end, spec)]
            if shown.first and shown.begins and self.cut.holds(event.time) and not (times and times[0] <= event.time):
                late = event.time - self.cut.start > ON_SCREEN_S + EPSILON_S
                times = [event.time] * late + times
        self.taken += len(times)
        return times


class _Desk:
    """Deals frames and sound out to the segments that are open at their time; keeps no more sound than those need.

    ``always``: flags that every segment gets.
    """

    def __init__(self, cuts: Cuts, spec: VideoSpec, rate: int, always: set[str]) -> None:
        self._cuts = cuts
        self._spec = spec
        self._rate = rate
        self._always = always
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
            for segment in self._open:
                for time in segment.looks_at(event, event.frame, self._spec):
                    yield Frame(segment.number, time, event.frame.rgb)

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
