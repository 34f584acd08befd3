"""What a segment's sound and faces are worth: numbers, flags, and whether there is anything in the sound at all.

The rule's defaults (``manifest.QualitySpec.usual``): 300 synthetic voices and ten seconds of real speech have levels of
-38 to -13 dBFS that vary by 9 dB and more, and a flatness of at most 0.76; half-second windows of the real speech,
pauses included, go down to -64 dBFS and 1.3 dB. White noise has 0.3 dB and over 0.95, whatever its level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.manifest import QualitySpec

FRAME_S = 0.025
SHORTEST_S = 0.5  # of sound that can be called noise
VOICE_HZ = (300, 3400)
STEADY_DB = 1.0  # noise varies by less
CLIPPED = 0.999  # of full scale
CLIPPED_SHARE = 0.01  # of samples, from which on it is flagged
SMALL_PX, DARK = 48, 40.0  # a face under the crop's own size, and under this mean of 0..255

NUMBERS = (
    *("sound_dbfs", "sound_clipped", "sound_variation_db", "sound_flatness"),
    *("face_share", "face_pixels", "face_brightness", "face_sharpness"),
    *("people", "several_faces", "face_switches"),  # of runtime.people
)
Numbers = dict[str, float]


@dataclass(frozen=True)
class Quality:
    """``numbers`` by name, ``flags``, and why it carries ``nothing`` (None: it may carry something)."""

    numbers: Numbers
    flags: tuple[str, ...] = ()
    nothing: str | None = None


def of_sound(sound: NDArray[np.float32], rate: int, spec: QualitySpec) -> Quality:
    """The quality of a segment's sound.

    Numbers: ``sound_dbfs`` (RMS without the mean; -120 for silence), ``sound_variation_db`` (standard deviation of the
    level of 25 ms frames), ``sound_flatness`` (of the mean power spectrum from 300 to 3400 Hz: 0 a tone, 1 white noise)
    and ``sound_clipped`` (share of samples at full scale).

    Args:
        sound: float32 [samples], mono, -1..1. rate: in Hz.
    """
    if not len(sound):
        return Quality({})
    centred = sound.astype(np.float64) - sound.mean(dtype=np.float64)
    level = _db(np.mean(centred**2))
    clipped = float(np.mean(np.abs(sound) >= CLIPPED))
    numbers = {"sound_dbfs": round(level, 1), "sound_clipped": round(clipped, 4)}
    size = max(round(rate * FRAME_S), 2)
    frames = centred[: len(centred) // size * size].reshape(-1, size)
    variation = flatness = None
    if len(sound) >= rate * SHORTEST_S and level > -120:
        variation = float(np.std([_db(power) for power in np.mean(frames**2, axis=1)]))
        flatness = _flatness(frames, rate)
        numbers |= {"sound_variation_db": round(variation, 2), "sound_flatness": round(flatness, 3)}
    flags = ("clipped_sound",) * (clipped > CLIPPED_SHARE)
    if spec.silence_dbfs is not None and level < spec.silence_dbfs:
        return Quality(numbers, (*flags, "silence"), f"silence ({level:.0f} dBFS)")
    steady = variation is not None and variation < STEADY_DB
    if steady and flatness is not None and spec.noise_flatness is not None and flatness > spec.noise_flatness:
        return Quality(numbers, (*flags, "noise"), "steady noise and nothing else")
    return Quality(numbers, flags)


def of_faces(crops: Sequence[NDArray[np.float32]], sizes: Sequence[float], frames: int) -> Quality:
    """The quality of a segment's faces.

    Numbers: ``face_share`` (of the frames), and medians of ``face_pixels`` (the box's shorter side in the frame),
    ``face_brightness`` (0..255) and ``face_sharpness`` (variance of the crop's Laplacian).

    Args:
        crops: float32 [3, 48, 48], 0..255, of each frame with a face. sizes: pixels of each. frames: looked at.
    """
    if not frames:
        return Quality({})
    numbers = {"face_share": round(len(sizes) / frames, 3)}
    if not sizes:
        return Quality(numbers)
    grey = np.stack(crops).mean(axis=1, dtype=np.float64)
    middle = grey[:, 1:-1, 1:-1]
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    pixels, bright = float(np.median(sizes)), float(np.median(grey.mean(axis=(1, 2))))
    sharp = float(np.median((around - 4 * middle).var(axis=(1, 2))))
    numbers |= {"face_pixels": round(pixels, 1), "face_brightness": round(bright, 1), "face_sharpness": round(sharp, 1)}
    return Quality(numbers, ("small_face",) * (pixels < SMALL_PX) + ("dark_face",) * (bright < DARK))


def _flatness(frames: NDArray[np.float64], rate: int) -> float:
    size = frames.shape[1]
    power = np.mean(np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)) ** 2, axis=0)
    hertz = np.fft.rfftfreq(size, 1 / rate)
    voice = power[(hertz >= VOICE_HZ[0]) & (hertz <= VOICE_HZ[1])] + 1e-20
    return float(np.exp(np.log(voice).mean()) / voice.mean())


def _db(power: float) -> float:
    return float(10 * np.log10(max(power, 1e-12)))
