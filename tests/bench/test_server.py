"""The server scenario on a clock of its own: a rate is claimed only where a long enough play holds it."""

from dataclasses import replace

import numpy as np
import pytest

from mmx.benchmarks.measure import server as scenario
from mmx.benchmarks.measure.server import PLAYED, STEP_DOWN, server
from mmx.benchmarks.reports.tables import tables

SERVICE_S, BOUND_MS = 0.02, 200.0


class Clock:
    """Time passes where somebody sleeps or works."""

    now = 0.0

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Worker:
    """Answers after so many seconds; slower than it was measured by ``times`` in its first ``slow`` answers."""

    key = "ours/onnxruntime/fp32"

    def __init__(self, clock, slow=0, times=1.0):
        self.clock, self.slow, self.times, self.answered = clock, slow, times, 0

    def run(self, samples):
        self.clock.now += SERVICE_S * (self.times if self.answered < self.slow else 1.0)
        self.answered += 1
        return np.zeros((1, 1), np.float32)

    def close(self):
        pass


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(scenario, "time", found)
    return found


def serve(worker, seconds=1e3):
    return server(worker, ["a", "b"], np.full(2, SERVICE_S), [1, 1], BOUND_MS, seconds)


def test_a_rate_that_is_held_is_played_whole(clock):
    found = serve(Worker(clock))
    assert found.arrivals == PLAYED
    assert found.late <= 1
    assert found.rate <= found.simulated_rate * STEP_DOWN < 1 / SERVICE_S
    assert found.rate > 0.5 / SERVICE_S
    assert found.p99_ms <= BOUND_MS
    assert clock.now == pytest.approx(PLAYED / found.rate, rel=0.2)


def test_late_answers_end_a_play_and_lower_the_rate(clock):
    worker = Worker(clock, slow=20, times=5.0)
    found = serve(worker)
    assert 0 < found.rate < serve(Worker(clock)).rate
    assert PLAYED < worker.answered < 2 * PLAYED  # the first play ended early


def test_a_server_that_is_slower_than_measured_holds_nothing_and_no_rate_is_claimed(clock):
    found = serve(Worker(clock, slow=10**9, times=12.0), seconds=300)
    assert found.rate == 0
    assert found.late == 2  # one more than may be
    assert found.needed_s > 0


def test_without_the_time_for_a_play_nothing_is_claimed(clock, make_report):
    found = serve(Worker(clock), seconds=5)
    assert (found.rate, found.arrivals) == (0, 0)
    assert found.needed_s == pytest.approx(PLAYED / (found.simulated_rate * STEP_DOWN))
    report = replace(make_report(), server={"ours/onnxruntime/fp32": found})
    table = next(each for each in tables(report) if each.title.startswith("Server"))
    assert table.rows[0][1] == "not shown"
    assert f"{found.needed_s:.0f} s" in table.notes[-1]
