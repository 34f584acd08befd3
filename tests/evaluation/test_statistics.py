"""Ratios and their intervals, against timings whose true ratio is known."""

import numpy as np
import pytest
from scipy.stats import binomtest

from mmx.benchmarks.measure.server import highest_rate, queue_latencies
from mmx.evaluation.statistics import late_allowed, latency, speedup, total_speedup


def test_nothing_is_clipped():
    seen = latency([0.001] * 98 + [0.002, 5.0])
    assert seen.largest == 5000.0
    assert seen.mean == pytest.approx((98 + 2 + 5000) / 100)
    assert seen.p50 == pytest.approx(1.0)
    assert seen.count == 100


SHAPES = {
    # Utterances whose lengths differ far more than the ratio does.
    "in proportion": lambda random, n: (3.0, 1.0, random.lognormal(0, 0.8, n), 0.2, 0.0),
    # What does not depend on the length: the ratio differs from utterance to utterance.
    "fixed part": lambda random, n: (3.0, 1.0, 0.2 + random.lognormal(0, 0.8, n), 0.1, 0.3),
    "spikes": lambda random, n: (3.0, 1.0, random.lognormal(0, 0.8, n), 0.05, 0.0),
}


def simulated(shape: str, random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of two contenders on ``n`` samples."""
    slow, fast, size, noise, fixed = SHAPES[shape](random, n)
    seconds = [rate * (size + extra) * random.lognormal(0, noise, n) for rate, extra in ((slow, fixed), (fast, 0.0))]
    if shape == "spikes":
        seconds = [each * np.where(random.random(n) < 0.05, 2.5, 1.0) for each in seconds]
    return seconds[0], seconds[1]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [5, 8, 14])
def test_intervals_hold_the_true_ratio_as_often_as_they_say(shape: str, n: int) -> None:
    """At the numbers of samples that short runs have; a bootstrap's 95 % intervals hold it in 79 to 93 of 100."""
    slow, fast = simulated(shape, np.random.default_rng(0), 1_000_000)
    of_totals, of_median = slow.sum() / fast.sum(), np.median(slow / fast)
    random = np.random.default_rng(n)
    held = np.zeros(2)
    runs = 500
    for _ in range(runs):
        slow, fast = simulated(shape, random, n)
        for i, (true, ratio) in enumerate(
            ((of_totals, total_speedup(slow, fast, [1] * n)), (of_median, speedup(slow, fast)))
        ):
            assert ratio.low <= ratio.median <= ratio.high
            held[i] += ratio.low <= true <= ratio.high
    nominal = np.array([0.95, 0.95 if n > 5 else 1 - 2 * 0.5**5])  # of 5 samples, no interval by rank holds it oftener
    three_errors = 3 * np.sqrt(nominal * (1 - nominal) / runs)
    assert (held / runs >= nominal - three_errors).all(), held / runs


def test_one_sample_says_nothing_of_the_others() -> None:
    ratio = total_speedup([3.0], [1.0], [1])
    assert (ratio.median, ratio.low, ratio.high) == (3.0, 0.0, np.inf)


def test_equal_ratios_leave_no_doubt() -> None:
    for ratio in (speedup([2.0] * 9, [1.0] * 9), total_speedup([2.0] * 9, [1.0] * 9, [1] * 9)):
        assert (ratio.low, ratio.median, ratio.high) == pytest.approx((2.0, 2.0, 2.0))


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


@pytest.mark.parametrize("count", [1, 298, 299, 472, 473, 1000, 5000])
def test_late_answers_allowed_against_scipys_own_bound(count):
    allowed = late_allowed(count)

    def most(late):
        return binomtest(late, count, alternative="less").proportion_ci(0.95, method="exact").high

    assert allowed == -1 or most(allowed) <= 0.01
    assert most(allowed + 1) > 0.01
