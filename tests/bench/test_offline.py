"""Offline: every sample once per batch size and repeat, wrong batches left out, ratios that follow from the times."""

import numpy as np
import pytest

from mmx.benchmarks.contenders.features import WIDEST, with_features
from mmx.benchmarks.contenders.peers import open_peer
from mmx.benchmarks.contenders.upstream import upstream_module
from mmx.benchmarks.measure.clock import EACH_S, ONCE_S, Clock
from mmx.benchmarks.measure.offline import GROUP, REPEATS, offline
from mmx.benchmarks.measure.parity import agrees
from mmx.benchmarks.options import ROUNDS, Options
from mmx.benchmarks.workload.utterances import make_sample, synthetic
from mmx.evaluation.statistics import Ratio, chained
from mmx.export.specs import spec_for
from mmx.models.registry import SYSTEMS
from mmx.runtime.packing import feature_sizes, pack_features


class Batched:
    """So many milliseconds a call and a sample; ``wrong``: the batch size that it answers wrongly."""

    def __init__(self, key, call_ms=0.0, sample_ms=1.0, wrong=None):
        self.key, self.call_ms, self.sample_ms, self.wrong = key, call_ms, sample_ms, wrong
        self.seen = []

    def run(self, samples):
        self.seen.append(len(samples))
        off = 1.0 if len(samples) == self.wrong else 0.0
        return np.array([[len(s.pieces) / 10 + off, 1.0] for s in samples], np.float32)

    def close(self):
        pass


@pytest.fixture(autouse=True)
def told_times(monkeypatch):
    """A call takes what the contender says it does."""

    def timed(who, samples):
        return (who.call_ms + who.sample_ms * len(samples)) / 1e3, who.run(samples)

    monkeypatch.setattr("mmx.benchmarks.measure.offline.timed", timed)


def samples(count):
    return [make_sample(utterance) for utterance in synthetic("iemocap").utterances[:count]]


def test_batches_gain_what_a_call_costs_and_a_wrong_batch_is_left_out():
    mine = Batched("ours/openvino/bf16", call_ms=6, wrong=4)
    rival = Batched("ours/openvino-own/bf16 batched", sample_ms=3)
    found = offline(mine, samples(20), (1, 2, 4, 8), rival)
    assert found.samples == 20
    assert sum(mine.seen) == 4 * 20 * REPEATS
    assert sum(rival.seen) == 20 * REPEATS
    assert max(rival.seen) == 8
    assert list(found.samples_per_second) == [1, 2, 8]
    assert found.best_batch == 8
    assert found.gain.median == pytest.approx(7 / (1 + 6 * 3 / 20))  # 20 samples in groups of 16: 3 calls
    assert found.vs_own_conversion.median == pytest.approx(3 / (1 + 6 * 3 / 20))
    assert GROUP == 16


def test_a_rival_that_answers_otherwise_has_no_ratio():
    found = offline(Batched("a/b/fp32"), samples(4), (1, 4), Batched("a/c/fp32", wrong=4))
    assert found.vs_own_conversion is None
    assert set(found.samples_per_second) == {1, 4}


def test_chained_ratios_multiply_and_their_errors_add_as_independent_ones_do():
    both = chained(Ratio(2.0, 1.0, 4.0), Ratio(3.0, 1.5, 6.0))
    assert both.median == pytest.approx(6.0)
    factor = 2 ** (2**0.5)
    assert (both.low, both.high) == (pytest.approx(6 / factor), pytest.approx(6 * factor))
    assert chained(Ratio(2.0, 1.0, 4.0), Ratio(1.0, 1.0, 1.0)) == Ratio(2.0, pytest.approx(1.0), pytest.approx(4.0))


@pytest.mark.parametrize("system", ["lf-lstm", "lf-trans", "mult"])
def test_systems_on_features_run_alone_as_in_a_batch(system, tmp_path):
    module = upstream_module(system, "tiny")
    sizes = feature_sizes(spec_for(module).inputs)
    assert set(sizes) == set(WIDEST)
    some = [with_features(make_sample(u), u) for u in synthetic("iemocap").utterances[:3]]
    packed = pack_features(some, sizes)
    assert packed["text_len"].tolist() == [u.words for u in synthetic("iemocap").utterances[:3]]
    assert packed["audio"].shape == (3, packed["audio_len"].max(), sizes["audio"])
    assert not packed["visual"][0, packed["visual_len"][0] :].any()
    peer = open_peer("eager", system, module, 1, tmp_path)
    alone = peer.run(some)
    together = peer._called(packed)
    assert alone == pytest.approx(together, abs=2e-5)


def test_every_system_has_a_round_and_time_is_set_aside_for_what_follows():
    assert sorted(name for together in ROUNDS for name in together) == sorted(SYSTEMS)
    options = Options("iemocap")
    video = Options("iemocap", scope="pipeline", systems=("ours", "v2em"), scenarios=("single-stream", "offline"))
    assert {*options.extras, *video.extras} == {*EACH_S, *ONCE_S}
    assert video.rounds == (("v2em",), ("ours",))  # the baseline first
    assert options.rounds == ROUNDS
    assert Options("iemocap", systems=("ours", "mult")).rounds == (("ours", "mult"),)
    clock = Clock(10)
    aside = sum(ONCE_S.values()) + 2 * (EACH_S["offline"] + EACH_S["server"])
    assert clock.left_before(options.extras, 2) == pytest.approx(600 - aside, abs=1)
    assert Clock(0).left > 1e8


def test_a_quicker_face_search_is_shown_and_held_to_no_limit():
    assert not agrees("fp32", 0.2, 0.04)
    assert not agrees("bf16", 0.2, 0.06)
    assert agrees("bf16 track faces", 0.2, 0.06)
    assert not agrees("bf16 track faces", float("inf"), float("inf"))
