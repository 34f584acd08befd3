"""Sound of any format, channel layout and rate -> mono float32 at the rate that is wanted."""

from __future__ import annotations

import math

import av
import numpy as np
from av.audio.frame import AudioFrame
from numpy.typing import NDArray

from mmx.runtime.errors import BadDataError
from mmx.runtime.media.container import check_rate

SCALES = {"u1": 2.0**-7, "i2": 2.0**-15, "i4": 2.0**-31, "i8": 2.0**-63}
MOST_PLANES = 7  # PyAV 18 reads beyond the end of a frame with more


def resample_sound(samples: NDArray, sample_rate: int, target_rate: int = 16000) -> NDArray[np.float32]:
    """A raw array and its sample rate -> float32 mono [m] at ``target_rate``.

    Args:
        samples: [n] or [channels, n]; floating-point in -1..1, or integers at full scale (int16, int32, int64, uint8).
            Channels are mixed by their mean.

    Raises:
        BadDataError: other shapes or dtypes, a sample rate outside 1 kHz to 768 kHz.
    """
    samples = np.atleast_2d(samples)
    if samples.ndim != 2 or samples.dtype.str[1:] not in {*SCALES, "f2", "f4", "f8"}:
        raise BadDataError(
            f"a sound of {samples.dtype} {list(samples.shape)}", "give [n] or [channels, n], as floats or integers"
        )
    check_rate(sample_rate, "the sound")
    resampler = Resampler(sample_rate, target_rate)
    return np.concatenate([resampler.feed(mean_of_channels(samples)), resampler.flush()])


class Mixer:
    """Frames of any channel layout -> mono float32 [n].

    ``mix``: ``layout`` weighs the channels as FFmpeg does when it mixes them to one (centre 1, front left and right
    0.7071, surround 0.5, low frequencies 0), so that speech in the centre stays as loud as it is; ``mean`` is the mean
    of all channels. Stereo, with or without low frequencies, is the mean of both either way, so that mono sound in a
    stereo file changes nothing.
    """

    def __init__(self, mix: str) -> None:
        self._by_layout = mix == "layout"
        self._key: tuple[str, str, int] | None = None
        self._converter: av.AudioResampler | None = None

    def __call__(self, frame: AudioFrame) -> NDArray[np.float32]:
        """Raises FFmpegError for a layout that FFmpeg cannot mix."""
        layout = frame.layout
        if layout.nb_channels <= 2:
            return mean_of_channels(_channels(frame))
        if not self._by_layout and layout.nb_channels <= MOST_PLANES:
            return mean_of_channels(_channels(frame))
        if self._by_layout and not layout.name.startswith("ambisonic"):
            names = [channel.name for channel in layout.channels]
            if names == ["NONE"] * 3:  # FFmpeg would take the third for low frequencies, and drop it
                left, right, centre = self._packed(frame)
                return (left + right) * np.float32(math.sqrt(0.5)) + centre
            if {name for name in names if not name.startswith("LFE")} != {"FL", "FR"}:
                return self._converted(frame, "fltp", "mono")[0]
            return mean_of_channels(self._packed(frame)[[names.index("FL"), names.index("FR")]])
        channels = self._packed(frame)
        return mean_of_channels(channels[:1] if self._by_layout else channels)  # Ambisonics' first is the sound as such

    def _packed(self, frame: AudioFrame) -> NDArray[np.float32]:
        """float32 [channels, n] of a frame with any number of channels."""
        return self._converted(frame, "flt", frame.layout.name).reshape(frame.samples, -1).T

    def _converted(self, frame: AudioFrame, kind: str, layout: str) -> NDArray[np.float32]:
        key = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._converter is None or key != self._key:
            self._converter, self._key = av.AudioResampler(kind, layout, frame.sample_rate), key
        parts = [part.to_ndarray() for part in self._converter.resample(frame)]
        converted: NDArray[np.float32] = np.concatenate(parts, axis=1)
        return converted


class Resampler:
    """Mono float32 at one rate -> at another, through FFmpeg's resampler; its delay comes out with ``flush``."""

    def __init__(self, rate: int, target: int) -> None:
        self.rate = rate
        self._resampler = None if rate == target else av.AudioResampler("fltp", "mono", target)

    def feed(self, mono: NDArray[np.float32]) -> NDArray[np.float32]:
        """What comes out for samples that go in."""
        if self._resampler is None or not len(mono):
            return mono
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(mono)[None], format="fltp", layout="mono")
        frame.sample_rate = self.rate
        return self._take(frame)

    def flush(self) -> NDArray[np.float32]:
        """What is still inside."""
        return self._take(None) if self._resampler else np.empty(0, np.float32)

    def _take(self, frame: AudioFrame | None) -> NDArray[np.float32]:
        assert self._resampler
        parts = [part.to_ndarray()[0] for part in self._resampler.resample(frame)]
        return np.concatenate(parts) if parts else np.empty(0, np.float32)


def mean_of_channels(channels: NDArray) -> NDArray[np.float32]:
    """[channels, n] of any sample format -> float32 [n] in -1..1; the mean, so that mono as stereo changes nothing."""
    scale = SCALES.get(channels.dtype.str[1:])
    mono = channels[0].astype(np.float32) if len(channels) == 1 else channels.mean(axis=0, dtype=np.float32)
    if scale is None:
        return mono
    return (mono - 128 if channels.dtype == np.uint8 else mono) * np.float32(scale)


def _channels(frame: AudioFrame) -> NDArray:
    """[channels, n] in the frame's own sample type."""
    channels = frame.to_ndarray()
    return channels if frame.format.is_planar else channels.reshape(frame.samples, -1).T
