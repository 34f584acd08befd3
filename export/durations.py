"""How long utterances are in the paper's data sets, and what a duration means for the graph's inputs."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

from mmx.runtime.manifest import Manifest

PERCENT = (0, 1, 2.5, 5, *range(10, 100, 5), 97.5, 99, 99.5, 100)
QUANTILES_S: dict[str, tuple[float, ...]] = {
    "iemocap": (
        *(0.73, 1.12, 1.29, 1.42, 1.72, 1.97, 2.21, 2.38, 2.62, 2.85, 3.11, 3.35, 3.69),
        *(4.07, 4.43, 4.96, 5.57, 6.14, 6.75, 7.80, 8.91, 11.33, 13.23, 15.34, 16.95, 34.14),
    ),
    "mosei": (
        *(0.31, 1.75, 2.12, 2.50, 3.13, 3.64, 4.18, 4.54, 4.91, 5.32, 5.81, 6.23, 6.75),
        *(7.28, 7.74, 8.32, 8.92, 9.65, 10.64, 11.98, 13.83, 17.28, 21.03, 25.69, 28.91, 104.63),
    ),
}
TOKENS_PER_S = 4.3  # 3.28 words a second in IEMOCAP, 1.3 SentencePiece tokens to a word (an assumption)


@dataclass(frozen=True)
class Sizes:
    """What one utterance brings: text tokens with [CLS] and [SEP], faces, mel pieces."""

    tokens: int
    faces: int
    pieces: int


def duration_at(dataset: str, percent: float) -> float:
    """Seconds below which ``percent`` of a data set's utterances lie; an unknown data set is taken as IEMOCAP."""
    quantiles = QUANTILES_S.get(dataset, QUANTILES_S["iemocap"])
    left = min(bisect_right(PERCENT, percent), len(PERCENT) - 1) - 1  # as numpy.interp does, without importing numpy
    slope = (quantiles[left + 1] - quantiles[left]) / (PERCENT[left + 1] - PERCENT[left])
    return slope * (percent - PERCENT[left]) + quantiles[left]


def sizes(duration: float, manifest: Manifest) -> Sizes:
    """The sizes of an utterance of ``duration`` seconds, cut to what the model allows; at least one of each.

    Text is cut by the tokenizer's limit and by the model's table of positions, whichever is less.
    """
    preprocessing = manifest.preprocessing
    duration = min(duration, preprocessing.max_segment_s)
    positions = text_size(manifest, "positions", preprocessing.text.max_tokens)
    mel = preprocessing.mel
    piece_s = mel.hop * mel.columns / mel.sample_rate
    return Sizes(
        tokens=min(preprocessing.text.max_tokens, positions, 2 + math.ceil(TOKENS_PER_S * duration)),
        faces=max(1, math.ceil(duration / preprocessing.video.interval_s)),
        pieces=max(1, math.ceil(duration / piece_s)),
    )


def text_size(manifest: Manifest, what: str, otherwise: int) -> int:
    """A size of the text tower (``vocabulary``, ``positions``) by the system's config; other systems have none."""
    text = manifest.config.get("text")
    return int(text[what]) if isinstance(text, dict) and what in text else otherwise
