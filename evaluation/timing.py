"""Timing side by side: every contender runs every sample, in an order that a drifting machine cannot favour."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

# A contender quicker than this sees each sample once untimed before its timed run: an engine may prepare itself for a
# shape it meets for the first time. For slower ones that is lost in the run and would double the bench's time.
SHAPE_WARM_UP_BELOW_S = 0.5
STABLE_WITHIN = 0.1
WARM_UP_RUNS = (2, 8)  # at least, at most
WARM_UP_S = 20.0


class Contender(Protocol):
    """One way to run one system: samples in (tensors, or video clips), fused logits [samples, labels] out.

    ``key`` names it in reports: ``system/runner/precision``, the runner a backend of mmx or a peer.
    """

    key: str

    def run(self, samples: Sequence[Any]) -> NDArray[np.float32]: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Timings:
    """What interleaving measured of one contender.

    Attributes:
        seconds: float64 [samples, passes].
        first_sight: float64 [samples], the untimed runs (empty where there were none).
        logits: float32 [samples, labels], of the last pass.
    """

    seconds: NDArray[np.float64]
    first_sight: NDArray[np.float64]
    logits: NDArray[np.float32]


def timed(contender: Contender, samples: Sequence[Any]) -> tuple[float, NDArray[np.float32]]:
    """Seconds that one run takes, and its logits."""
    start = time.perf_counter()
    logits = contender.run(samples)
    return time.perf_counter() - start, logits


def warm_up(contender: Contender, sample: Any) -> float:
    """Run one sample until two runs in a row agree within 10 % (or the limits are reached); seconds of the last run."""
    least, most = WARM_UP_RUNS
    began = time.perf_counter()
    before, _ = timed(contender, [sample])
    for run in range(1, most):
        now, _ = timed(contender, [sample])
        steady = abs(now - before) <= STABLE_WITHIN * before
        before = now
        if (steady and run + 1 >= least) or time.perf_counter() - began > WARM_UP_S:
            break
    return before


def interleave(
    contenders: Sequence[Contender],
    samples: Sequence[Callable[[], Any]],
    passes: int,
    costs: dict[str, float],
    progress: Callable[[int], None] | None = None,
) -> dict[str, Timings]:
    """Time every contender on every sample, batch 1.

    The order alternates (A B C, C B A, A B C...), so that over two runs every contender has the same mean position in
    time: the ratio of two of them does not depend on a steady drift of the machine's speed.

    Args:
        contenders: warmed up. samples: one maker for each sample; it is made once, used by all, and dropped.
        passes: timed runs of each sample, at least 1.
        costs: seconds a run takes, by key (from ``warm_up``).
        progress: called with the number of samples done.
    """
    count = len(samples)
    seconds = {c.key: np.zeros((count, passes)) for c in contenders}
    first = {c.key: np.zeros(count) for c in contenders if costs[c.key] < SHAPE_WARM_UP_BELOW_S}
    logits: dict[str, list[NDArray[np.float32]]] = {c.key: [] for c in contenders}
    turns = 0
    for i, make in enumerate(samples):
        sample = [make()]
        for contender in contenders:
            if contender.key in first:
                first[contender.key][i], _ = timed(contender, sample)
        gc.collect()
        for turn in range(passes):
            for contender in contenders if turns % 2 == 0 else reversed(contenders):
                seconds[contender.key][i, turn], answer = timed(contender, sample)
                if turn == passes - 1:
                    logits[contender.key].append(answer[0])
            turns += 1
        if progress:
            progress(i + 1)
    return {c.key: Timings(seconds[c.key], first.get(c.key, np.zeros(0)), np.stack(logits[c.key])) for c in contenders}


def clock(work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
