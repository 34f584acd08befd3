"""The ``offline`` scenario, after MLPerf: all samples are available; the contender batches them as suits it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmx.benchmarks.measure.parity import agrees, parity
from mmx.benchmarks.results import Offline
from mmx.evaluation.statistics import total_speedup
from mmx.evaluation.timing import Contender, timed
from mmx.runtime.types import Sample

BATCHES = (1, 2, 4, 8, 16)
GROUP = max(BATCHES)  # samples that every batch size runs before the next group
REPEATS = 2


def offline(
    contender: Contender,
    samples: Sequence[Sample],
    batches: Sequence[int] = BATCHES,
    rival: Contender | None = None,
) -> Offline:
    """Throughput by batch size, batches of samples of like size.

    Samples go in groups of ``GROUP`` in order of size. Each group is run by each batch size forth and back (1 2 4, 4 2
    1), so that a change of the machine's speed favours none. ``rival`` runs the largest batches in the same turns.
    """
    runs = [(contender, size) for size in batches] + ([(rival, max(batches))] if rival else [])
    return _found(runs, *interleaved(runs, sorted(samples, key=lambda sample: len(sample.pieces))))


def interleaved(
    runs: Sequence[tuple[Contender, int]], samples: Sequence[Any], group: int = GROUP, repeats: int = REPEATS
) -> tuple[NDArray[np.float64], list[NDArray[np.float32]]]:
    """Run all samples, in their order, by each contender in batches of its size; each group ``repeats`` times.

    Returns:
        Seconds [runs, turns], and the logits [samples, labels] of each run.
    """
    groups = [samples[start : start + group] for start in range(0, len(samples), group)]
    seconds = np.zeros((len(runs), len(groups), repeats))
    answers: list[list[NDArray[np.float32]]] = [[] for _ in runs]
    for g, some in enumerate(groups):
        for repeat in range(repeats):
            order = range(len(runs)) if repeat % 2 == 0 else reversed(range(len(runs)))
            for i in order:
                who, size = runs[i]
                for start in range(0, len(some), size):
                    took, logits = timed(who, some[start : start + size])
                    seconds[i, g, repeat] += took
                    if repeat == 0:
                        answers[i].append(logits)
    return seconds.reshape(len(runs), -1), [np.concatenate(each) for each in answers]


def _found(
    runs: Sequence[tuple[Contender, int]], seconds: NDArray[np.float64], answers: list[NDArray[np.float32]]
) -> Offline:
    """From the seconds [runs, turns] and logits [samples, labels] of each run to the result."""
    contender, count = runs[0][0], len(answers[0])
    precision = contender.key.split("/")[2]
    right = [agrees(precision, *parity(each, answers[0])) for each in answers]
    mine = [i for i, (who, _) in enumerate(runs) if who is contender and right[i]]
    rates = {runs[i][1]: REPEATS * count / float(seconds[i].sum()) for i in mine}
    best = min(mine, key=lambda i: float(seconds[i].sum()))
    turns = np.ones(seconds.shape[1], np.int64).tolist()
    versus = None
    if runs[-1][0] is not contender and right[-1] and len(runs) - 2 in mine:
        versus = total_speedup(seconds[-1], seconds[-2], turns)
    gain = total_speedup(seconds[0], seconds[best], turns)
    return Offline(rates, runs[best][1], gain, versus, samples=count)
