"""What is said of a list of timings: percentiles, and the ratio of two interleaved lists with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000
CONFIDENCE = 0.95
SEED = 7


@dataclass(frozen=True)
class Latency:
    """Milliseconds: mean and percentiles of every timing there is; nothing is left out as an outlier."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    smallest: float
    largest: float
    count: int


@dataclass(frozen=True)
class Ratio:
    """How many times faster: the median over samples, and its bootstrap interval (95 %)."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        digits = 1 if self.median >= 10 else 2
        return f"{self.median:.{digits}f}x [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def latency(seconds: ArrayLike) -> Latency:
    """Summary of timings in seconds, of any shape."""
    ms = np.asarray(seconds, np.float64).ravel() * 1e3
    if not ms.size:
        raise ValueError("no timings to summarise")
    p50, p90, p95, p99 = np.percentile(ms, [50, 90, 95, 99])
    return Latency(
        mean=float(ms.mean()),
        p50=float(p50),
        p90=float(p90),
        p95=float(p95),
        p99=float(p99),
        smallest=float(ms.min()),
        largest=float(ms.max()),
        count=ms.size,
    )


def speedup(slow: ArrayLike, fast: ArrayLike) -> Ratio:
    """How many times faster ``fast`` is than ``slow``, from timings of the same samples taken side by side.

    Args:
        slow, fast: seconds [samples] or [samples, passes], in the same order of samples.

    Returns:
        The median over samples of slow / fast (each a sample's mean over passes), with the percentile-bootstrap
        interval over samples.
    """
    ratios = _by_sample(slow) / _by_sample(fast)
    return Ratio(float(np.median(ratios)), *bootstrap(ratios))


def total_speedup(slow: ArrayLike, fast: ArrayLike, weights: Sequence[int]) -> Ratio:
    """How many times less time the whole set takes: ratio of weighted sums, bootstrapped over samples."""
    a, b, w = _by_sample(slow), _by_sample(fast), np.asarray(weights, np.float64)
    drawn = _draws(len(a))
    ratios = (w * a)[drawn].sum(1) / (w * b)[drawn].sum(1)
    low, high = np.percentile(ratios, _tails())
    return Ratio(float((w * a).sum() / (w * b).sum()), float(low), float(high))


def chained(first: Ratio, second: Ratio) -> Ratio:
    """The product of two ratios measured apart: A over B, B over C. Their intervals add up as independent errors do."""
    median = first.median * second.median

    def off(a: float, b: float) -> float:
        return math.hypot(math.log(a / first.median), math.log(b / second.median))

    low, high = off(first.low, second.low), off(first.high, second.high)
    return Ratio(median, median * math.exp(-low), median * math.exp(high))


def bootstrap(values: NDArray[np.float64]) -> tuple[float, float]:
    """Percentile-bootstrap interval of the median of ``values`` [n]."""
    medians = np.median(values[_draws(len(values))], axis=1)
    low, high = np.percentile(medians, _tails())
    return float(low), float(high)


def _draws(n: int) -> NDArray[np.int64]:
    return np.random.default_rng(SEED).integers(0, n, (RESAMPLES, n))


def _tails() -> tuple[float, float]:
    return 50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)


def _by_sample(seconds: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(seconds, np.float64)
    return values.mean(axis=1) if values.ndim == 2 else values
