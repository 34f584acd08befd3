"""Contenders take turns fairly, warm up, and lose their speed when their answers are wrong."""

from types import SimpleNamespace

import numpy as np
import pytest

from mmx.benchmarks.contenders.opening import Opened, open_contenders
from mmx.benchmarks.measure.single_stream import FEWEST, affordable, measure
from mmx.benchmarks.results import BASELINE, OK, PARITY_FAILED, UNAVAILABLE
from mmx.benchmarks.workload.utterances import make_sample, synthetic
from mmx.evaluation import timing
from mmx.evaluation.timing import interleave, warm_up
from mmx.runtime.errors import EnvironmentMissing
from mmx.runtime.types import Sample


class Clock:
    """Shows the time that the fakes below say they take: a real one would show how busy the machine is."""

    now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    monkeypatch.setattr(timing, "gc", SimpleNamespace(collect=lambda: None))  # which takes as long as torch is large
    monkeypatch.setattr(Fake, "clock", clock)


class Fake:
    """Answers with the sample's size plus an error, after a while."""

    clock = Clock()

    def __init__(self, key, log, wait=0.0, error=0.0):
        self.key, self.log, self.wait, self.error = key, log, wait, error

    def run(self, samples):
        self.log.append(self.key)
        self.clock.now += self.wait * len(samples[0].pieces)
        return np.array([[len(s.pieces) / 10 + self.error, 1.0] for s in samples], np.float32)

    def close(self):
        pass


def samples(count):
    return [lambda u=u: make_sample(u) for u in synthetic("iemocap").utterances[:count]]


def test_every_contender_has_the_same_mean_place_in_time():
    log = []
    contenders = [Fake(key, log) for key in "abc"]
    timings = interleave(contenders, samples(4), 1)
    assert log == list("abcabc" + "cbacba") * 2  # of each sample a first visit and a timed run
    assert timings["a"].seconds.shape == (4, 1)
    assert timings["a"].first_sight.shape == (4,)
    assert timings["a"].logits.shape == (4, 2)


def test_a_first_visit_is_kept_apart():
    class Preparing(Fake):
        def run(self, samples):
            new = self.key not in self.log
            self.clock.now += 5.0 if new else 0.0
            return super().run(samples)

    log = []
    timings = interleave([Preparing("a", log), Preparing("b", log)], samples(2), 2)
    assert log == ["a", "b", "a", "b", "b", "a", "b", "a", "a", "b", "b", "a"]
    assert timings["b"].first_sight == pytest.approx([5.0, 0.0])
    assert timings["b"].seconds == pytest.approx(np.zeros((2, 2)))


def test_in_the_sets_order_a_shape_costs_a_first_visit_once():
    """Against a run of the whole set, one utterance after another."""

    class Preparing(Fake):
        def __init__(self, key, log, first):
            super().__init__(key, log, wait=1e-3)
            self.first, self.seen = first, set()

        def run(self, samples):
            sample = samples[0]
            shape = len(sample.faces), len(sample.pieces), len(sample.token_ids)
            self.clock.now += self.first * (shape not in self.seen)
            self.seen.add(shape)
            return super().run(samples)

    def fakes():
        return [Preparing(BASELINE, [], 0.0), Preparing("v2em/onnxruntime/fp32", [], 0.5)]

    def make(index):
        utterance = whole.utterances[index]
        return Sample(
            np.zeros((utterance.faces, 1), np.float32), np.zeros((utterance.pieces, 1), np.float32),
            np.zeros(utterance.tokens, np.int64),
        )  # fmt: skip

    whole = synthetic("iemocap")
    true = {}
    for fake in fakes():
        began = fake.clock.now
        for index in range(whole.total):
            fake.run([make(index)])
        true[fake.key] = fake.clock.now - began
    measured = measure(
        [Opened(fake, 1.0) for fake in fakes()], whole, make, threads=1, samples=64, passes=1, seconds=1,
        progress=lambda done, total: None,
    )  # fmt: skip
    base, mine = measured.rows
    assert mine.in_order_seconds == pytest.approx(true[mine.key], rel=0.02)
    assert mine.in_order_vs_baseline.median == pytest.approx(true[base.key] / true[mine.key], rel=0.02)
    assert mine.vs_baseline.median == pytest.approx(1.0)
    assert mine.first_sight_ms > 500


def test_warm_up_waits_until_runs_agree():
    class Settling(Fake):
        def run(self, samples):
            self.wait = max(0.02, 0.1 - 0.03 * len(self.log)) / len(samples[0].pieces)
            return super().run(samples)

    log = []
    seconds = warm_up(Settling("x", log), samples(1)[0]())
    assert len(log) >= 5
    assert seconds == pytest.approx(0.02)


def test_a_wrong_answer_blanks_the_speed_and_a_right_one_is_rated():
    log = []
    fakes = [
        Fake(BASELINE, log, wait=2e-3),
        Fake("v2em/onnxruntime/fp32", log, wait=1e-3),
        Fake("v2em/openvino/fp32", log, wait=1e-5, error=0.01),
        Fake("v2em/openvino/bf16", log, wait=1e-3, error=0.01),
        Fake("v2em/openvino/int8", log, wait=1e-5, error=float("nan")),
    ]
    whole = synthetic("iemocap")
    measured = measure(
        [Opened(fake, 1.0) for fake in fakes],
        whole,
        lambda index: make_sample(whole.utterances[index]),
        threads=1,
        samples=8,
        passes=1,
        seconds=60,
        progress=lambda done, total: None,
    )
    base, right, wrong, reduced, broken = measured.rows
    assert (base.status, right.status, reduced.status) == (OK, OK, OK)
    assert wrong.status == broken.status == PARITY_FAILED
    assert wrong.latency is wrong.set_seconds is wrong.vs_baseline is None
    assert wrong.points == ()
    assert right.vs_baseline.median == pytest.approx(2.0)
    assert right.set_seconds == pytest.approx(1e-3 * sum(u.pieces for u in whole.utterances), rel=0.2)
    assert right.realtime == pytest.approx(measured.workload.seconds / right.set_seconds)


def test_what_the_machine_lacks_becomes_a_row_with_the_reason():
    def lacking():
        raise EnvironmentMissing("this CPU has no bf16", "use fp32")

    opened, rejected = open_contenders(
        [("ours/eager/fp32", lambda: Fake("ours/eager/fp32", [])), ("ours/openvino/bf16", lacking)], 1, lambda m: None
    )
    assert [each.contender.key for each in opened] == ["ours/eager/fp32"]
    assert [(row.status, row.reason) for row in rejected] == [(UNAVAILABLE, "this CPU has no bf16")]
    with pytest.raises(EnvironmentMissing):  # nothing can be compared without the reference
        open_contenders([("ours/eager/fp32", lacking)], 1, lambda m: None)


def test_the_number_of_samples_follows_from_the_time():
    assert affordable([2.0, 1.0], 1, 60) == 10  # each runs twice
    assert affordable([2.0], 2, 60) == 10
    assert affordable([100.0], 1, 60) == FEWEST
