"""What is said of a list of timings: percentiles, and the ratio of two interleaved lists with its interval.

Runs have 5 to 14 samples when time is short. There a bootstrap says less than it claims: of its 95 % intervals, 79 to
89 % held the true ratio of totals and 91 to 93 % the median (percentile and BCa alike, simulated with utterances whose
lengths differ as real ones do). The intervals here keep their word at these sizes; a test holds them to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

CONFIDENCE = 0.95
FEWEST_RANKED = 6  # samples; with fewer, even the interval from the smallest to the largest holds the median less often


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
    """How many times faster: the median over samples (or the ratio of totals), and its 95 % interval."""

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
        The median over samples of slow / fast (each a sample's mean over passes). The interval runs from one of these
        ratios to another, by rank, and holds the median whatever their distribution (``scipy.stats.quantile_test``).
    """
    ratios = _by_sample(slow) / _by_sample(fast)
    low, high = float(ratios.min()), float(ratios.max())
    if len(ratios) >= FEWEST_RANKED:
        low, high = stats.quantile_test(ratios, p=0.5).confidence_interval(CONFIDENCE)
    return Ratio(float(np.median(ratios)), float(low), float(high))


def total_speedup(slow: ArrayLike, fast: ArrayLike, weights: Sequence[int]) -> Ratio:
    """How many times less time the whole set takes: the ratio of weighted sums over samples.

    The interval is a jackknife's, of the logarithm, with Student's t. Its degrees of freedom fall where few samples
    make up most of the time (Satterthwaite's formula with each sample's share). One sample alone says nothing of
    others: its interval is from 0 to infinity.

    Args:
        slow, fast: as ``speedup`` takes them. weights: how many of the set each sample stands for.
    """
    a, b = _by_sample(slow) * np.asarray(weights), _by_sample(fast) * np.asarray(weights)
    ratio = float(a.sum() / b.sum())
    n = len(a)
    if n == 1:
        return Ratio(ratio, 0.0, math.inf)
    left_out = np.log((a.sum() - a) / (b.sum() - b))
    error = math.sqrt((n - 1) / n * float(((left_out - left_out.mean()) ** 2).sum()))
    shares = (a / a.sum() + b / b.sum()) ** 2
    freedom = max(1.0, float(shares.sum() ** 2 / (shares**2).sum()) - 1)
    reach = math.exp(float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error)
    return Ratio(ratio, ratio / reach, ratio * reach)


def late_allowed(count: int, share: float = 0.01) -> int:
    """How many of ``count`` answers may be late if at most ``share`` of all are to be late, with 95 % confidence.

    The one-sided Clopper-Pearson bound, as in MLPerf's early stopping. -1: so few answers show nothing (298 for 1 %).
    """
    return int(stats.binom.ppf(1 - CONFIDENCE, count, share)) - 1


def chained(first: Ratio, second: Ratio) -> Ratio:
    """The product of two ratios measured apart: A over B, B over C. Their intervals add up as independent errors do."""
    median = first.median * second.median

    def off(a: float, b: float) -> float:
        return math.hypot(math.log(a / first.median), math.log(b / second.median))

    low, high = off(first.low, second.low), off(first.high, second.high)
    return Ratio(median, median * math.exp(-low), median * math.exp(high))


def _by_sample(seconds: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(seconds, np.float64)
    return values.mean(axis=1) if values.ndim == 2 else values
