"""Timing side by side: every contender runs every sample, in an order that a drifting machine cannot favour."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.network import Network

STABLE_WITHIN = 0.1
WARM_UP_RUNS = (2, 8)  # at least, at most
WARM_UP_S = 20.0
FEWEST_TIMED = 6


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
        first_sight: float64 [samples], the run before those, in which an engine may prepare itself for a new shape.
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
    progress: Callable[[int], None] | None = None,
) -> dict[str, Timings]:
    """Time every contender on every sample, batch 1: a first visit, then ``passes`` more.

    The order alternates (A B C, C B A, A B C...), so that over two runs every contender has the same mean position in
    time: the ratio of two of them does not depend on a steady drift of the machine's speed.

    Args:
        contenders: warmed up. samples: one maker for each sample; it is made once, used by all, and dropped.
        passes: runs of each sample after the first, at least 1.
        progress: called with the number of samples done.
    """
    count = len(samples)
    seconds = {c.key: np.zeros((count, 1 + passes)) for c in contenders}
    logits: dict[str, list[NDArray[np.float32]]] = {c.key: [] for c in contenders}
    for i, make in enumerate(samples):
        sample = [make()]
        gc.collect()
        for visit in range(1 + passes):
            # The first visits alternate among themselves, as the later ones do.
            turn = i if visit == 0 else i * passes + visit - 1
            for contender in contenders if turn % 2 == 0 else reversed(contenders):
                seconds[contender.key][i, visit], answer = timed(contender, sample)
                if visit == passes:
                    logits[contender.key].append(answer[0])
        if progress:
            progress(i + 1)
    return {key: Timings(each[:, 1:], each[:, 0], np.stack(logits[key])) for key, each in seconds.items()}


class Timeable:
    """A network as a contender: its fused logits, which it closes."""

    def __init__(self, key: str, network: Network) -> None:
        self.key = key
        self._network = network

    def run(self, samples: Sequence[Any]) -> NDArray[np.float32]:
        """The graph's fused logits."""
        return self._network.outputs(samples)["logits"]

    def close(self) -> None:
        """Give the backend's memory back."""
        self._network.close()


def interleave_for(
    seconds: float, contenders: Sequence[Contender], samples: Sequence[Any], passes: int
) -> dict[str, Timings]:
    """``interleave``, after a warm-up, on as many of ``samples`` as fit in so many seconds, evenly chosen.

    A slow system is timed on fewer samples, though on ``FEWEST_TIMED`` at least.
    """
    cost = sum(warm_up(each, samples[0]) for each in contenders)
    count = min(len(samples), max(FEWEST_TIMED, int(seconds / ((1 + passes) * cost))))
    places = np.linspace(0, len(samples) - 1, count).round().astype(int)
    makers: list[Callable[[], Any]] = [lambda s=samples[i]: s for i in places]  # type: ignore[misc]
    return interleave(contenders, makers, passes)


def clock(work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
