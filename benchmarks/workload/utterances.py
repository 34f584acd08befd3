"""Synthetic test sets: as many utterances as IEMOCAP's and MOSEI's test sets have, as long as theirs are.

Durations follow the real sets' quantiles; faces, mel pieces and words follow from a duration by fixed rules. What the
tensors hold is random, as smooth and as loud as the real thing, and drawn as for calibration without data: a network's
time does not depend on it, but how far reduced precision moves its answers does. Everything follows from one seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmx.benchmarks.paper import DATASETS, SAMPLES
from mmx.export.durations import PERCENT, QUANTILES_S
from mmx.runtime import synthetic as of_noise
from mmx.runtime.errors import UsageError
from mmx.runtime.types import Sample

SEED = 2024
FACE_INTERVAL_S = 0.5
PIECE_S = 0.4
TOKENS_PER_WORD = 1.3  # an assumption: SentencePiece pieces of spoken English, punctuation included
MAX_TOKENS = 100


@dataclass(frozen=True)
class Utterance:
    """One utterance's sizes: seconds, faces, mel pieces, words, and text tokens with [CLS] and [SEP]."""

    index: int
    duration: float
    faces: int
    pieces: int
    words: int
    tokens: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """What an engine may prepare itself for."""
        return self.faces, self.pieces, self.tokens


@dataclass(frozen=True)
class Workload:
    """A test set, or a stratified part of one.

    Attributes:
        dataset: iemocap | mosei.
        source: ``synthetic``, or the folder the data came from.
        utterances: the ones to run. weights: how many of the set each stands for; they sum to ``total``.
        new_shapes: how many of those have a shape (faces, pieces, tokens) that none before them in the set has.
        total: utterances in the whole set.
    """

    dataset: str
    source: str
    utterances: tuple[Utterance, ...]
    weights: tuple[int, ...]
    new_shapes: tuple[int, ...]
    total: int

    @classmethod
    def whole(cls, dataset: str, source: str, utterances: Sequence[Utterance]) -> Workload:
        """All utterances of a set, in its order."""
        seen: set[tuple[int, int, int]] = set()
        new = []
        for each in utterances:
            new.append(int(each.shape not in seen))
            seen.add(each.shape)
        count = len(utterances)
        return cls(dataset, source, tuple(utterances), (1,) * count, tuple(new), count)

    @property
    def is_subset(self) -> bool:
        """Whether totals for the set are extrapolated."""
        return len(self.utterances) < self.total

    @property
    def seconds(self) -> float:
        """Seconds of media in the whole set (of a subset: extrapolated)."""
        return sum(w * u.duration for w, u in zip(self.weights, self.utterances, strict=True))

    def extrapolate(self, values: NDArray[np.float64]) -> float:
        """The set's total of a quantity known for each utterance of ``utterances``."""
        return float(np.dot(self.weights, values))


def synthetic(dataset: str) -> Workload:
    """The whole synthetic set of ``dataset``, in shuffled order.

    Raises:
        UsageError: no such data set.
    """
    if dataset not in DATASETS:
        raise UsageError(f"there is no data set {dataset!r}", f"mmx bench {'|'.join(DATASETS)}")
    count = SAMPLES[dataset]
    durations = np.interp(np.linspace(0, 100, count), PERCENT, QUANTILES_S[dataset])
    random = np.random.default_rng([SEED, DATASETS.index(dataset)])
    random.shuffle(durations)
    words = _words(dataset, durations, random)
    utterances = tuple(
        _utterance(i, float(duration), int(spoken))
        for i, (duration, spoken) in enumerate(zip(durations, words, strict=True))
    )
    return Workload.whole(dataset, "synthetic", utterances)


def utterance_of(duration: float) -> Utterance:
    """One utterance of so many seconds, spoken as fast as IEMOCAP's speakers do on average."""
    return _utterance(0, duration, max(1, round(-2.15 + 3.28 * duration)))


def _utterance(index: int, duration: float, words: int) -> Utterance:
    return Utterance(
        index=index,
        duration=duration,
        faces=math.ceil(duration / FACE_INTERVAL_S),
        pieces=math.ceil(duration / PIECE_S),
        words=words,
        tokens=min(MAX_TOKENS, 2 + round(TOKENS_PER_WORD * words)),
    )


def _words(dataset: str, durations: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.int64]:
    """Words spoken in so many seconds: a line with 20 % noise for IEMOCAP, 2.5 a second for MOSEI (an assumption)."""
    line = -2.15 + 3.28 * durations if dataset == "iemocap" else 2.5 * durations
    noise = random.normal(0.0, 0.2, len(durations)) * line if dataset == "iemocap" else 0.0
    return np.maximum(1, np.rint(np.maximum(line, 1) + noise)).astype(np.int64)


def stratified(workload: Workload, samples: int) -> Workload:
    """``samples`` utterances that stand for the whole set: one from each of as many equal shares by duration.

    From each share comes the utterance whose duration is nearest the share's mean, so that totals keep their size;
    order is the set's own. The whole set comes back when ``samples`` reaches its size.

    Raises:
        UsageError: fewer than one sample asked for.
    """
    if samples < 1:
        raise UsageError(f"--samples {samples} asks for nothing", "--samples takes a number from 1 up")
    if samples >= len(workload.utterances):
        return workload
    durations = np.array([u.duration for u in workload.utterances])
    weights, new = np.array(workload.weights), np.array(workload.new_shapes)
    shares = np.array_split(np.argsort(durations, kind="stable"), samples)
    chosen: dict[int, tuple[int, int]] = {}
    for share in shares:
        nearest = share[np.argmin(np.abs(durations[share] - durations[share].mean()))]
        chosen[int(nearest)] = int(weights[share].sum()), int(new[share].sum())
    order = sorted(chosen)
    return Workload(
        workload.dataset,
        workload.source,
        tuple(workload.utterances[i] for i in order),
        tuple(chosen[i][0] for i in order),
        tuple(chosen[i][1] for i in order),
        workload.total,
    )


def make_sample(utterance: Utterance) -> Sample:
    """The tensors of one synthetic utterance (see ``runtime.synthetic``)."""
    random = np.random.default_rng([SEED, utterance.index, utterance.tokens])
    return of_noise.make_sample(utterance.tokens, utterance.faces, utterance.pieces, random)


def samples(workload: Workload) -> Iterator[tuple[Utterance, Sample]]:
    """The workload's utterances with their tensors, made one at a time."""
    for utterance in workload.utterances:
        yield utterance, make_sample(utterance)
