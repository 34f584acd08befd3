"""The measurement that everything else refers to: every contender, one sample at a time, interleaved."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmx.benchmarks.contenders.opening import Opened
from mmx.benchmarks.measure.parity import FP32_TOLERANCE, agrees, parity
from mmx.benchmarks.results import BASELINE, EAGER, OK, PARITY_FAILED, Row
from mmx.benchmarks.workload.utterances import Workload, stratified
from mmx.evaluation.scores import MAX_SHIFT
from mmx.evaluation.statistics import latency, speedup, total_speedup
from mmx.evaluation.timing import Timings, interleave, warm_up

FEWEST, MOST = 5, 64  # samples, when their number follows from the time there is

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Measured:
    """What ``measure`` found.

    Attributes:
        workload: the part of it that was run. timings: by contender. rows: one for each.
        costs: seconds of a sample of average length, by contender.
    """

    workload: Workload
    timings: dict[str, Timings]
    rows: list[Row]
    costs: dict[str, float]


def measure(
    opened: Sequence[Opened],
    whole: Workload,
    make: Callable[[int], Any],
    *,
    threads: int,
    samples: int | None,
    passes: int,
    seconds: float,
    progress: Progress,
    known: Mapping[str, float] | None = None,
) -> Measured:
    """Warm every contender up, choose how many samples fit in ``seconds`` (unless given), and time them all.

    Args:
        opened: an eager contender for each system, and any others. whole: the set. make: an utterance's sample, by
            index.
        progress: called with how many samples of how many are done.
        known: seconds of a sample of average length, by key, of contenders that are warm already.
    """
    contenders = [each.contender for each in opened]
    middle = stratified(whole, 1).utterances[0]
    sample = make(middle.index)
    began = time.perf_counter()
    costs = dict(known or {})
    costs |= {each.key: warm_up(each, sample) for each in contenders if each.key not in costs}
    seconds -= time.perf_counter() - began
    part = stratified(whole, samples or affordable(list(costs.values()), passes, seconds))
    count = len(part.utterances)
    progress(0, count)
    makers = [lambda index=u.index: make(index) for u in part.utterances]
    timings = interleave(contenders, makers, passes, lambda done: progress(done, count))
    shapes = [middle.shape, *(utterance.shape for utterance in part.utterances)]
    fresh = np.array([shape not in shapes[:i] for i, shape in enumerate(shapes)][1:])
    in_order = {key: _in_order(each, part, fresh) for key, each in timings.items()}
    rows = [_row(each, timings, in_order, part, threads) for each in opened]
    return Measured(part, timings, rows, costs)


def affordable(costs: Sequence[float], passes: int, seconds: float) -> int:
    """How many samples of average length fit in ``seconds``, their first visits included; within limits."""
    return int(min(MOST, max(FEWEST, seconds / (sum(costs) * (1 + passes)))))


def _row(
    each: Opened, timings: dict[str, Timings], in_order: dict[str, NDArray[np.float64]], part: Workload, threads: int
) -> Row:
    key = each.contender.key
    system, runner, precision = key.split("/")
    mine, own = timings[key], timings[f"{system}/{EAGER}/fp32"]
    error, shift = parity(mine.logits, own.logits)
    row = Row(system, runner, precision, threads, OK, error=error, shift=shift, load_s=each.load_s)
    if not agrees(precision, error, shift):
        limit = f"{FP32_TOLERANCE:.0e} relative" if precision == "fp32" else f"{MAX_SHIFT} of a probability"
        reason = f"its logits are off by {error:.1e} (relative), a probability by {shift:.3f}; {limit} is allowed"
        return replace(row, status=PARITY_FAILED, reason=reason)
    per_sample = mine.seconds.mean(axis=1)
    total = part.extrapolate(per_sample)
    baseline = timings.get(BASELINE)
    return replace(
        row,
        latency=latency(mine.seconds),
        first_sight_ms=float(np.median(mine.first_sight) * 1e3),
        set_seconds=total,
        realtime=part.seconds / total,
        vs_baseline=total_speedup(baseline.seconds, mine.seconds, part.weights) if baseline else None,
        vs_own=total_speedup(own.seconds, mine.seconds, part.weights),
        median_vs_baseline=speedup(baseline.seconds, mine.seconds) if baseline else None,
        in_order_seconds=part.extrapolate(in_order[key]),
        in_order_vs_baseline=total_speedup(in_order[BASELINE], in_order[key], part.weights) if baseline else None,
        in_order_vs_own=total_speedup(in_order[f"{system}/{EAGER}/fp32"], in_order[key], part.weights),
        points=tuple((u.duration, s * 1e3) for u, s in zip(part.utterances, per_sample.tolist(), strict=True)),
    )


def _in_order(timings: Timings, part: Workload, fresh: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean seconds [samples] of the utterances that each stands for when the set runs in its own order, each once.

    A sample whose shape was not ``fresh`` had no first visit: it is taken to cost as much more as the others' did.
    """
    first, later = timings.first_sight, timings.seconds.mean(axis=1)
    if fresh.any():
        first = np.where(fresh, first, later * (first[fresh].sum() / later[fresh].sum()))
    new = np.array(part.new_shapes) / np.array(part.weights)
    return new * first + (1 - new) * later
