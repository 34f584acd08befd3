"""Sound -> mel pieces, in numpy: torchaudio's MelSpectrogram with its defaults, cut as the public data sets cut it.

Windows of 400 samples every 200, centred with reflection, periodic Hann, power 2, 128 HTK filters without
normalisation, no logarithm. A real FFT in float32 was chosen over a matrix DFT: both take 1 to 2 ms for 5 s of sound,
and its error is four times smaller (1e-7 of the peak).
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.errors import BadDataError
from mmx.runtime.manifest import MelSpec

Array = NDArray[np.float32]

CHUNK_COLUMNS = 4096  # bounds the memory of the transform: 4096 windows are 41 s
BLOCK_COLUMNS = 8  # 8 x 201 x 128 multiplications; OpenBLAS uses its threads from 2**18 on


def at_rate(spec: MelSpec, rate: int) -> MelSpec:
    """The spec for a sound at ``rate`` Hz: windows and hops as long in seconds, rounded as public loaders do."""
    n_fft = int(rate / spec.sample_rate * spec.n_fft)
    return replace(spec, sample_rate=rate, n_fft=n_fft, hop=n_fft * spec.hop // spec.n_fft)


def mel_pieces(sound: Array, spec: MelSpec, rate: int | None = None) -> Array:
    """Cut the mel spectrogram of ``sound`` into pieces.

    Args:
        sound: float [n], mono, -1..1, at ``spec.sample_rate`` (``sound.resample_sound`` brings it there).
        rate: the rate of ``sound`` in Hz, where the spec asks for the spectrogram at the file's own.

    Returns:
        float32 [pieces, n_mels, columns], raw power. The last piece is filled with zeros on the right. A sound that
        is too short to be reflected (n <= n_fft / 2) is first filled with zeros to n_fft / 2 + 1 samples; an empty one
        has no pieces.

    Raises:
        BadDataError: not one channel of finite floating-point samples.
    """
    sound = np.asarray(sound)
    if sound.ndim != 1 or not np.issubdtype(sound.dtype, np.floating):
        raise BadDataError(
            f"sound must be one channel of floating-point samples, not {sound.dtype} {list(sound.shape)}",
            "sound.resample_sound turns raw arrays into that",
        )
    spec = at_rate(spec, rate) if spec.own_rate and rate else spec
    with np.errstate(over="ignore", invalid="ignore"):
        columns = mel_spectrogram(sound.astype(np.float32, copy=False), spec)
    if not np.isfinite(columns).all():
        raise BadDataError("the sound holds samples that are not finite numbers")
    pieces = -(-columns.shape[1] // spec.columns)
    padded = np.zeros((spec.n_mels, pieces * spec.columns), np.float32)
    padded[:, : columns.shape[1]] = columns
    return np.ascontiguousarray(padded.reshape(spec.n_mels, pieces, spec.columns).transpose(1, 0, 2))


def mel_spectrogram(sound: Array, spec: MelSpec) -> Array:
    """float32 [n] -> float32 [n_mels, 1 + n // hop] (no columns for no samples), raw power."""
    if not len(sound):
        return np.empty((spec.n_mels, 0), np.float32)
    half = spec.n_fft // 2
    if len(sound) <= half:
        sound = np.pad(sound, (0, half + 1 - len(sound)))
    padded = np.pad(sound, half, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, spec.n_fft)[:: spec.hop]
    hann, filters = _hann(spec.n_fft), filter_bank(spec)
    mel = np.empty((spec.n_mels, len(windows)), np.float32)
    for start in range(0, len(windows), CHUNK_COLUMNS):
        spectrum = np.fft.rfft(windows[start : start + CHUNK_COLUMNS] * hann)
        power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32, copy=False)
        mel[:, start : start + CHUNK_COLUMNS] = _product(power, filters).T
    return mel


def _product(power: Array, filters: Array) -> Array:
    """``power @ filters``, a few rows at a time, which OpenBLAS multiplies without its threads.

    They gain nothing on a product of this size, and now and then one is not woken and the product never ends (seen with
    OpenBLAS 0.3.31).
    """
    blocks = np.zeros((-(-len(power) // BLOCK_COLUMNS), BLOCK_COLUMNS, power.shape[1]), power.dtype)
    blocks.reshape(-1, power.shape[1])[: len(power)] = power
    product: Array = np.matmul(blocks, filters).reshape(-1, filters.shape[1])
    return product[: len(power)]


@cache
def filter_bank(spec: MelSpec) -> Array:
    """HTK triangles, float32 [n_fft // 2 + 1, n_mels], rounded as torchaudio rounds them.

    The reference computes the corner frequencies in float32, which moves weights by up to 1.2e-5 against float64. The
    published checkpoints saw those weights, so the same roundings are made here: the bank equals theirs bit for bit.
    """
    nyquist = spec.sample_rate // 2  # as there: a whole number, for odd rates too
    hertz = _linspace(0.0, nyquist, spec.n_fft // 2 + 1)
    mels = _linspace(0.0, 2595.0 * math.log10(1.0 + nyquist / 700.0), spec.n_mels + 2)
    powers = (10.0 ** (mels / np.float32(2595.0)).astype(np.float64)).astype(np.float32)
    corners = np.float32(700.0) * (powers - np.float32(1.0))
    widths = np.diff(corners)
    slopes = corners[None, :] - hertz[:, None]
    rising, falling = -slopes[:, :-2] / widths[:-1], slopes[:, 2:] / widths[1:]
    bank: Array = np.maximum(np.float32(0.0), np.minimum(rising, falling))
    bank.flags.writeable = False
    return bank


@cache
def _hann(length: int) -> Array:
    """The periodic Hann window, float32 [length]."""
    window = (0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(length) / length)).astype(np.float32)
    window.flags.writeable = False
    return window


def _linspace(start: float, end: float, count: int) -> Array:
    """torch.linspace in float32: a rounded step, counted from the nearer end."""
    step = float(np.float32((np.float32(end) - np.float32(start)) / np.float32(count - 1)))
    index = np.arange(count)
    from_start = float(np.float32(start)) + step * index
    from_end = float(np.float32(end)) - step * (count - 1 - index)
    line: Array = np.where(index < count // 2, from_start, from_end).astype(np.float32)
    return line
