"""LF-LSTM, LF-TRANS and MulT take features that were extracted beforehand; here they get synthetic ones.

How many rows the public sets' features have is not published. Rows here are an assumption: one for each word, each face
and each mel piece of the utterance, as the other systems get them. What extraction takes is not in their times.
"""

from __future__ import annotations

import numpy as np

from mmx.benchmarks.workload.utterances import SEED, Utterance
from mmx.runtime import synthetic
from mmx.runtime.types import FeatureSample, Sample

WIDEST = {"text": 300, "audio": 144, "visual": 35}  # features a row; MulT takes 74 of audio


def with_features(sample: Sample, utterance: Utterance) -> FeatureSample:
    """The sample with seeded noise for features."""
    random = np.random.default_rng([SEED, utterance.index, utterance.words])
    rows = {"text": utterance.words, "audio": utterance.pieces, "visual": utterance.faces}
    return synthetic.with_features(sample, rows, WIDEST, random)
