"""Real-shaped inputs for measuring a precision variant: as long, as ragged and as loud as utterances are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mmx.export.durations import duration_at, sizes, text_size
from mmx.runtime.manifest import Manifest
from mmx.runtime.packing import feature_sizes, inputs_for
from mmx.runtime.synthetic import VOCABULARY, make_samples, with_features
from mmx.runtime.types import Sample

Inputs = dict[str, NDArray]
ROWS_PER_S = 4  # of extracted features


def utterances(manifest: Manifest, count: int, batch: int, seed: int = 0) -> Iterator[Inputs]:
    """``count`` utterances in batches of at most ``batch``, for any system's graph.

    Durations are spread evenly over the data set's quantiles; a batch holds neighbours, and the batches are shuffled,
    so that the first few stand for all. What is in them is ``runtime.synthetic``'s; all from ``seed``.

    Yields:
        The inputs of the manifest's FP32 graph, by name.
    """
    random = np.random.default_rng(seed)
    durations = [duration_at(manifest.dataset, percent) for percent in (np.arange(count) + 0.5) * 100 / count]
    for start in random.permutation(np.arange(0, count, batch)):
        part = durations[start : start + batch]
        yield inputs_for(manifest, utterances_of(manifest, part, random))


def utterances_of(manifest: Manifest, durations: Sequence[float], random: np.random.Generator) -> list[Sample]:
    """An utterance for each of these durations (seconds), for any system's graph."""
    lengths = [sizes(duration, manifest) for duration in durations]
    vocabulary = text_size(manifest, "vocabulary", VOCABULARY)
    towers = [(length.tokens, length.faces, length.pieces) for length in lengths]
    made = make_samples(towers, random, manifest.preprocessing, vocabulary)
    features = feature_sizes(manifest.graphs["fp32"].inputs)
    if not features:
        return made
    rows = [dict.fromkeys(features, max(1, round(ROWS_PER_S * duration))) for duration in durations]
    return [with_features(sample, each, features, random) for sample, each in zip(made, rows, strict=True)]


def scaled(inputs: Inputs, factor: float) -> Inputs:
    """The same inputs with every float32 array times ``factor``."""
    return {name: x * np.float32(factor) if x.dtype == np.float32 else x for name, x in inputs.items()}
