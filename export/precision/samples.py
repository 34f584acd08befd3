"""Real-shaped inputs for measuring a precision variant: as long, as ragged and as loud as utterances are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mmx.export.durations import duration_at, sizes, text_size
from mmx.runtime.manifest import Manifest, TensorSpec

Inputs = dict[str, NDArray]
FIRST_WORD = 13  # below it ALBERT's vocabulary has special ids


def utterances(manifest: Manifest, count: int, batch: int, seed: int = 0) -> Iterator[Inputs]:
    """``count`` utterances in batches of at most ``batch``, for any system's graph.

    Durations are spread evenly over the data set's quantiles; a batch holds neighbours, and the batches are shuffled,
    so that the first few stand for all. Faces are smooth random pictures, sounds are voiced-looking mel powers from a
    whisper to full scale, features are normally distributed; all from ``seed``.

    Yields:
        The inputs of the manifest's FP32 graph, by name.
    """
    random = np.random.default_rng(seed)
    durations = [duration_at(manifest.dataset, percent) for percent in (np.arange(count) + 0.5) * 100 / count]
    vocabulary = text_size(manifest, "vocabulary", 30000)
    for start in random.permutation(np.arange(0, count, batch)):
        part = durations[start : start + batch]
        inputs = _towers(manifest, part, vocabulary, random)
        inputs |= _features(manifest.graphs["fp32"].inputs, part, random)
        wanted = [spec.name for spec in manifest.graphs["fp32"].inputs]
        yield {name: inputs[name] for name in wanted}


def scaled(inputs: Inputs, factor: float) -> Inputs:
    """The same inputs with every float32 array times ``factor``."""
    return {name: x * np.float32(factor) if x.dtype == np.float32 else x for name, x in inputs.items()}


def _towers(manifest: Manifest, durations: Sequence[float], vocabulary: int, random: np.random.Generator) -> Inputs:
    text = manifest.preprocessing.text
    lengths = [sizes(duration, manifest) for duration in durations]
    tokens = max(length.tokens for length in lengths)
    ids = np.full((len(lengths), tokens), text.pad_id, np.int64)
    mask = np.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, : length.tokens] = random.integers(FIRST_WORD, vocabulary, length.tokens)
        ids[row, 0], ids[row, length.tokens - 1] = text.cls_id, text.sep_id
        mask[row, : length.tokens] = 1
    faces, pieces = [length.faces for length in lengths], [length.pieces for length in lengths]
    mel = manifest.preprocessing.mel
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "faces": pictures(sum(faces), manifest.preprocessing.faces.size, random),
        "face_index": _index(faces),
        "pieces": np.concatenate([mel_powers(n, mel.n_mels, mel.columns, random) for n in pieces]),
        "piece_index": _index(pieces),
    }


def _index(counts: Sequence[int]) -> NDArray[np.int64]:
    """Row of the ragged array for each slot, -1 where there is none."""
    table = np.full((len(counts), max(counts)), -1, np.int64)
    first = 0
    for row, count in enumerate(counts):
        table[row, :count] = np.arange(first, first + count)
        first += count
    return table


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


def _features(specs: Sequence[TensorSpec], durations: Sequence[float], random: np.random.Generator) -> Inputs:
    """Inputs of the feature-based systems: <name> [batch, length, features] and <name>_len [batch]."""
    made: Inputs = {}
    for spec in specs:
        if len(spec.axes) == 3 and spec.dtype == "float32" and spec.name in ("text", "audio", "visual"):
            lengths = np.array([max(1, round(4 * duration)) for duration in durations], np.int64)
            features = int(spec.axes[2])
            made[spec.name] = random.normal(size=(len(durations), int(lengths.max()), features)).astype(np.float32)
            made[f"{spec.name}_len"] = lengths
    return made
