"""Which way of running a bundle is the fastest on this machine, of those that answer as well as FP32 does.

Every candidate takes turns with the reference (ONNX Runtime in FP32, as the machine's cores would be used without a
choice), so that a busy moment hits both, and is ranked by how many times faster it is. Backends and precisions come
first; the best of them then tries other ways of sharing the cores and, for throughput, other batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from mmx.evaluation.scores import MAX_SHIFT, decisions, flips, largest_shift, scorecard
from mmx.evaluation.statistics import Ratio, speedup
from mmx.evaluation.timing import FEWEST_TIMED, Timeable, interleave_for
from mmx.runtime.backends import MOST_STREAMS, NAMES
from mmx.runtime.backends.choice import Choice, Goal
from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import EnvironmentMissing, MmxError
from mmx.runtime.network import Network
from mmx.runtime.precisions import precisions
from mmx.runtime.types import Sample

REFERENCE = "onnxruntime"
BATCH_SIZE = 4  # of throughput, without a choice
BATCH_SIZES = (1, 8, 16)  # the others that are tried
PASSES = 5
SECONDS = 12.0  # of turns for one candidate

Open = Callable[["Candidate"], AbstractContextManager[Network]]
Say = Callable[[str, int, int], None]
Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Candidate:
    """A way of running a bundle: ``streams`` copies of ``threads`` CPU threads, up to ``batch_size`` utterances."""

    backend: str
    precision: str
    streams: int
    threads: int
    batch_size: int

    def __str__(self) -> str:
        batches = f", batches of {self.batch_size}" if self.batch_size > 1 else ""
        return f"{self.backend} {self.precision}, {self.streams} x {self.threads} threads{batches}"


@dataclass(frozen=True)
class Loss:
    """What a candidate's answers cost beside the reference's.

    Attributes:
        f1, accuracy: points lost of the mean over labels; None without labels.
        shift: the largest change of a probability, 0..1. flips: labels that changed, of ``decisions``.
    """

    f1: float | None
    accuracy: float | None
    shift: float
    flips: int
    decisions: int

    def problem(self, max_loss: float) -> str | None:
        """Why it is too much; None where it is not. ``max_loss``: points, where there are labels."""
        for name, points in (("F1", self.f1), ("accuracy", self.accuracy)):
            if points is not None and points > max_loss:
                return f"loses {points:.2f} points of {name}; {max_loss:g} may go"
        if self.f1 is None and self.shift > MAX_SHIFT:
            return f"moves a probability by {self.shift:.3f}; {MAX_SHIFT} may be"
        return None

    def __str__(self) -> str:
        changed = f"{self.flips} of {self.decisions} labels changed"
        if self.f1 is None or self.accuracy is None:
            return f"probabilities within {self.shift:.1e}, {changed}"
        return f"F1 {-self.f1:+.2f}, accuracy {-self.accuracy:+.2f} points, {changed}"


@dataclass(frozen=True)
class Row:
    """What was found of a candidate.

    Attributes:
        ms: milliseconds an utterance took, the median. ratio: how many times faster than the reference.
        reason: why it was chosen, or not.
    """

    candidate: Candidate
    ms: float | None
    ratio: Ratio | None
    loss: Loss | None
    reason: str


def first_candidates(bundle: Bundle, goal: Goal, cores: int, backends: Sequence[str] = NAMES) -> list[Candidate]:
    """The reference, then every other backend and precision that the bundle offers; a machine may lack some."""
    split = (1, cores) if goal == "latency" else (min(cores, MOST_STREAMS), max(1, cores // min(cores, MOST_STREAMS)))
    size = 1 if goal == "latency" else BATCH_SIZE
    pairs = [(name, each) for name in backends for each in precisions(bundle, name)]
    found = [Candidate(name, each, *split, size) for name, each in pairs]
    reference = Candidate(REFERENCE, "fp32", *split, size)
    return [reference, *(each for each in found if each != reference)]


def variations(best: Candidate, goal: Goal, cores: int) -> list[Candidate]:
    """Other ways for the best backend and precision to share the cores, and other batches."""
    splits = [(1, 1), (1, cores)] if goal == "latency" else [(cores, 1), (1, cores), (max(1, cores // 2), 2)]
    shared = [replace(best, streams=s, threads=t) for s, t in splits if s * t <= cores and s <= MOST_STREAMS]
    sizes = [replace(best, batch_size=size) for size in BATCH_SIZES] if goal == "throughput" else []
    return [each for each in dict.fromkeys([*shared, *sizes]) if each != best]


def optimize(
    bundle: Bundle,
    goal: Goal,
    samples: Sequence[Sample],
    targets: NDArray[np.int64] | None,
    max_loss: float,
    candidates: Sequence[Candidate],
    cores: int,
    open_candidate: Open,
    say: Say | None = None,
) -> list[Row]:
    """Measure every candidate, then variations of the best.

    Args:
        samples: what is timed and, with ``targets`` (int64 [samples, labels] in the bundle's order), scored.
        max_loss: points of mean F1 and of mean accuracy that may go; without targets ``MAX_SHIFT`` holds instead.
        candidates: the reference first. open_candidate: opens a network that way.

    Returns:
        The rows, the chosen one first, then from the fastest to the slowest, then what could not be had.

    Raises:
        MmxError: the reference itself cannot be run.
    """
    reference = candidates[0]
    with open_candidate(reference) as network:
        judge = _Judge(bundle, network, samples, targets)
        rows = [Row(reference, None, Ratio(1.0, 1.0, 1.0), None, "")]
        losses: dict[tuple[str, str], Loss] = {}

        def measured(each: Candidate) -> Row:
            try:
                with open_candidate(each) as other:
                    kind = (each.backend, each.precision)
                    loss = losses[kind] = losses.get(kind) or judge.loss(other)
                    own, theirs = _take_turns(network, reference, other, each, samples, goal)
            except EnvironmentMissing as e:
                return Row(each, None, None, None, f"not available: {e.message}")
            except MmxError as e:
                return Row(each, None, None, None, f"fails: {e.message}")
            if rows[0].ms is None:
                rows[0] = replace(rows[0], ms=float(np.median(own)) * 1000)
            return Row(each, float(np.median(theirs)) * 1000, speedup(own, theirs), loss, loss.problem(max_loss) or "")

        def try_all(some: Sequence[Candidate]) -> None:
            for number, each in enumerate(some, 1):
                rows.append(measured(each))
                if say:
                    say(str(each), number, len(some))

        try_all(candidates[1:])
        known = {row.candidate for row in rows}
        try_all([each for each in variations(_best(rows).candidate, goal, cores) if each not in known])
    return _ranked(rows)


def choice_of(row: Row, compared: str) -> Choice:
    """The row as it is kept."""
    each = row.candidate
    loss = "the reference" if row.loss is None else str(row.loss)
    speed = "1x" if row.loss is None else f"{row.ratio} ONNX Runtime in FP32"
    return Choice(
        each.backend, each.precision, each.streams, each.threads, each.batch_size, speed, loss, compared
    )  # fmt: skip


class _Judge:
    """Compares networks with the reference on the same samples."""

    def __init__(
        self, bundle: Bundle, reference: Network, samples: Sequence[Sample], targets: NDArray[np.int64] | None
    ) -> None:
        self._manifest, self._samples, self._targets = bundle.manifest, samples, targets
        self._exact = _fused(reference, samples)

    def loss(self, network: Network) -> Loss:
        """What a network's answers cost.

        Raises:
            BadDataError: a logit is not finite. MmxError: it fails while it runs.
        """
        found, exact, thresholds = _fused(network, self._samples), self._exact, self._manifest.thresholds
        lost: list[float | None] = [None, None]
        if self._targets is not None:
            cards = [scorecard(logits, self._targets, thresholds, self._manifest.labels) for logits in (exact, found)]
            lost = [100 * (cards[0].mean(name) - cards[1].mean(name)) for name in ("f1", "accuracy")]
        changed = flips(found, exact, thresholds)  # which says so if a logit is not finite
        return Loss(lost[0], lost[1], largest_shift(found, exact), changed, decisions(exact, thresholds).size)


def _fused(network: Network, samples: Sequence[Sample]) -> Logits:
    return np.concatenate([network.fused([sample]) for sample in samples])


def _take_turns(
    reference: Network, its: Candidate, other: Network, others: Candidate, samples: Sequence[Sample], goal: Goal
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Seconds an utterance of both: [samples, passes] one at a time, [turns] with all streams busy."""
    runs = ((reference, its), (other, others))
    if goal == "throughput":
        first = sum(_all_at_once(network, each, samples) for network, each in runs)
        turns = int(min(20, max(FEWEST_TIMED, SECONDS / (first * len(samples)))))
        seconds = np.zeros((2, turns))
        for turn in range(turns):
            for i in (0, 1) if turn % 2 == 0 else (1, 0):
                seconds[i, turn] = _all_at_once(*runs[i], samples)
        return seconds[0], seconds[1]
    timed = interleave_for(SECONDS, [Timeable("reference", reference), Timeable("other", other)], samples, PASSES)
    return timed["reference"].seconds, timed["other"].seconds


def _all_at_once(network: Network, candidate: Candidate, samples: Sequence[Sample]) -> float:
    """Seconds an utterance takes when every stream has work, batches of like lengths."""
    ordered = sorted(samples, key=lambda sample: len(sample.pieces))
    size = candidate.batch_size
    batches = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    started = perf_counter()
    with ThreadPoolExecutor(candidate.streams) as pool:
        for _ in pool.map(network.outputs, batches):
            pass
    return (perf_counter() - started) / len(samples)


def _best(rows: Sequence[Row]) -> Row:
    """The fastest that holds and is faster than the reference beyond the noise; or else the reference."""
    faster = [row for row in rows if row.ratio and row.ratio.low > 1 and not row.reason]
    return max(faster, key=lambda row: row.ratio.median if row.ratio else 0, default=rows[0])


def _ranked(rows: Sequence[Row]) -> list[Row]:
    best = _best(rows)

    def order() -> Iterator[Row]:
        yield replace(best, reason="chosen" if best.loss else "chosen: nothing is faster beyond the noise")
        others = [row for row in rows if row is not best]
        for row in sorted(others, key=lambda row: -(row.ratio.median if row.ratio else 0)):
            if row.loss is None and row.ratio:
                yield replace(row, reason="the reference")
            elif row.reason or row.ratio is None:
                yield row
            else:
                yield replace(row, reason="not faster beyond the noise" if row.ratio.low <= 1 else "slower")

    return list(order())
