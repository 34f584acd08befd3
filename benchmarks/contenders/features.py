"""LF-LSTM, LF-TRANS and MulT take features that were extracted beforehand; here they get synthetic ones.

How many rows the public sets' features have is not published. Rows here are an assumption: one for each word, each face
and each mel piece of the utterance, as the other systems get them. What extraction takes is not in their times.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmx.benchmarks.workload.utterances import SEED, Utterance
from mmx.runtime.manifest import TensorSpec
from mmx.runtime.types import Sample

WIDEST = {"text": 300, "audio": 144, "visual": 35}  # features a row; MulT takes 74 of audio


@dataclass(frozen=True)
class FeatureSample(Sample):
    """A sample with ``features`` beside its media: float32 [rows, ``WIDEST``] by modality."""

    features: Mapping[str, NDArray[np.float32]]


def with_features(sample: Sample, utterance: Utterance) -> FeatureSample:
    """The sample with seeded noise for features."""
    random = np.random.default_rng([SEED, utterance.index, utterance.words])
    rows = {"text": utterance.words, "audio": utterance.pieces, "visual": utterance.faces}
    features = {name: random.standard_normal((rows[name], size), dtype=np.float32) for name, size in WIDEST.items()}
    return FeatureSample(sample.token_ids, sample.faces, sample.pieces, features)


def feature_sizes(inputs: Iterable[TensorSpec]) -> dict[str, int]:
    """Features a row that a graph takes, by modality; empty for a graph that takes media."""
    return {each.name: int(each.axes[-1]) for each in inputs if each.name in WIDEST}


def pack_features(samples: Sequence[Sample], sizes: Mapping[str, int]) -> dict[str, NDArray[Any]]:
    """The graph's inputs: each modality float32 [batch, longest, size], zeros past the end, and its int64 lengths.

    Features beyond a system's own sizes are left off.
    """
    packed: dict[str, NDArray[Any]] = {}
    for name, size in sizes.items():
        rows = [sample.features[name][:, :size] for sample in samples if isinstance(sample, FeatureSample)]
        lengths = np.array([len(each) for each in rows], np.int64)
        padded = np.zeros((len(rows), lengths.max(), size), np.float32)
        for i, each in enumerate(rows):
            padded[i, : len(each)] = each
        packed[name], packed[f"{name}_len"] = padded, lengths
    return packed
