"""Media that are decoded already: frames and sound in memory, read as a file of the same content would be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.errors import UsageError
from mmx.runtime.media.container import MAX_GAP_S, SAMPLE_RATES, MediaInfo, check_size
from mmx.runtime.media.sound import SCALES, Resampler, mean_of_channels

CHUNK_S = 0.5  # of sound that is handed on at once
MAX_CHANNELS = 64
STEP_S = 1 / 25  # how long a single frame is on screen
_SAMPLES = {*SCALES, "f2", "f4", "f8"}


@dataclass(frozen=True, eq=False)
class MediaArrays:
    """Frames, sound, or both, where a path would stand. They are not copied, and must not change while they are read.

    Attributes:
        frames: uint8 [frames, height, width, 3], RGB, upright; None: no video.
        times: when each frame begins, in seconds from the start of the media, increasing.
        sound: [samples] or [channels, samples], whose mean is taken: floating-point in -1..1, or integers at full
            scale (int16, int32, int64, uint8); None: no sound. It starts at 0 s.
        sample_rate: of the sound, in Hz.
        name: what predictions and messages call it.

    Raises:
        UsageError: an array of the wrong shape, dtype or content, or without its times or its rate.
    """

    frames: NDArray[np.uint8] | None = None
    times: Sequence[float] | NDArray[np.floating] | None = None
    sound: NDArray[Any] | None = None
    sample_rate: int | None = None
    name: str = "<arrays>"

    def __post_init__(self) -> None:
        if self.frames is None and self.sound is None:
            raise UsageError(f"{self.name} has neither frames nor sound", "give frames with times, or sound")
        if self.frames is not None:
            self._check_frames(self.frames)
        elif self.times is not None:
            raise UsageError(f"{self.name} has times and no frames", "give frames with them")
        if self.sound is not None:
            self._check_sound(self.sound)
        elif self.sample_rate is not None:
            raise UsageError(f"{self.name} has a sample_rate and no sound", "give sound with it")

    def _check_frames(self, frames: Any) -> None:
        wanted = "give uint8 [frames, height, width, 3]"
        if not isinstance(frames, np.ndarray):
            raise UsageError(f"{self.name}: frames are {type(frames).__name__}, not an array", wanted)
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
            raise UsageError(f"{self.name}: frames are {frames.dtype} {list(frames.shape)}", wanted)
        check_size(frames.shape[2], frames.shape[1], self.name)
        if self.times is None:
            raise UsageError(f"{self.name} has frames and no times", "give the seconds at which each frame begins")
        try:
            times = np.asarray(self.times, np.float64)
        except (TypeError, ValueError) as e:
            raise UsageError(f"{self.name}: times are no numbers", "give seconds") from e
        if times.shape != (len(frames),):
            raise UsageError(
                f"{self.name}: times are {list(times.shape)} for {len(frames)} frames", "give one for each"
            )
        steps = np.diff(times, prepend=0.0)
        if not np.isfinite(times).all() or (steps[1:] <= 0).any() or times[0] < 0:
            raise UsageError(f"{self.name}: times do not increase from 0 s or later", "sort the frames by time")
        if steps.max() > MAX_GAP_S:
            raise UsageError(f"{self.name}: times are {steps.max():g} s apart", "give seconds, not milliseconds")

    def _check_sound(self, sound: Any) -> None:
        wanted = "give [samples] or [channels, samples], as floats in -1..1 or integers at full scale"
        if not isinstance(sound, np.ndarray):
            raise UsageError(f"{self.name}: sound is {type(sound).__name__}, not an array", wanted)
        channels = len(sound) if sound.ndim == 2 else 1
        known = sound.dtype.str[1:] in _SAMPLES and sound.dtype.isnative
        if not known or sound.ndim not in (1, 2) or not sound.size or channels > MAX_CHANNELS:
            raise UsageError(f"{self.name}: sound is {sound.dtype} {list(sound.shape)}", wanted)
        if sound.dtype.kind == "f" and not np.isfinite(sound).all():
            raise UsageError(f"{self.name}: sound has values that are not finite", wanted)
        low, high = SAMPLE_RATES
        rate = self.sample_rate
        if isinstance(rate, bool) or not isinstance(rate, (int, np.integer)) or not low <= rate <= high:
            raise UsageError(f"{self.name}: sample_rate is {rate!r:.40}", f"give an integer from {low} to {high} Hz")


class ArrayMedia:
    """``MediaArrays`` as ``packets.MediaFile`` is: open, with a header. There is nothing to close."""

    def __init__(self, media: MediaArrays) -> None:
        self.name = media.name
        self._media = media
        sound, frames = media.sound, media.frames
        ends = (
            self.video().duration if frames is not None else 0.0,
            self.audio(None).duration if sound is not None else 0.0,
        )
        self.length = max(ends)
        self.info = MediaInfo(
            name=media.name,
            duration=self.length,
            has_video=frames is not None,
            has_audio=sound is not None,
            width=0 if frames is None else frames.shape[2],
            height=0 if frames is None else frames.shape[1],
            fps=None,
            sample_rate=int(media.sample_rate or 0),
            channels=0 if sound is None else len(np.atleast_2d(sound)),
            video_tracks=int(frames is not None),
            audio_tracks=int(sound is not None),
        )

    def video(self) -> FrameArray:
        """The frames as a track; there must be some."""
        frames, times = self._media.frames, self._media.times
        assert frames is not None
        return FrameArray(frames, np.asarray(times, np.float64))

    def audio(self, sample_rate: int | None) -> SoundArray:
        """The sound as a track at ``sample_rate``; None: at its own. There must be some."""
        sound, rate = self._media.sound, int(self._media.sample_rate or 0)
        assert sound is not None
        return SoundArray(np.atleast_2d(sound), rate, sample_rate or rate)

    def chosen(self, kind: str) -> bool:
        """See ``MediaFile.chosen``: there is one of each ``kind``."""
        return False

    def close(self) -> None:
        """Nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class _ArrayTrack:
    """What both tracks have of ``decode.Track``: nothing in an array is damaged."""

    end = 0.0
    decoded = 0

    def faults(self) -> tuple[int, int, int]:
        """See ``Track.faults``."""
        return 0, 0, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class FrameArray(_ArrayTrack):
    """Frames as ``decode.VideoTrack`` gives them. The last is on screen as long as the one before it."""

    hdr = False

    def __init__(self, frames: NDArray[np.uint8], times: NDArray[np.float64]) -> None:
        self._frames, self._times = frames, times
        self.duration = float(times[-1] + (times[-1] - times[-2] if len(times) > 1 else STEP_S))

    def __iter__(self) -> Iterator[tuple[float, NDArray[np.uint8]]]:
        for number, (time, frame) in enumerate(zip(self._times.tolist(), self._frames, strict=True), 1):
            self.decoded = number
            self.end = self.duration if number == len(self._times) else time
            yield time, frame

    def rgb(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The frame, contiguous."""
        return np.ascontiguousarray(frame)


class SoundArray(_ArrayTrack):
    """Sound as ``decode.SoundTrack`` gives it: mono, resampled, with the index of each piece's first sample."""

    def __init__(self, sound: NDArray[Any], rate: int, sample_rate: int) -> None:
        self._sound, self._rate, self.sample_rate = sound, rate, sample_rate
        self.duration = sound.shape[1] / rate

    def __iter__(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        resampler = Resampler(self._rate, self.sample_rate)
        step = max(1, round(CHUNK_S * self._rate))
        index = 0
        for start in range(0, self._sound.shape[1] + step, step):  # the last one flushes
            chunk = self._sound[:, start : start + step]
            piece = resampler.feed(mean_of_channels(chunk)) if chunk.size else resampler.flush()
            self.decoded += 1
            if len(piece):
                self.end = (index + len(piece)) / self.sample_rate
                yield index, piece
                index += len(piece)
