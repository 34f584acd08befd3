"""One media file's picture and sound as two lazy tracks on one clock, decoded through PyAV.

Both read the file in one pass (``packets``), and every packet is decoded once. Times that cannot be are not believed,
and what fails to decode is counted and passed over.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from mmx.runtime.errors import BadDataError
from mmx.runtime.media.container import (
    MediaInfo,
    audio_stream,
    check_rate,
    check_size,
    probe,
    video_stream,
)
from mmx.runtime.media.packets import MediaFile
from mmx.runtime.media.skipping import Foresight, How, Looks

__all__ = ["MediaInfo", "SoundTrack", "VideoTrack", "probe", "resample_sound", "upright_rgb"]

SLACK_S = 10.0  # a time further than this past the end that the file declares is not believed
JITTER_S = 0.05  # sound within this of where the last sample ended follows it without a gap
MIXED_SCALE = {"u1": 2.0**-7, "i2": 2.0**-15, "i4": 2.0**-31, "i8": 2.0**-63}


def upright_rgb(frame: VideoFrame) -> NDArray[np.uint8]:
    """The frame as uint8 RGB [height, width, 3], turned as its display matrix says (by quarter turns)."""
    rgb: NDArray[Any] = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb


def resample_sound(samples: NDArray, sample_rate: int, target_rate: int = 16000) -> NDArray[np.float32]:
    """A raw array and its sample rate -> float32 mono [m] at ``target_rate``.

    Args:
        samples: [n] or [channels, n]; floating-point in -1..1, or integers at full scale (int16, int32, int64, uint8).
            Channels are mixed by their mean.

    Raises:
        BadDataError: other shapes or dtypes, a sample rate outside 1 kHz to 768 kHz.
    """
    samples = np.atleast_2d(samples)
    if samples.ndim != 2 or samples.dtype.str[1:] not in {*MIXED_SCALE, "f2", "f4", "f8"}:
        raise BadDataError(
            f"a sound of {samples.dtype} {list(samples.shape)}", "give [n] or [channels, n], as floats or integers"
        )
    check_rate(sample_rate, "the sound")
    resampler = _Resampler(sample_rate, target_rate)
    return np.concatenate([resampler.feed(_mean_of_channels(samples)), resampler.flush()])


class _Clock:
    """Seconds since the start of the file. A time that runs backwards or past the declared end is not believed."""

    def __init__(self, origin: float, duration: float | None) -> None:
        self.origin = origin
        self._limit = duration + SLACK_S if duration else math.inf
        self.doubts = 0

    def read(self, pts: int | None, time_base: Fraction | None, earliest: float, follows: float) -> float:
        """The time of ``pts``; ``follows`` where there is none, or where it is before ``earliest``."""
        if pts is None or time_base is None:
            return follows
        time = float(pts * time_base) - self.origin
        if earliest <= time <= self._limit:
            return time
        self.doubts += 1
        return follows


class Track:
    """What both tracks share: their file, stream and clock, and what went wrong so far.

    ``file``: a path, or a file that is open, which both tracks may read at once; leaving the ``with`` closes it.

    Attributes:
        duration: of the file, in seconds, as declared; None where it is not.
        end: where the decoded media end so far, in seconds.
        decoded: frames decoded so far.
    """

    def __init__(self, file: MediaFile | str | Path, kind: str, threads: int | None) -> None:
        self._file = file if isinstance(file, MediaFile) else MediaFile(file)
        self.path = self._file.path
        container = self._file.container
        stream = video_stream(container) if kind == "video" else audio_stream(container)
        if stream is None:
            self._file.close()
            raise BadDataError(f"{self.path} has no {kind} track")
        self._file.add(stream)
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads or 0
        self._stream = stream
        self.duration = self._file.info.duration
        self._clock = _Clock((container.start_time or 0) / av.time_base, self.duration)
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
        return ((packet, How.DECODE) for packet in self._file.packets(self._stream))

    def _decode(self) -> Iterator[Any]:
        """The stream's frames; what cannot be decoded is counted and passed over."""
        for packet, how in self._planned():
            self._damaged += packet is None or packet.is_corrupt
            if how is How.DROP:
                continue
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
        except FFmpegError:
            self._damaged += 1
        return frames

    def _no_more(self) -> Packet:
        """The empty packet that makes the decoder give what it holds (without a time base those have no times)."""
        packet = Packet()
        packet.time_base = self._stream.time_base
        return packet


class VideoTrack(Track):
    """The picture's frames in time order: iterate for (seconds, frame).

    ``looks``: which frames matter (see ``skipping``); most others are then left out. None: all do.
    """

    def __init__(self, file: MediaFile | str | Path, threads: int | None = None, looks: Looks | None = None) -> None:
        super().__init__(file, "video", threads)
        self._foresight = Foresight(self._stream, self._clock.origin, looks, self._in_order) if looks else None
        rate = self._stream.average_rate or self._stream.guessed_rate
        self._step = float(1 / rate) if rate else 1 / 25
        self._stamps = {"pts": (-math.inf, 0), "dts": (-math.inf, 0)}  # the last of each kind, and its faults so far

    def __iter__(self) -> Iterator[tuple[float, VideoFrame]]:
        last: float | None = None
        for frame in self._decode():
            check_size(frame.width, frame.height, self.path)
            earliest, follows = (-math.inf, 0.0) if last is None else (last, last + self._step)
            last = self._clock.read(self._stamp(frame), frame.time_base, earliest, follows)
            self.end = last + self._step
            if self._foresight:
                self._foresight.came_out(last)
            yield last, frame

    def _planned(self) -> Iterator[tuple[Packet | None, How]]:
        if self._foresight and self._foresight.helps:
            return self._foresight.plan(self._file.packets(self._stream))
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
    """The sound as mono float32 at ``sample_rate``: iterate for (index of the first sample, samples).

    Index 0 is the start of the file, so that sound which begins late, or has a hole, stays aligned with the picture.
    """

    def __init__(self, file: MediaFile | str | Path, sample_rate: int = 16000, threads: int | None = None) -> None:
        super().__init__(file, "audio", threads)
        self.sample_rate = sample_rate

    def __iter__(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        resampler: _Resampler | None = None
        start, taken, position = 0.0, 0, 0  # of the run of sound that one resampler is fed: seconds, samples in, out
        for frame in self._decode():
            if not frame.samples:
                continue
            check_rate(frame.sample_rate, str(self.path))
            follows = start + (taken / resampler.rate if resampler else 0.0)
            earliest = follows - JITTER_S if resampler else -math.inf
            time = self._clock.read(frame.pts, frame.time_base, earliest, follows)
            if resampler is None or resampler.rate != frame.sample_rate or time > follows + JITTER_S:
                if resampler:
                    self._holes += time > follows + JITTER_S
                    yield from self._at(position, resampler.flush())
                resampler = _Resampler(frame.sample_rate, self.sample_rate)
                start, taken, position = time, 0, round(time * self.sample_rate)
            channels = frame.to_ndarray()
            if not frame.format.is_planar:
                channels = channels.reshape(frame.samples, -1).T
            mono = _mean_of_channels(channels)
            if not np.isfinite(mono).all():
                self._damaged += 1
                mono = np.nan_to_num(mono, posinf=0.0, neginf=0.0)
            taken += frame.samples
            for index, samples in self._at(position, resampler.feed(mono)):
                yield index, samples
                position = index + len(samples)
        if resampler:
            yield from self._at(position, resampler.flush())

    def _at(self, index: int, samples: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        if len(samples):
            self.end = (index + len(samples)) / self.sample_rate
            yield index, samples


class _Resampler:
    """Mono float32 at one rate -> at another, through FFmpeg's resampler; its delay comes out with ``flush``."""

    def __init__(self, rate: int, target: int) -> None:
        self.rate = rate
        self._resampler = None if rate == target else av.AudioResampler("fltp", "mono", target)

    def feed(self, mono: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._resampler is None or not len(mono):
            return mono
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(mono)[None], format="fltp", layout="mono")
        frame.sample_rate = self.rate
        return self._take(frame)

    def flush(self) -> NDArray[np.float32]:
        return self._take(None) if self._resampler else np.empty(0, np.float32)

    def _take(self, frame: AudioFrame | None) -> NDArray[np.float32]:
        assert self._resampler
        parts = [part.to_ndarray()[0] for part in self._resampler.resample(frame)]
        return np.concatenate(parts) if parts else np.empty(0, np.float32)


def _mean_of_channels(channels: NDArray) -> NDArray[np.float32]:
    """[channels, n] of any sample format -> float32 [n] in -1..1; the mean, so that mono as stereo changes nothing."""
    scale = MIXED_SCALE.get(channels.dtype.str[1:])
    mono = channels[0].astype(np.float32) if len(channels) == 1 else channels.mean(axis=0, dtype=np.float32)
    if scale is None:
        return mono
    return (mono - 128 if channels.dtype == np.uint8 else mono) * np.float32(scale)
