"""Samples that nobody recorded: random words, smooth pictures, mel powers of voiced-looking sound, noise for features.

They are as smooth and as loud as the real thing: a network's time does not depend on what it is given, but how far
reduced precision moves its answers does. Everything follows from the generator that is passed in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.manifest import Preprocessing
from mmx.runtime.types import FeatureSample, Sample

FIRST_WORD = 13  # below it ALBERT's vocabulary has special ids
VOCABULARY = 30000  # ALBERT's


def make_sample(
    tokens: int,
    faces: int,
    pieces: int,
    random: np.random.Generator,
    spec: Preprocessing | None = None,
    vocabulary: int = VOCABULARY,
) -> Sample:
    """One utterance of so many text tokens ([CLS] and [SEP] included), faces and mel pieces; see ``make_samples``."""
    return make_samples([(tokens, faces, pieces)], random, spec, vocabulary)[0]


def make_samples(
    sizes: Sequence[tuple[int, int, int]],
    random: np.random.Generator,
    spec: Preprocessing | None = None,
    vocabulary: int = VOCABULARY,
) -> list[Sample]:
    """An utterance for each of ``sizes``: text tokens ([CLS] and [SEP] included), faces and mel pieces.

    Args:
        spec: special ids and sizes; the defaults are those of every system.
        vocabulary: ids are below this.
    """
    spec = spec or Preprocessing()
    texts = [random.integers(FIRST_WORD, vocabulary, tokens, dtype=np.int64) for tokens, _, _ in sizes]
    for ids in texts:
        ids[0], ids[-1] = spec.text.cls_id, spec.text.sep_id
    seen = pictures(sum(faces for _, faces, _ in sizes), spec.faces.size, random)
    each = np.split(seen, np.cumsum([faces for _, faces, _ in sizes])[:-1])
    sounds = [mel_powers(pieces, spec.mel.n_mels, spec.mel.columns, random) for _, _, pieces in sizes]
    return [Sample(*parts) for parts in zip(texts, each, sounds, strict=True)]


def with_features(
    sample: Sample, rows: Mapping[str, int], sizes: Mapping[str, int], random: np.random.Generator
) -> FeatureSample:
    """The sample with normally distributed features: float32 [rows, size] by modality, in the order of ``sizes``."""
    features = {name: random.standard_normal((rows[name], size), dtype=np.float32) for name, size in sizes.items()}
    return FeatureSample(sample.token_ids, sample.faces, sample.pieces, features)


def pictures(count: int, size: int, random: np.random.Generator) -> NDArray[np.float32]:
    """Smooth random pictures with some grain, float32 [count, 3, size, size], 0..255."""
    coarse = random.uniform(0, 255, (count, 3, size // 8 + 2, size // 8 + 2))
    where = np.linspace(0, size // 8 + 0.999, size)
    low, share = where.astype(int), where % 1
    rows = coarse[:, :, low] * (1 - share)[:, None] + coarse[:, :, low + 1] * share[:, None]
    smooth = rows[..., low] * (1 - share) + rows[..., low + 1] * share
    return np.clip(smooth + random.normal(0, 8, smooth.shape), 0, 255).astype(np.float32)


def mel_powers(count: int, bands: int, columns: int, random: np.random.Generator) -> NDArray[np.float32]:
    """Power spectra of one utterance, float32 [count, bands, columns]: a falling spectrum with harmonics, chi-squared
    noise, and a loudness between 1e-3 and 1e4 (a full-scale sine under the default window reaches 1e4)."""
    loudness = 10 ** random.uniform(-3, 4)
    tilt = 10 ** (-3 * np.arange(bands) / bands)
    harmonics = 1 + np.cos(np.arange(bands) * random.uniform(0.3, 2)) ** 8
    swell = 0.05 + np.abs(np.sin(np.linspace(0, count * 3.0, count * columns))).reshape(count, 1, columns)
    noise = random.exponential(1.0, (count, bands, columns))
    return (loudness * (tilt * harmonics)[:, None] * swell * noise).astype(np.float32)
