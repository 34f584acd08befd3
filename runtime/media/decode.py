"""One media file's video and sound as two lazy tracks on one clock, decoded through PyAV.

Both read the file in one pass (``packets``), and every packet is decoded once. Times that cannot be are not believed,
and what fails to decode is counted and passed over.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Self

import numpy as np
from av.audio.frame import AudioFrame
from av.error import ArgumentError, FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from mmx.runtime.errors import BadDataError
from mmx.runtime.media.container import MAX_GAP_S, MAX_PIXELS, SCALE_DOWN, MediaInfo, check_rate, check_size, probe
from mmx.runtime.media.frames import ToneMap, is_hdr, upright_rgb
from mmx.runtime.media.packets import MediaFile, OpenFile
from mmx.runtime.media.skipping import Foresight, How, Looks
from mmx.runtime.media.sound import Mixer, Resampler, resample_sound
from mmx.runtime.media.source import MediaInput

__all__ = ["MediaInfo", "SoundTrack", "VideoTrack", "probe", "resample_sound", "upright_rgb"]

SLACK_S = 10.0  # a jump to a time further than this past the end that the file declares is not believed
JITTER_S = 0.05  # sound within this of where the last sample ended follows it without a gap
DRIFT_S = 0.02  # sound that is this far from its timestamps for some time is moved to them
DRIFT_OVER_S = 2.0
SLOWEST_STEP_S = 60.0


class _Clock:
    """Seconds since the start of the file.

    A time is not believed that runs backwards, that is an hour after the one before, or that jumps past the declared
    end.
    """

    def __init__(self, origin: float, duration: float | None) -> None:
        self.origin = origin
        self._limit = duration + SLACK_S if duration else math.inf
        self.doubts = 0

    def read(self, pts: int | None, time_base: Fraction | None, earliest: float, follows: float) -> float:
        """The time of ``pts``; ``follows`` where there is none, or where it is before ``earliest``."""
        if pts is None or time_base is None:
            return follows
        time = float(pts * time_base) - self.origin
        if earliest <= time <= min(follows + MAX_GAP_S, max(self._limit, follows + SLACK_S)):
            return time
        self.doubts += 1
        return follows


class Track:
    """What both tracks share: their file, stream and clock, and what went wrong so far.

    ``file``: what ``MediaFile`` takes, or a file that is open, which both tracks may read at once; leaving the ``with``
    closes it. Of an ``OpenFile`` that is none, packets are to be given to ``take``.

    Attributes:
        duration: of the file, in seconds, as declared; None where it is not.
        end: where the decoded media end so far, in seconds.
        decoded: frames decoded so far.
    """

    def __init__(self, file: OpenFile | MediaInput, kind: str, threads: int | None) -> None:
        self._file = file if isinstance(file, OpenFile) else MediaFile(file)
        self.name = self._file.name
        stream = self._file.stream(kind)
        if stream is None:
            self._file.close()
            raise BadDataError(f"{self.name} has no {kind} track")
        self._file.add(stream)
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads or 0
        self._stream = stream
        self.duration = self._file.info.duration
        self._clock = _Clock(self._file.origin, self.duration)
        self.end = 0.0
        self.decoded = 0
        self._damaged = 0
        self._holes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def faults(self) -> tuple[int, int, int]:
        """So far: packets and frames that were damaged, timestamps that were not believed, holes in the sound."""
        return self._damaged, self._clock.doubts, self._holes

    def _planned(self) -> Iterator[tuple[Packet | None, How]]:
        """The packets, each with what to do with it."""
        return ((packet, How.DECODE) for packet in self._packets())

    def _packets(self) -> Iterator[Packet | None]:
        if not isinstance(self._file, MediaFile):
            raise TypeError("the packets of a stream are given to take()")
        return self._file.packets(self._stream)

    def _decoded(self, packet: Packet | None, how: How = How.DECODE) -> Iterator[Any]:
        """The frames that come out for a packet; what cannot be decoded is counted and passed over."""
        self._damaged += packet is None or packet.is_corrupt
        if how is How.DROP:
            return
        for frame in self._frames(packet, how):
            self.decoded += 1
            self._damaged += bool(frame.is_corrupt)
            yield frame

    def _frames(self, packet: Packet | None, how: How) -> list[Any]:
        """What the decoder gives for a packet (None: what it still holds)."""
        context = self._stream.codec_context
        if context.type == "video":
            context.skip_frame = "NONREF" if how is How.DECODE_IF_REFERRED_TO else "DEFAULT"
        frames: list[Any] = []
        try:
            if how is How.DECODE_AFRESH:
                frames += self._stream.decode(self._no_more())
                context.flush_buffers()
            frames += self._stream.decode(packet or self._no_more())
        except ArgumentError as e:
            if context.type == "video" and not context.width:  # what FFmpeg says of more pixels than it was allowed
                raise BadDataError(f"{self.name} has frames of more than {MAX_PIXELS} pixels", SCALE_DOWN) from e
            self._damaged += 1
        except FFmpegError:
            self._damaged += 1
        return frames

    def _no_more(self) -> Packet:
        """The empty packet that makes the decoder give what it holds (without a time base those have no times)."""
        packet = Packet()
        packet.time_base = self._stream.time_base
        return packet


class VideoTrack(Track):
    """The frames in time order: iterate for (seconds, frame); ``rgb`` turns one into pixels.

    ``looks``: which frames matter (see ``skipping``); most others are then left out. None: all do.
    ``hdr``: ``map`` brings HDR video to the range of other video; ``keep`` takes its values as they are.

    Attributes:
        hdr: whether a frame so far was HDR.
    """

    def __init__(
        self,
        file: OpenFile | MediaInput,
        threads: int | None = None,
        looks: Looks | None = None,
        hdr: str = "map",
    ) -> None:
        super().__init__(file, "video", threads)
        self._foresight = Foresight(self._stream, self._clock.origin, looks, self._in_order) if looks else None
        rate = self._stream.average_rate or self._stream.guessed_rate
        self._step = float(1 / rate) if rate and rate * SLOWEST_STEP_S >= 1 else 1 / 25
        self._tone_map = ToneMap() if hdr == "map" else None
        self.hdr = False
        self._last: float | None = None  # the time of the last frame
        self._stamps = {"pts": (-math.inf, 0), "dts": (-math.inf, 0)}  # the last of each kind, and its faults so far

    def __iter__(self) -> Iterator[tuple[float, VideoFrame]]:
        for packet, how in self._planned():
            yield from self.take(packet, how)

    def take(self, packet: Packet | None, how: How = How.DECODE) -> Iterator[tuple[float, VideoFrame]]:
        """The frames that come out for a packet, each with its time; None: the file breaks off here."""
        for frame in self._decoded(packet, how):
            check_size(frame.width, frame.height, self.name)
            self.hdr = self.hdr or is_hdr(frame)
            last = self._last
            earliest, follows = (-math.inf, 0.0) if last is None else (last, last + self._step)
            time = self._clock.read(self._stamp(frame), frame.time_base, earliest, follows)
            self._last = time
            self.end = time + (self._shown_s(frame) or self._step)
            if self._foresight:
                self._foresight.came_out(time)
            yield time, frame

    def rgb(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """The frame as a viewer sees it: uint8 RGB [height, width, 3]."""
        return upright_rgb(self._tone_map(frame) if self._tone_map and is_hdr(frame) else frame)

    @staticmethod
    def _shown_s(frame: VideoFrame) -> float:
        """How long the file says that a frame stays on screen; 0 where it does not."""
        seconds = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 0.0
        return seconds if seconds <= MAX_GAP_S else 0.0

    def _planned(self) -> Iterator[tuple[Packet | None, How]]:
        if self._foresight and self._foresight.helps:
            return self._foresight.plan(self._packets())
        return super()._planned()

    def _in_order(self) -> bool:
        return not (self._damaged or self._clock.doubts or self._stamps["pts"][1])

    def _stamp(self, frame: VideoFrame) -> int | None:
        """Its presentation time, or its decoding time where that ran backwards less often (as in some AVI files)."""
        for kind, stamp in (("pts", frame.pts), ("dts", frame.dts)):
            last, faults = self._stamps[kind]
            self._stamps[kind] = (last, faults + 1) if stamp is None or stamp <= last else (stamp, faults)
        return frame.pts if self._stamps["pts"][1] <= self._stamps["dts"][1] else frame.dts


class SoundTrack(Track):
    """The sound as mono float32: iterate for (index of the first sample, samples).

    Index 0 is the start of the file, so that sound which begins late, or has a hole, stays aligned with the video.
    Where timestamps and samples drift apart, the timestamps win: a few milliseconds are left out or silent now and
    then.

    ``sample_rate``: in Hz; None: the track's own. ``mix``: see ``sound.Mixer``.
    """

    def __init__(
        self,
        file: OpenFile | MediaInput,
        sample_rate: int | None = 16000,
        threads: int | None = None,
        mix: str = "layout",
    ) -> None:
        super().__init__(file, "audio", threads)
        self.sample_rate: int = sample_rate or self._stream.rate or 0
        check_rate(self.sample_rate, self.name)
        self._mixer = Mixer(mix)
        self._run: _Run | None = None
        self._expected = self._drift = 0.0  # where the next frame begins by the timestamps; how far the samples are off
        self._next_index: int | None = None

    def __iter__(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        for packet in self._packets():
            yield from self.take(packet)
        yield from self.flush()

    def take(self, packet: Packet | None) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """The samples that come out for a packet, each piece with the index of its first; None: the file breaks off."""
        for frame in self._decoded(packet):
            if frame.samples:
                yield from self._placed(*self._pieces(frame))

    def flush(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """What is still in the resampler, at the end."""
        if self._run:
            yield from self._placed(self._run.flush())

    def _placed(self, *pieces: tuple[int, NDArray[np.float32]]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """The pieces without what lies before the end of the one before."""
        for place, piece in pieces:
            index = place if self._next_index is None else max(place, self._next_index)
            samples = piece[index - place :]
            if len(samples):
                self._next_index = index + len(samples)
                self.end = self._next_index / self.sample_rate
                yield index, samples

    def _pieces(self, frame: AudioFrame) -> list[tuple[int, NDArray[np.float32]]]:
        """What comes out for a frame; a piece may begin before the end of the one before it."""
        check_rate(frame.sample_rate, self.name)
        run, expected, pieces = self._run, self._expected, []
        time = self._clock.read(frame.pts, frame.time_base, expected - JITTER_S if run else -math.inf, expected)
        seconds = frame.samples / frame.sample_rate
        hole = run is not None and time > expected + JITTER_S
        if run:
            self._drift += (time - run.end - self._drift) * min(1.0, seconds / DRIFT_OVER_S)
        if run is None or hole or abs(self._drift) > DRIFT_S or run.rate != frame.sample_rate:
            start = time if run is None or hole else run.end + self._drift
            if run:
                self._holes += hole
                pieces.append(run.flush())
            run, self._drift = _Run(start, frame.sample_rate, self.sample_rate), 0.0
        self._run, self._expected = run, time + seconds
        return [*pieces, run.feed(self._mono(frame))]

    def _mono(self, frame: AudioFrame) -> NDArray[np.float32]:
        try:
            mono = self._mixer(frame)
        except FFmpegError:
            mono = np.full(frame.samples, np.nan, np.float32)
        if not np.isfinite(mono).all():
            self._damaged += 1
            mono = np.nan_to_num(mono, posinf=0.0, neginf=0.0)
        return mono


class _Run:
    """Sound without a hole, from ``start`` (seconds) on, through one resampler."""

    def __init__(self, start: float, rate: int, target: int) -> None:
        self.rate = rate
        self._start, self._taken, self._place = start, 0, round(start * target)
        self._resampler = Resampler(rate, target)

    @property
    def end(self) -> float:
        """Where the samples so far end, in seconds."""
        return self._start + self._taken / self.rate

    def feed(self, mono: NDArray[np.float32]) -> tuple[int, NDArray[np.float32]]:
        """The next samples that come out, and the index of the first."""
        self._taken += len(mono)
        return self._placed(self._resampler.feed(mono))

    def flush(self) -> tuple[int, NDArray[np.float32]]:
        """The last samples."""
        return self._placed(self._resampler.flush())

    def _placed(self, samples: NDArray[np.float32]) -> tuple[int, NDArray[np.float32]]:
        place = self._place
        self._place += len(samples)
        return place, samples
