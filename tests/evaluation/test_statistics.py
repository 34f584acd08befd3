"""Ratios and their intervals, against timings whose true ratio is known."""

import numpy as np
import pytest

from mmx.benchmarks.measure.server import highest_rate, queue_latencies
from mmx.evaluation.statistics import latency, speedup, total_speedup


def test_nothing_is_clipped():
    seen = latency([0.001] * 98 + [0.002, 5.0])
    assert seen.largest == 5000.0
    assert seen.mean == pytest.approx((98 + 2 + 5000) / 100)
    assert seen.p50 == pytest.approx(1.0)
    assert seen.count == 100


def test_the_interval_covers_the_true_ratio_about_as_often_as_it_says():
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        size = random.lognormal(0, 0.8, (40, 1))  # samples differ far more than the ratio does
        slow = 3.0 * size * random.lognormal(0, 0.2, (40, 2))
        fast = 1.0 * size * random.lognormal(0, 0.2, (40, 2))
        ratio = speedup(slow, fast)
        assert ratio.low <= ratio.median <= ratio.high
        covered += ratio.low <= 3.0 <= ratio.high
    assert 180 <= covered <= 199


def test_total_speedup_weighs_samples():
    ratio = total_speedup([1.0, 10.0], [1.0, 1.0], [9, 1])
    assert ratio.median == pytest.approx(19 / 10)


def test_queue_against_a_hand_count():
    arrivals, service = np.array([0.0, 1.0, 1.5, 10.0]), np.array([2.0, 1.0, 1.0, 0.5])
    assert queue_latencies(arrivals, service) == pytest.approx([2.0, 2.0, 2.5, 0.5])


def test_highest_rate_of_constant_service_agrees_with_queueing_theory():
    service = np.full(10, 0.1)
    rate = highest_rate(service, [1] * 10, bound_s=0.5)
    assert 0.4 < rate * 0.1 < 0.85  # M/D/1 with p99 at five service times lies near 0.65 of its capacity
    random = np.random.default_rng(99)  # another draw of arrivals keeps the bound, within the noise of a p99
    arrivals = np.cumsum(random.exponential(1 / rate, 20000))
    assert np.percentile(queue_latencies(arrivals, np.full(20000, 0.1)), 99) == pytest.approx(0.5, rel=0.3)
    assert highest_rate(service, [1] * 10, bound_s=0.05) == 0.0
