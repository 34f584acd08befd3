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
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import tee
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.errors import BadDataError
from mmx.runtime.manifest import MelSpec, Preprocessing, VideoSpec
from mmx.runtime.media.arrays import ArrayMedia, FrameArray, MediaArrays, SoundArray
from mmx.runtime.media.container import DEFAULT_TRACKS, MediaInfo, Tracks, probe
from mmx.runtime.media.cuts import Cuts, SpokenCuts, plan_cuts
from mmx.runtime.media.decode import SoundTrack, VideoTrack
from mmx.runtime.media.desk import (
    ON_SCREEN_S,
    Desk,
    Event,
    Faults,
    Frame,
    Glance,
    SegmentEnd,
    Shown,
    in_pieces,
    looked_at,
)
from mmx.runtime.media.packets import MediaFile
from mmx.runtime.media.skipping import Looks
from mmx.runtime.media.source import MediaInput
from mmx.runtime.speech.heard import Heard
from mmx.runtime.types import Span

__all__ = ["Frame", "Glance", "MediaInfo", "OpenMedia", "SegmentEnd", "open_input", "probe", "read_segments"]

OpenMedia = MediaFile | ArrayMedia
_VideoTrack = VideoTrack | FrameArray
_SoundTrack = SoundTrack | SoundArray

TRUNCATED_S = 0.5  # media that end this much before the declared end were cut short


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
    glance_s: float | None = None,
) -> Iterator[Frame | Glance | SegmentEnd]:
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
        glance_s: also yield a ``Glance`` so often; every frame is decoded then.

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
    picked = video and info.has_video, audio and info.has_audio
    return _read(opened, cuts, preprocessing, heard, *picked, threads, glance_s)


def _read(
    file: OpenMedia,
    cuts: Cuts,
    preprocessing: Preprocessing,
    heard: Heard | None,
    video: bool,
    audio: bool,
    threads: int | None,
    glance_s: float | None,
) -> Iterator[Frame | Glance | SegmentEnd]:
    info = file.info
    with ExitStack() as closing:
        closing.enter_context(file)
        tracks: list[_VideoTrack | _SoundTrack] = []
        streams: list[Iterator[Event]] = []
        rate = preprocessing.mel.sample_rate
        if video:
            pictures = _video(file, None if glance_s else cuts, preprocessing.video, threads)
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
        desk = Desk(cuts, preprocessing.video, rate, always, glance_s)
        faults = Faults(tracks)
        for event in heapq.merge(*streams, key=lambda event: event.time):
            yield from desk.close_until(event.time)
            if desk.finished:
                return
            if video and pictures.hdr:
                always.add("hdr_video")
            yield from desk.take(event)
            desk.flag(*faults.new())
        if tracks and not any(track.decoded for track in tracks):
            raise BadDataError(f"{info.name}: nothing in it could be decoded", "copy or download it again")
        end = max((track.end for track in tracks), default=info.duration or 0.0)
        if not tracks:
            yield from desk.take(Event(0.0, end))
        truncated = len(tracks) == info.has_video + info.has_audio and end < (info.duration or 0.0) - TRUNCATED_S
        yield from desk.close_all(end, truncated=truncated)


def _video(file: OpenMedia, cuts: Cuts | None, spec: VideoSpec, threads: int | None) -> _VideoTrack:
    if isinstance(file, ArrayMedia):
        return file.video()
    return VideoTrack(file, threads, None if spec.every_nth or cuts is None else _looks(cuts, spec), spec.hdr)


def _sound(file: OpenMedia, spec: MelSpec, threads: int | None) -> _SoundTrack:
    rate = None if spec.own_rate else spec.sample_rate
    return file.audio(rate) if isinstance(file, ArrayMedia) else SoundTrack(file, rate, threads, spec.mix)


def _looks(cuts: Cuts, spec: VideoSpec) -> Looks:
    """Whether a frame that is on screen from ``time`` to ``end`` is looked at by any segment."""

    def looks(time: float, end: float) -> bool:
        return any(looked_at(cut, time, end, spec) for cut in cuts.between(time - ON_SCREEN_S, end))

    return looks


def _frame_events(track: _VideoTrack) -> Iterator[Event]:
    """Each frame from its time to that of the next one, which has to be decoded first."""
    rgb: Callable[[Any], NDArray[np.uint8]] = track.rgb
    waiting: tuple[float, Shown] | None = None
    for time, frame in track:
        if waiting:
            yield from in_pieces(*waiting, time)
        waiting = time, Shown(partial(rgb, frame), first=waiting is None)
    if waiting:
        yield from in_pieces(*waiting, track.end)


def _sound_events(chunks: Iterator[tuple[int, NDArray[np.float32]]], rate: int) -> Iterator[Event]:
    for index, sound in chunks:
        yield Event(index / rate, (index + len(sound)) / rate, sound=sound, index=index)
