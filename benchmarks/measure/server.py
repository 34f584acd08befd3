"""The ``server`` scenario, after MLPerf: samples that arrive by chance at one worker."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mmx.benchmarks.results import Server
from mmx.benchmarks.workload.utterances import SEED
from mmx.evaluation.timing import Contender
from mmx.runtime.types import Sample

ARRIVALS = 2000  # of the simulated queue
SEARCH_STEPS = 40
PLAYS, STEP_DOWN = 6, 0.8


def queue_latencies(arrivals: NDArray[np.float64], service: NDArray[np.float64]) -> NDArray[np.float64]:
    """Seconds from arrival to answer at one worker, first come first served (Lindley's recursion)."""
    latencies = np.empty_like(arrivals)
    free = 0.0
    for i, (arrival, work) in enumerate(zip(arrivals, service, strict=True)):
        free = max(free, arrival) + work
        latencies[i] = free - arrival
    return latencies


def highest_rate(service: NDArray[np.float64], weights: Sequence[int], bound_s: float) -> float:
    """The highest Poisson rate at which p99 latency stays under ``bound_s``, by bisection over one simulated queue.

    Args:
        service: measured seconds for each sample. weights: how many of the set each stands for.
    """
    random = np.random.default_rng(SEED)
    probabilities = np.asarray(weights) / np.sum(weights)
    work = random.choice(service, ARRIVALS, p=probabilities)
    steps = np.cumsum(random.exponential(1.0, ARRIVALS))  # arrival times at rate 1

    def p99(rate: float) -> float:
        return float(np.percentile(queue_latencies(steps / rate, work), 99))

    low, high = 0.0, 1.0 / float(work.mean())
    if p99(high * 1e-4) > bound_s:
        return 0.0
    for _ in range(SEARCH_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if p99(middle) <= bound_s else (low, middle)
    return low


def server(
    contender: Contender,
    samples: Sequence[Sample],
    service: NDArray[np.float64],
    weights: Sequence[int],
    bound_ms: float,
    seconds: float,
) -> Server:
    """Find the highest rate on a simulated queue, then play it for ``seconds``, lowering it until the bound is kept."""
    promised = highest_rate(service, weights, bound_ms / 1e3)
    rate, played = promised, np.zeros(0)
    for _ in range(PLAYS if promised else 0):
        played = _play(contender, samples, weights, rate, seconds)
        if np.percentile(played, 99) <= bound_ms / 1e3:
            break
        rate *= STEP_DOWN
    else:
        rate = 0.0
    p99_ms = float(np.percentile(played, 99) * 1e3) if played.size else 0.0
    return Server(bound_ms, rate, promised, played.size, p99_ms)


def _play(
    contender: Contender, samples: Sequence[Sample], weights: Sequence[int], rate: float, seconds: float
) -> NDArray[np.float64]:
    """Seconds from arrival to answer of arrivals at ``rate``, in real time."""
    random = np.random.default_rng(SEED + 1)
    gaps = random.exponential(1 / rate, max(1, round(rate * seconds)))
    picks = random.choice(len(samples), len(gaps), p=np.asarray(weights) / np.sum(weights))
    latencies = np.empty(len(gaps))
    start = time.perf_counter()
    for i, (due, pick) in enumerate(zip(np.cumsum(gaps), picks, strict=True)):
        if (early := start + due - time.perf_counter()) > 0:
            time.sleep(early)
        contender.run([samples[pick]])
        latencies[i] = time.perf_counter() - start - due
    return latencies
