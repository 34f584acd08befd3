"""One media file's picture and sound as two lazy tracks on one clock, decoded through PyAV.

Files are hostile until shown otherwise: only real container formats on the local disk are opened (no playlist, no
concat list, no URL), picture sizes and sample rates are capped, times that cannot be are not believed, and what fails
to decode is counted and passed over. Each track reads the file through its own demuxer, so that memory stays bounded
however the file is interleaved; every packet is still decoded only once.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Discard, Disposition
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from mmx.runtime.errors import BadDataError

# Containers that hold their own media. Left out on purpose: hls, dash, concat, image2, lavfi and other pointers.
FORMATS = (
    "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,wav,w64,flac,mp3,aac,aiff,caf,amr,au,mxf,gif,nut,ivf,dv,rm,h264,hevc,m4v"
)
MAX_PIXELS = 36_000_000  # 8K video is 33 million
SAMPLE_RATES = (1_000, 768_000)  # Hz
SLACK_S = 10.0  # a time further than this past the end that the file declares is not believed
JITTER_S = 0.05  # sound within this of where the last sample ended follows it without a gap
MIXED_SCALE = {"u1": 2.0**-7, "i2": 2.0**-15, "i4": 2.0**-31, "i8": 2.0**-63}


@dataclass(frozen=True)
class MediaInfo:
    """What a file's header says. Times in seconds; None where the file does not tell; sizes as stored,
    which is on its side where the file says that the picture is to be turned."""

    path: Path
    duration: float | None
    has_video: bool
    has_audio: bool
    width: int
    height: int
    fps: float | None
    sample_rate: int
    channels: int


def probe(path: str | Path) -> MediaInfo:
    """Read a file's header, decode nothing.

    Raises:
        BadDataError: no such file, or none that can be read as media, or neither picture nor sound in it.
    """
    with open_media(path) as container:
        video, audio = video_stream(container), audio_stream(container)
        rate = video.average_rate or video.guessed_rate if video else None
        return MediaInfo(
            path=Path(path),
            duration=_duration(container, [s for s in (video, audio) if s]),
            has_video=video is not None,
            has_audio=audio is not None,
            width=video.width if video else 0,
            height=video.height if video else 0,
            fps=float(rate) if rate else None,
            sample_rate=audio.rate or 0 if audio else 0,
            channels=audio.channels if audio else 0,
        )


def open_media(path: str | Path) -> InputContainer:
    """Open a local media file for reading; close it, or use it in a ``with``.

    Raises:
        BadDataError: as ``probe``.
    """
    path = Path(path)
    try:
        status = path.stat()
    except (OSError, ValueError) as e:
        raise BadDataError(f"{path} cannot be read: {getattr(e, 'strerror', None) or e}", "check the path") from e
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
        raise BadDataError(f"{path} is {kind}", "give a video or sound file")
    if not status.st_size:
        raise BadDataError(f"{path} is empty (0 bytes)", "copy or download it again")
    options = {"protocol_whitelist": "file", "format_whitelist": FORMATS, "max_streams": "100"}
    try:
        container = av.open(f"file:{path.absolute()}", container_options=options, metadata_errors="replace")
    except (FFmpegError, OSError, ValueError) as e:
        reason, hint = _why_unreadable(path, e)
        raise BadDataError(f"{path} cannot be read as media: {reason}", hint) from e
    try:
        _check(container, path)
    except BaseException:
        container.close()
        raise
    return container


def video_stream(container: InputContainer) -> Any | None:
    """The picture: the first video stream that has a decoder and is no cover art; None without one."""
    still = Disposition.attached_pic | Disposition.timed_thumbnails
    return next((s for s in container.streams.video if s.codec_context and not s.disposition & still), None)


def audio_stream(container: InputContainer) -> Any | None:
    """The sound: the first audio stream that has a decoder; None without one."""
    return next((s for s in container.streams.audio if s.codec_context), None)


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
        raise BadDataError(f"a sound is [n] or [channels, n], not {samples.dtype} {list(samples.shape)}")
    _check_rate(sample_rate, "the sound")
    resampler = _Resampler(sample_rate, target_rate)
    return np.concatenate([resampler.feed(_mean_of_channels(samples)), resampler.flush()])


class _Clock:
    """Seconds since the start of the file. A time that runs backwards or past the declared end is not believed."""

    def __init__(self, origin: float, duration: float | None) -> None:
        self._origin = origin
        self._limit = duration + SLACK_S if duration else math.inf
        self.doubts = 0

    def read(self, pts: int | None, time_base: Fraction | None, earliest: float, follows: float) -> float:
        """The time of ``pts``; ``follows`` where there is none, or where it is before ``earliest``."""
        if pts is None or time_base is None:
            return follows
        time = float(pts * time_base) - self._origin
        if earliest <= time <= self._limit:
            return time
        self.doubts += 1
        return follows


class Track:
    """What both tracks share: their container, stream and clock, and what went wrong so far.

    Attributes:
        duration: of the file, in seconds, as declared; None where it is not.
        end: where the decoded media end so far, in seconds.
        decoded: frames decoded so far.
    """

    def __init__(self, path: str | Path, kind: str, threads: int | None) -> None:
        self.path = Path(path)
        self._container = open_media(path)
        stream = video_stream(self._container) if kind == "video" else audio_stream(self._container)
        if stream is None:
            self._container.close()
            raise BadDataError(f"{path} has no {kind} track")
        for other in self._container.streams:
            other.discard = Discard.default if other is stream else Discard.all
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads or 0
        self._stream = stream
        chosen = (video_stream(self._container), audio_stream(self._container))
        self.duration = _duration(self._container, [s for s in chosen if s])
        self._clock = _Clock((self._container.start_time or 0) / av.time_base, self.duration)
        self.end = 0.0
        self.decoded = 0
        self._damaged = 0
        self._holes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def faults(self) -> tuple[int, int, int]:
        """So far: packets and frames that were damaged, timestamps that were not believed, holes in the sound."""
        return self._damaged, self._clock.doubts, self._holes

    def _decode(self) -> Iterator[Any]:
        """The stream's frames; what cannot be decoded is counted and passed over."""
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except IndexError:  # PyAV meets a packet of a stream that the header did not announce
                packets = self._container.demux(self._stream)
                continue
            except (FFmpegError, OSError):  # the file breaks off or cannot be read on
                self._damaged += 1
                packet = None
            self._damaged += packet is not None and packet.is_corrupt
            try:
                frames = self._stream.decode(packet)
            except FFmpegError:
                self._damaged += 1
                frames = []
            for frame in frames:
                self.decoded += 1
                self._damaged += bool(frame.is_corrupt)
                yield frame
            if packet is None:
                return


class VideoTrack(Track):
    """The picture's frames in time order: iterate for (seconds, frame)."""

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        super().__init__(path, "video", threads)
        rate = self._stream.average_rate or self._stream.guessed_rate
        self._step = float(1 / rate) if rate else 1 / 25
        self._stamps = {"pts": (-math.inf, 0), "dts": (-math.inf, 0)}  # the last of each kind, and its faults so far

    def __iter__(self) -> Iterator[tuple[float, VideoFrame]]:
        last: float | None = None
        for frame in self._decode():
            if frame.width * frame.height > MAX_PIXELS:
                raise BadDataError(f"{self.path} has a picture of {frame.width}x{frame.height} pixels", _TOO_LARGE)
            earliest, follows = (-math.inf, 0.0) if last is None else (last, last + self._step)
            last = self._clock.read(self._stamp(frame), frame.time_base, earliest, follows)
            self.end = last + self._step
            yield last, frame

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

    def __init__(self, path: str | Path, sample_rate: int = 16000, threads: int | None = None) -> None:
        super().__init__(path, "audio", threads)
        self.sample_rate = sample_rate

    def __iter__(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        resampler: _Resampler | None = None
        start, taken, position = 0.0, 0, 0  # of the run of sound that one resampler is fed: seconds, samples in, out
        for frame in self._decode():
            if not frame.samples:
                continue
            _check_rate(frame.sample_rate, str(self.path))
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


_TOO_LARGE = f"mmx decodes pictures of up to {MAX_PIXELS // 1_000_000} million pixels; scale it down first"


def _mean_of_channels(channels: NDArray) -> NDArray[np.float32]:
    """[channels, n] of any sample format -> float32 [n] in -1..1; the mean, so that mono as stereo changes nothing."""
    scale = MIXED_SCALE.get(channels.dtype.str[1:])
    mono = channels[0].astype(np.float32) if len(channels) == 1 else channels.mean(axis=0, dtype=np.float32)
    if scale is None:
        return mono
    return (mono - 128 if channels.dtype == np.uint8 else mono) * np.float32(scale)


def _check(container: InputContainer, path: Path) -> None:
    """Refuse a file without picture and sound, and sizes no real file has."""
    video, audio = video_stream(container), audio_stream(container)
    if video is None and audio is None:
        raise BadDataError(f"{path} holds no picture and no sound that can be decoded", "give a video or sound file")
    if video is not None and video.width * video.height > MAX_PIXELS:
        raise BadDataError(f"{path} has a picture of {video.width}x{video.height} pixels", _TOO_LARGE)
    if audio is not None and audio.rate:
        _check_rate(audio.rate, str(path))


def _check_rate(rate: int, what: str) -> None:
    low, high = SAMPLE_RATES
    if not low <= rate <= high:
        raise BadDataError(f"{what} has a sample rate of {rate} Hz", f"mmx takes {low} to {high} Hz")


def _duration(container: InputContainer, streams: list[Any]) -> float | None:
    """The declared length in seconds from the file's start: of the chosen streams if they all tell, else the file's."""
    origin = (container.start_time or 0) / av.time_base
    ends = [float(((s.start_time or 0) + s.duration) * s.time_base) - origin for s in streams if s.duration]
    all_tell = ends and len(ends) == len(streams)
    longest = max(ends) if all_tell else (container.duration or 0) / av.time_base
    return longest if longest > 0 else None


def _why_unreadable(path: Path, error: Exception) -> tuple[str, str]:
    """(reason, hint) in words for a file that FFmpeg would not open."""
    if isinstance(error, av.error.ArgumentError):
        return "a playlist, or a format that is not taken", "give the video or sound file itself"
    with suppress(OSError), path.open("rb") as file:
        head = file.read(512)
        if head[4:8] == b"ftyp" and not _has_moov(path):
            return "its index (moov) is missing", "the recording or the copy was cut short; record or copy it again"
        if b"\0" not in head and head.isascii():
            return "it is text", "give a video or sound file"
    reason = getattr(error, "strerror", None) or str(error)
    return reason[:1].lower() + reason[1:], "try to play it; convert it to MP4 if other programs can read it"


def _has_moov(path: Path) -> bool:
    """Whether an MP4 file's top-level boxes, walked by their sizes, include the index."""
    size = path.stat().st_size
    position = 0
    with path.open("rb") as file:
        while position + 8 <= size:
            file.seek(position)
            header = file.read(16)
            length = int.from_bytes(header[:4], "big")
            if header[4:8] == b"moov":
                return position + length <= size
            if length == 1:
                length = int.from_bytes(header[8:16], "big")
            if length < 8:
                return False
            position += length
    return False
