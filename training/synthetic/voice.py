"""Synthesised voices: the letters of a sentence become formants and noises, spoken with an emotion's prosody.

Harmonics of a gliding pitch under a formant envelope, and two bands of noise for what is not voiced: crude, but its
pitch, rate, loudness and spectrum are what is asked for, and the same seed gives the same samples on any machine. (The
espeak-ng library was tried: its output differs from run to run.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RATE = 16_000
_STEP = 80  # samples between control points: 5 ms
_TOP_HZ = 7_000.0
_BANDWIDTHS = (90.0, 110.0, 170.0, 250.0)

_VOWELS = {  # formants in Hz
    "a": (750, 1200, 2500, 3500),
    "e": (500, 1850, 2550, 3500),
    "i": (320, 2250, 3000, 3600),
    "o": (480, 900, 2450, 3400),
    "u": (340, 1000, 2300, 3400),
    "y": (340, 2050, 2800, 3500),
}
_HUMS = {  # voiced consonants: formants, softer than vowels
    "m": (260, 1000, 2200, 3300),
    "n": (260, 1500, 2500, 3300),
    "l": (350, 1250, 2700, 3400),
    "r": (400, 1200, 1700, 3300),
    "w": (320, 700, 2300, 3300),
}
_HISSES = {"s": (1.0, 0.0), "z": (0.7, 0.5), "c": (0.8, 0.0), "x": (0.8, 0.0), "j": (0.6, 0.4)}  # noise, voice
_BREATHS = {"f": (0.5, 0.0), "v": (0.3, 0.5), "h": (0.5, 0.0)}
_PAUSES = {" ": 0.02, ",": 0.1, ".": 0.08}


@dataclass(frozen=True)
class Prosody:
    """How something is said, against the speaker's usual way.

    Attributes:
        pitch: factor on the mean pitch. lift: semitones between start and end. swing: how far pitch moves, semitones.
        rate: factor on the speed. loudness: dB. tilt: dB an octave that the spectrum falls, more than usual.
        tremor: depth of a 6 Hz shake of the pitch, semitones. breath: share of breath in the voice.
    """

    pitch: float = 1.0
    lift: float = 0.0
    swing: float = 2.0
    rate: float = 1.0
    loudness: float = 0.0
    tilt: float = 0.0
    tremor: float = 0.0
    breath: float = 0.05

    def moved(self, random: np.random.Generator, spread: float) -> Prosody:
        """The same manner as spoken once: every quantity off by ``spread`` of its usual range."""
        n = random.normal(0.0, spread, 8)
        return Prosody(
            pitch=self.pitch * float(np.exp(0.25 * n[0])),
            lift=self.lift + 3 * n[1],
            swing=max(0.2, self.swing + 1.5 * n[2]),
            rate=self.rate * float(np.exp(0.25 * n[3])),
            loudness=self.loudness + 6 * n[4],
            tilt=self.tilt + 3 * n[5],
            tremor=max(0.0, self.tremor + 0.4 * n[6]),
            breath=float(np.clip(self.breath + 0.1 * n[7], 0.01, 0.9)),
        )


@dataclass(frozen=True)
class Voice:
    """What stays with a speaker: pitch in Hz, length of the throat (a factor on formants), speed, and the room."""

    pitch: float
    throat: float
    rate: float
    noise: float
    gain: float

    @classmethod
    def drawn(cls, random: np.random.Generator) -> Voice:
        """Somebody, in some room."""
        high = random.random() < 0.5
        return cls(
            pitch=random.uniform(165, 220) if high else random.uniform(90, 135),
            throat=random.uniform(1.06, 1.2) if high else random.uniform(0.9, 1.04),
            rate=random.uniform(0.9, 1.12),
            noise=10 ** random.uniform(-2.6, -1.7),
            gain=10 ** (random.normal(0, 2) / 20),
        )


@dataclass(frozen=True)
class _Controls:
    """One value for each control point: formants [points, 4], the voice's and the two noises' strengths [points]."""

    formants: Array
    voiced: Array
    hiss: Array
    breath: Array


def speak(text: str, voice: Voice, prosody: Prosody, random: np.random.Generator) -> NDArray[np.float32]:
    """``text`` spoken, float32 [samples] at ``RATE``, within -1..1."""
    controls = _controls(text, voice, prosody, random)
    points = len(controls.voiced)
    samples = points * _STEP
    pitch = _pitch(points, voice, prosody, random)
    sound = _harmonics(pitch, controls, voice, prosody)
    noise = random.standard_normal(samples)
    breath = prosody.breath * controls.voiced + 0.6 * controls.breath
    sound += 0.25 * _stretch(controls.hiss) * _band(noise, 3500, 7800)
    sound += 0.25 * _stretch(breath) * _band(noise, 600, 5000)
    sound *= 0.06 / max(float(np.sqrt(np.mean(sound**2))), 1e-9)
    sound *= voice.gain * 10 ** (prosody.loudness / 20)
    sound += voice.noise * 0.06 * _band(random.standard_normal(samples), 60, 6000)
    return np.tanh(sound).astype(np.float32)


def _controls(text: str, voice: Voice, prosody: Prosody, random: np.random.Generator) -> _Controls:
    rows: list[tuple[float, tuple[float, ...], float, float, float]] = []  # seconds, formants, voice, hiss, breath
    last = _VOWELS["a"]
    for letter in text.lower():
        if letter in _VOWELS:
            last = _VOWELS[letter]
            rows.append((0.08, last, 1.0, 0.0, 0.0))
        elif letter in _HUMS:
            last = _HUMS[letter]
            rows.append((0.05, last, 0.45, 0.0, 0.0))
        elif letter in _HISSES:
            noise, hum = _HISSES[letter]
            rows.append((0.065, last, 0.4 * hum, noise, 0.0))
        elif letter in _BREATHS:
            noise, hum = _BREATHS[letter]
            rows.append((0.05, last, 0.4 * hum, 0.0, noise))
        elif letter in _PAUSES:
            rows.append((_PAUSES[letter], last, 0.0, 0.0, 0.0))
        elif letter.isalpha():  # a stop: silence, then a burst
            rows.append((0.035, last, 0.0, 0.0, 0.0))
            rows.append((0.015, last, 0.1, 0.3, 0.5))
    speed = 1 / (voice.rate * prosody.rate)
    counts = [max(1, round(seconds * speed * random.uniform(0.85, 1.15) * RATE / _STEP)) for seconds, *_ in rows]
    table = np.repeat(np.array([[*formants, *rest] for _, formants, *rest in rows]), counts, axis=0)
    smooth = np.apply_along_axis(lambda column: np.convolve(column, np.hanning(9)[1:-1] / 4, "same"), 0, table)
    whole = np.convolve(np.ones(len(table)), np.hanning(9)[1:-1] / 4, "same")[:, None]
    table = np.concatenate([smooth[:, :4] / whole, smooth[:, 4:]], axis=1)
    return _Controls(table[:, :4] * voice.throat, table[:, 4], table[:, 5], table[:, 6])


def _pitch(points: int, voice: Voice, prosody: Prosody, random: np.random.Generator) -> Array:
    """Hz at each control point."""
    seconds = np.arange(points) * _STEP / RATE
    through = np.linspace(-0.5, 0.5, points)
    knots = np.linspace(0, points, max(3, round(3 * points * _STEP / RATE)))
    semitones = prosody.swing * np.interp(np.arange(points), knots, random.standard_normal(len(knots)))
    semitones += (prosody.lift - 1.5) * through + prosody.tremor * np.sin(2 * np.pi * 6 * seconds)
    hertz: Array = np.clip(voice.pitch * prosody.pitch * 2 ** (semitones / 12), 55, 600)
    return hertz


def _harmonics(pitch: Array, controls: _Controls, voice: Voice, prosody: Prosody) -> Array:
    """The voiced part: every harmonic below ``_TOP_HZ``, as loud as the formants and the tilt make it."""
    turn = np.exp(2j * np.pi * np.cumsum(_stretch(pitch)) / RATE)
    wave = np.ones_like(turn)
    sound = np.zeros(len(turn))
    slope = -(6 + prosody.tilt) / 6.02  # a factor of frequency to this power
    for number in range(1, int(_TOP_HZ / pitch.min()) + 1):
        hertz = number * pitch
        strength = controls.voiced * (hertz / 200) ** slope * (hertz < _TOP_HZ)
        gain = np.zeros(len(pitch))
        for formant, width in zip(controls.formants.T, _BANDWIDTHS, strict=True):
            gain += (1 + formant / 1500) / (1 + ((hertz - formant) / width) ** 2)
        wave *= turn  # the next harmonic: its phase is so many times the first one's
        sound += _stretch(strength * (0.03 + gain)) * wave.imag
    return sound


def _stretch(points: Array) -> Array:
    """Control points -> samples, linearly."""
    steps = np.diff(points, append=points[-1])
    return (points[:, None] + steps[:, None] * (np.arange(_STEP) / _STEP)).ravel()


def _band(noise: Array, low: float, high: float) -> Array:
    """The noise's part between two frequencies, at unit strength."""
    length = 1 << (len(noise) - 1).bit_length()
    spectrum = np.fft.rfft(noise, length)
    hertz = np.fft.rfftfreq(length, 1 / RATE)
    spectrum *= 1 / (1 + (low / np.maximum(hertz, 1.0)) ** 6) / (1 + (hertz / high) ** 6)
    band: Array = np.fft.irfft(spectrum, length)[: len(noise)]
    return band / max(float(np.sqrt(np.mean(band**2))), 1e-9)
