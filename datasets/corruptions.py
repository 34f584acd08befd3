"""Faults that recordings have, made at a chosen severity: noise, babble, reverb, a codec, blur, dark, misheard words.

Arrays in, arrays out: ``mmx eval --corrupt`` measures with them, training can augment with them. Sound is float32 [n],
-1..1; frames are [..., height, width, 3], RGB, 0..255, of any dtype; both keep shape and dtype. Whatever is drawn comes
from the generator that is given.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import av
import numpy as np
from av.codec.codec import UnknownCodecError
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.signal import fftconvolve

from mmx.runtime.errors import EnvironmentMissing, UsageError
from mmx.runtime.media.sound import mean_of_channels, resample_sound

Sound = NDArray[np.float32]

SUBSTITUTED, DELETED = 0.6, 0.2  # of the word errors; the rest are inserted words
BABBLERS = 6  # voices that make a babble


@dataclass(frozen=True)
class Kind:
    """A kind of fault: the modality that it harms, what its severity is, the usual ones from mild to severe, limits."""

    modality: str
    unit: str
    usual: tuple[float, ...]
    least: float
    most: float


KINDS = {
    "noise": Kind("audio", "dB SNR", (20, 10, 0), -40, 80),
    "babble": Kind("audio", "dB SNR", (20, 10, 0), -40, 80),
    "reverb": Kind("audio", "s RT60", (0.3, 0.8, 1.5), 0.05, 10),
    "codec": Kind("audio", "kbit/s Opus", (24, 12, 6), 6, 128),
    "blur": Kind("visual", "px sigma", (1, 2, 4), 0, 100),
    "dark": Kind("visual", "stops", (2, 4, 6), 0, 16),
    "lowres": Kind("visual", "times smaller", (2, 4, 8), 1, 64),
    "asr-errors": Kind("text", "WER", (0.1, 0.3, 0.5), 0, 1),
}


@dataclass(frozen=True)
class Corruption:
    """One fault at one severity, in the unit of ``KINDS``."""

    name: str
    severity: float

    @property
    def modality(self) -> str:
        """The modality that it harms."""
        return KINDS[self.name].modality

    def __str__(self) -> str:
        return f"{self.name}:{self.severity:g}"

    def sound(self, sound: Sound, rate: int, random: np.random.Generator, others: Sequence[Sound] = ()) -> Sound:
        """A sound with the fault. ``others``: voices that babble."""
        if self.name == "noise":
            return noise(sound, self.severity, random)
        if self.name == "babble":
            return babble(sound, self.severity, others, random)
        if self.name == "reverb":
            return reverb(sound, rate, self.severity, random)
        return codec(sound, rate, self.severity)

    def frames(self, frames: NDArray) -> NDArray:
        """Frames with the fault."""
        return {"blur": blur, "dark": dark, "lowres": lowres}[self.name](frames, self.severity)

    def words(self, text: str, vocabulary: Sequence[str], random: np.random.Generator) -> str:
        """A text with the fault."""
        return asr_errors(text, self.severity, vocabulary, random)


def parse_corruptions(text: str) -> tuple[Corruption, ...]:
    """``noise:10,blur,asr-errors:0.2``; a name alone is its usual severities, ``all`` is every fault at those.

    Raises:
        UsageError: no such fault, or no such severity of it.
    """
    found: dict[Corruption, None] = {}
    for part in (part.strip() for part in text.split(",") if part.strip()):
        name, _, value = part.partition(":")
        if name not in KINDS and part != "all":
            raise UsageError(f"there is no corruption {name!r}", f"all, or some of {', '.join(KINDS)}")
        if not value:
            names = KINDS if part == "all" else (name,)
            found |= {Corruption(each, severity): None for each in names for severity in KINDS[each].usual}
            continue
        kind = KINDS[name]
        try:
            severity = float(value)
        except ValueError:
            severity = float("nan")
        if not kind.least <= severity <= kind.most:
            raise UsageError(f"{name}:{value}: not within {kind.least:g} to {kind.most:g} {kind.unit}")
        found[Corruption(name, severity)] = None
    if not found:
        raise UsageError("--corrupt names no corruption", f"all, or some of {', '.join(KINDS)}")
    return tuple(found)


def noise(sound: Sound, snr_db: float, random: np.random.Generator) -> Sound:
    """White noise on a sound, ``snr_db`` below its RMS level over all its length; on silence nothing."""
    return _mixed(sound, random.standard_normal(len(sound)), snr_db)


def babble(sound: Sound, snr_db: float, others: Sequence[Sound], random: np.random.Generator) -> Sound:
    """Up to ``BABBLERS`` other voices, equally loud, each from a random place on and repeated; as ``noise``.

    Raises:
        UsageError: there is no other voice.
    """
    voices = [other for other in others if other.any()]
    if not voices:
        raise UsageError("babble needs the sound of other utterances", "use a data set with several")
    chosen = random.choice(len(voices), min(BABBLERS, len(voices)), replace=False)
    mixed = np.zeros(len(sound))
    for voice in (voices[i] for i in chosen):
        turned = np.roll(voice, -int(random.integers(len(voice))))
        mixed += np.resize(turned, len(sound)) / _rms(voice)
    return _mixed(sound, mixed, snr_db)


def reverb(sound: Sound, rate: int, rt60: float, random: np.random.Generator) -> Sound:
    """The sound in a room whose echo falls by 60 dB in ``rt60`` seconds, as long and as loud as before.

    The direct sound and a tail of noise that decays exponentially from 5 ms on, with as much energy as the direct
    sound (a speaker at the room's critical distance).
    """
    times = np.arange(max(round(rt60 * rate), 2)) / rate
    tail = random.standard_normal(len(times)) * 10 ** (-3 * times / rt60) * (times >= 0.005)
    response = tail / max(float(np.sqrt((tail**2).sum())), 1e-12)
    response[0] = 1.0
    heard = fftconvolve(sound.astype(np.float64), response)[: len(sound)]
    loudness = _rms(sound) / max(_rms(heard), 1e-12)
    return np.asarray(heard * loudness, np.float32)


def codec(sound: Sound, rate: int, kbps: float) -> Sound:
    """The sound through the Opus codec at ``kbps`` kbit/s, as calls have it; as long as before, and not delayed.

    Raises:
        EnvironmentMissing: the FFmpeg of PyAV has no Opus encoder.
    """
    if not len(sound):
        return sound
    file = io.BytesIO()
    try:
        with av.open(file, "w", format="ogg") as out:
            stream = out.add_stream("libopus", rate=48000, layout="mono")
            stream.bit_rate = round(kbps * 1000)
            full = np.clip(resample_sound(np.pad(sound, (0, rate // 50)), rate, 48000), -1, 1)
            frame = av.AudioFrame.from_ndarray(full[None], format="flt", layout="mono")
            frame.sample_rate = 48000
            for packet in (*stream.encode(frame), *stream.encode(None)):
                out.mux(packet)
    except UnknownCodecError as e:
        raise EnvironmentMissing(f"PyAV cannot encode Opus here: {e}", "pip install a wheel of av") from e
    file.seek(0)
    with av.open(file, "r") as source:
        parts = [mean_of_channels(frame.to_ndarray()) for frame in source.decode(audio=0)]
    decoded = resample_sound(np.concatenate(parts), 48000, rate)[: len(sound)]
    return np.pad(decoded, (0, len(sound) - len(decoded)))


def blur(frames: NDArray, sigma: float) -> NDArray:
    """Frames out of focus: a Gaussian of ``sigma`` pixels; the border repeats its last pixels."""
    blurred = frames.astype(np.float32)
    for axis in (-3, -2):
        blurred = gaussian_filter1d(blurred, sigma, axis, mode="nearest") if sigma else blurred
    return _as(blurred, frames)


def dark(frames: NDArray, stops: float) -> NDArray:
    """Frames with ``stops`` less light: each halves it (in linear light; the frames are sRGB)."""
    value = frames.astype(np.float32) / 255
    light = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4) / 2**stops
    return _as(255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055), frames)


def lowres(frames: NDArray, factor: float) -> NDArray:
    """Frames as a camera with ``factor`` times fewer pixels a side has them, brought back to their size.

    Down by the mean over each pixel's area, up by linear interpolation.
    """
    height, width = frames.shape[-3:-1]
    rows, columns = _coarse(height, factor), _coarse(width, factor)
    return _as(np.einsum("yh,...hwc,xw->...yxc", rows, frames.astype(np.float32), columns, optimize=True), frames)


def asr_errors(text: str, wer: float, vocabulary: Sequence[str], random: np.random.Generator) -> str:
    """A text as a recogniser with this word error rate has it: other words in place, words lost, words too many.

    Each word errs with the chance ``wer``, so that a long text has the rate and a short one has it on average.

    Args:
        vocabulary: the words that come in.

    Raises:
        UsageError: it has fewer than two words.
    """
    if len(set(vocabulary)) < 2:
        raise UsageError("word errors need a vocabulary of two words or more")
    heard: list[str] = []
    for word in text.split():
        if random.random() >= wer:
            heard.append(word)
            continue
        kind = random.random()
        other = _another(word, vocabulary, random)
        if kind < SUBSTITUTED:
            heard.append(other)
        elif kind >= SUBSTITUTED + DELETED:
            heard += [word, other]
    return " ".join(heard)


def _another(word: str, vocabulary: Sequence[str], random: np.random.Generator) -> str:
    while (other := vocabulary[int(random.integers(len(vocabulary)))]) == word:
        pass
    return other


def _mixed(sound: Sound, other: NDArray[np.float64], snr_db: float) -> Sound:
    level = _rms(other)
    gain = _rms(sound) / level * 10 ** (-snr_db / 20) if level else 0.0
    return np.asarray(sound + gain * other, np.float32)


def _rms(sound: NDArray) -> float:
    return float(np.sqrt(np.mean(sound.astype(np.float64) ** 2))) if len(sound) else 0.0


def _coarse(size: int, factor: float) -> NDArray[np.float32]:
    """[size, size]: what down- and up-sampling makes of a row of pixels."""
    few = max(round(size / factor), 1)
    edges = np.linspace(0, size, few + 1)
    pixels = np.arange(size)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    down = np.clip(covered, 0, None) * few / size
    place = np.clip((pixels + 0.5) * few / size - 0.5, 0, few - 1)
    up = np.clip(1 - np.abs(place[:, None] - np.arange(few)), 0, None)
    return np.asarray(up @ down, np.float32)


def _as(values: NDArray, like: NDArray) -> NDArray:
    """Values in another array's dtype; whole numbers are rounded."""
    return (np.rint(values) if like.dtype.kind in "iu" else values).astype(like.dtype)
