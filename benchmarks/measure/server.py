"""The ``server`` scenario, after MLPerf: samples that arrive by chance at one worker."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mmx.benchmarks.results import Server
from mmx.benchmarks.workload.utterances import SEED
from mmx.evaluation.statistics import late_allowed
from mmx.evaluation.timing import Contender
from mmx.runtime.types import Sample

SIMULATED = 2000  # arrivals of the simulated queue
SEARCH_STEPS = 40
PLAYED = 473  # arrivals of a play: the fewest of which one may be late (see ``late_allowed``)
STEP_DOWN = 0.85  # from what the simulation promises, and after each play that was not held


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
    work = random.choice(service, SIMULATED, p=probabilities)
    steps = np.cumsum(random.exponential(1.0, SIMULATED))  # arrival times at rate 1

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
    """Play a rate below what a simulated queue promises, then lower ones, until one is held or ``seconds`` are over.

    Each play has ``PLAYED`` arrivals of its own, whatever comes of them, and a rate is held if so few are late that the
    share of late answers is at most 1 % with 95 % confidence. A play that is lost already ends there.
    """
    bound_s = bound_ms / 1e3
    promised = highest_rate(service, weights, bound_s)
    allowed = late_allowed(PLAYED)
    rate, spent, turn = promised * STEP_DOWN, 0.0, 1
    found = Server(bound_ms, 0.0, promised)
    while rate and (needed := PLAYED / rate) <= seconds - spent:
        played = _play(contender, samples, weights, rate, bound_s, allowed, SEED + turn)
        late = int((played > bound_s).sum())
        held = late <= allowed
        found = Server(
            bound_ms, rate if held else 0.0, promised, played.size, float(np.percentile(played, 99) * 1e3), late
        )
        if held:
            return found
        spent += played.size / rate
        rate *= STEP_DOWN
        turn += 1
    return replace(found, needed_s=needed if rate else 0.0)


def _play(
    contender: Contender,
    samples: Sequence[Sample],
    weights: Sequence[int],
    rate: float,
    bound_s: float,
    allowed: int,
    seed: int,
) -> NDArray[np.float64]:
    """Seconds from arrival to answer of arrivals at ``rate``, in real time, up to the first late one too many."""
    random = np.random.default_rng(seed)
    due = np.cumsum(random.exponential(1 / rate, PLAYED))
    picks = random.choice(len(samples), PLAYED, p=np.asarray(weights) / np.sum(weights))
    latencies: list[float] = []
    late = 0
    start = time.perf_counter()
    for arrival, pick in zip(due.tolist(), picks.tolist(), strict=True):
        if (early := start + arrival - time.perf_counter()) > 0:
            time.sleep(early)
        contender.run([samples[pick]])
        latencies.append(time.perf_counter() - start - arrival)
        late += latencies[-1] > bound_s
        if late > allowed:
            break
    return np.array(latencies)
