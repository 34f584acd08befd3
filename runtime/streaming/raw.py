"""Frames and samples that are sent as they are, without a container or a codec.

4 bytes  length of what follows, big-endian
1 byte   v (a frame) or a (sound)
8 bytes  when it begins, in seconds from the start; float64, little-endian
payload  uint8 RGB [height, width, 3], or float32 mono [samples] in -1..1, little-endian
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.errors import BadDataError
from mmx.runtime.media.container import MAX_GAP_S, MediaInfo, check_rate, check_size
from mmx.runtime.media.skipping import How
from mmx.runtime.media.sound import Resampler

MOST_SAMPLES = 10  # seconds of sound in one piece
_HEAD = struct.Struct("<cd")


@dataclass(frozen=True)
class RawFormat:
    """What is sent: frames of ``width`` x ``height`` (0: none), sound at ``sample_rate`` Hz (0: none).

    Raises:
        BadDataError: neither, or sizes that no camera has.
    """

    width: int = 0
    height: int = 0
    sample_rate: int = 0

    def __post_init__(self) -> None:
        for value in (self.width, self.height, self.sample_rate):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise BadDataError(f"a raw format of {value!r:.20}", "width, height and sample_rate are whole numbers")
        if bool(self.width) != bool(self.height) or not (self.width or self.sample_rate):
            raise BadDataError("a raw format without frames and sound", "give width and height, sample_rate, or both")
        check_size(self.width, self.height, "the camera")
        if self.sample_rate:
            check_rate(self.sample_rate, "the microphone")

    def info(self, name: str) -> MediaInfo:
        """As a file's header."""
        video, audio = int(self.width > 0), int(self.sample_rate > 0)
        size, sound = (self.width, self.height), (self.sample_rate, audio)
        return MediaInfo(name, None, bool(video), bool(audio), *size, None, *sound, video, audio)


@dataclass(frozen=True)
class RawPiece:
    """A frame or some sound: ``kind`` (video, audio), ``time`` in seconds, ``data``."""

    kind: str
    time: float
    data: NDArray[Any]

    @property
    def size(self) -> int:
        """Bytes."""
        return int(self.data.nbytes)


def read_pieces(file: BinaryIO, form: RawFormat) -> Iterator[RawPiece]:
    """The pieces, until the sender ends or breaks off.

    Raises:
        BadDataError: one is not as the format says.
    """
    frame_bytes, most_sound = 3 * form.width * form.height, 4 * MOST_SAMPLES * form.sample_rate
    while (head := _exactly(file, 4)) is not None:
        length = int.from_bytes(head, "big")
        if not _HEAD.size <= length <= _HEAD.size + max(frame_bytes, most_sound):
            raise BadDataError(f"a raw piece of {length} bytes", "one frame, or at most 10 s of sound")
        if (body := _exactly(file, length)) is None:
            return
        kind, time = _HEAD.unpack_from(body)
        payload = body[_HEAD.size :]
        if not 0 <= time < math.inf:
            raise BadDataError(f"a raw piece begins at {time} s", "times are seconds from the start")
        if kind == b"v" and form.width and len(payload) == frame_bytes:
            yield RawPiece("video", time, np.frombuffer(payload, np.uint8).reshape(form.height, form.width, 3))
        elif kind == b"a" and form.sample_rate and len(payload) % 4 == 0 and len(payload) <= most_sound:
            yield RawPiece(
                "audio", time, np.nan_to_num(np.frombuffer(payload, "<f4").astype(np.float32), posinf=0, neginf=0)
            )
        else:
            raise BadDataError(
                f"a raw piece {kind!r} of {len(payload)} bytes", "v with one frame, a with float32 samples"
            )


def _exactly(file: BinaryIO, count: int) -> bytes | None:
    """So many bytes; None where there are no more."""
    parts = []
    while count and (part := file.read(count)):
        parts.append(part)
        count -= len(part)
    return None if count else b"".join(parts)


class RawVideo:
    """Frames as ``decode.VideoTrack`` gives them; times that run backwards, or far ahead, are not believed."""

    hdr = False

    def __init__(self) -> None:
        self.end = self._last = 0.0
        self._doubts = 0

    def take(self, packet: RawPiece, how: How = How.DECODE) -> Iterator[tuple[float, NDArray[np.uint8]]]:
        """The frame."""
        if how is How.DROP:
            return
        time = packet.time
        if not self._last <= time <= self._last + MAX_GAP_S:
            self._doubts += 1
            time = self._last
        self.end = self._last = time
        yield time, packet.data

    def rgb(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The frame as it is."""
        return frame

    def faults(self) -> tuple[int, int, int]:
        """See ``Track.faults``."""
        return 0, self._doubts, 0


class RawAudio:
    """Sound as ``decode.SoundTrack`` gives it: a piece that does not follow the one before leaves a hole."""

    JITTER_S = 0.05

    def __init__(self, rate: int, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self.end = 0.0
        self._rate = rate
        self._resampler: Resampler | None = None
        self._expected = 0.0
        self._next = 0
        self._holes = 0

    def take(self, packet: RawPiece) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """The samples that come out."""
        off = packet.time - self._expected
        if self._resampler is None or off > self.JITTER_S:
            if self._resampler is not None:
                self._holes += 1
                yield from self.flush()
            self._resampler = Resampler(self._rate, self.sample_rate)
            self._next = max(self._next, round(packet.time * self.sample_rate))
            self._expected = packet.time
        self._expected += len(packet.data) / self._rate
        yield from self._placed(self._resampler.feed(packet.data))

    def flush(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """What is still in the resampler."""
        if self._resampler is not None:
            yield from self._placed(self._resampler.flush())

    def _placed(self, samples: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        if len(samples):
            index, self._next = self._next, self._next + len(samples)
            self.end = self._next / self.sample_rate
            yield index, samples

    def faults(self) -> tuple[int, int, int]:
        """See ``Track.faults``."""
        return 0, 0, self._holes
