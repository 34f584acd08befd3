"""``mmx optimize``: the fastest candidate that answers well enough, on networks whose times are known."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mmx.cli.main import main
from mmx.evaluation import optimize as module
from mmx.evaluation import timing
from mmx.evaluation.optimize import Candidate, choice_of, first_candidates, optimize
from mmx.runtime.backends import open_backend
from mmx.runtime.backends.choice import CHOICES, Choice, chosen_batch_size, chosen_precision, recall, remember
from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import EnvironmentMissing
from mmx.runtime.synthetic import make_samples

CORES = 4
BOTH = ("onnxruntime", "openvino")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


@pytest.fixture
def samples():
    return make_samples([(5, 2, n) for n in range(1, 13)], np.random.default_rng(0))


class Clock:
    """Shows the time that the networks below say they take: a real one would show how busy the machine is."""

    def __init__(self) -> None:
        self.now, self.lock = 0.0, threading.Lock()

    def perf_counter(self) -> float:
        return self.now

    def spend(self, seconds: float) -> None:
        with self.lock:
            self.now += seconds


class Paced:
    """A network whose run takes ``seconds`` (shared by its streams) and whose answers are off by ``error``."""

    def __init__(self, clock: Clock, seconds: float, error: float) -> None:
        self.clock, self.seconds, self.error = clock, seconds, error

    def outputs(self, samples):
        self.clock.spend(self.seconds * len(samples))
        return {"logits": self.fused(samples)}

    def fused(self, samples):
        rows = [np.linspace(-1, 1, 6) * len(sample.pieces) / 6 + self.error for sample in samples]
        return np.array(rows, np.float32)


@pytest.fixture
def run(bundle: Bundle, samples, monkeypatch: pytest.MonkeyPatch):
    """Optimises over networks given by (backend, precision): seconds and error; None: not to be had."""
    clock = Clock()
    monkeypatch.setattr(module, "perf_counter", clock.perf_counter)
    monkeypatch.setattr(timing, "time", clock)
    monkeypatch.setattr(timing, "gc", SimpleNamespace(collect=lambda: None))
    opened: list[Candidate] = []

    def optimised(known, goal="latency", targets=None, max_loss=0.5, scale=lambda candidate: 1.0, backends=BOTH):
        @contextmanager
        def open_candidate(candidate):
            opened.append(candidate)
            found = known.get((candidate.backend, candidate.precision))
            if found is None:
                raise EnvironmentMissing("no such engine here")
            yield Paced(clock, found[0] * scale(candidate), found[1])

        candidates = first_candidates(bundle, goal, CORES, backends)
        return optimize(bundle, goal, samples, targets, max_loss, candidates, CORES, open_candidate)

    optimised.opened = opened
    return optimised


def reason_of(rows, backend: str, precision: str) -> str:
    return next(r.reason for r in rows if (r.candidate.backend, r.candidate.precision) == (backend, precision))


def test_the_fastest_that_agrees_is_chosen_and_every_row_has_its_reason(run) -> None:
    known = {
        ("onnxruntime", "fp32"): (0.10, 0.0),
        ("openvino", "fp32"): (0.05, 1e-6),
        ("openvino", "bf16"): (0.02, 3.0),  # fast and wrong
    }
    rows = run(known)
    assert (rows[0].candidate.backend, rows[0].candidate.precision) == ("openvino", "fp32")
    assert rows[0].reason == "chosen"
    assert rows[0].ratio.median == pytest.approx(2.0)
    assert rows[0].ms == pytest.approx(50.0)
    assert "moves a probability by" in reason_of(rows, "openvino", "bf16")
    assert reason_of(rows, "onnxruntime", "fp32") == "the reference"


def test_what_is_not_there_is_a_row_and_nothing_faster_leaves_the_reference(run) -> None:
    rows = run({("onnxruntime", "fp32"): (0.1, 0.0), ("openvino", "fp32"): (0.1, 0.0)})
    assert rows[0].candidate.backend == "onnxruntime"
    assert rows[0].reason.startswith("chosen: nothing is faster")
    assert reason_of(rows, "openvino", "fp32") == "not faster beyond the noise"
    assert reason_of(rows, "openvino", "bf16") == "not available: no such engine here"
    assert choice_of(rows[0], "x").speedup == "1x"


def test_labels_decide_where_there_are_some(run, bundle: Bundle) -> None:
    """Targets that FP32 gets right, and an error that takes some of them over the threshold."""
    exact = np.array([np.linspace(-1, 1, 6) * n / 6 for n in range(1, 13)])
    targets = (exact > 0).astype(np.int64)
    known = {("onnxruntime", "fp32"): (0.1, 0.0), ("openvino", "fp32"): (0.05, 0.0), ("openvino", "bf16"): (0.01, 0.2)}
    strict, lax = run(known, targets=targets), run(known, targets=targets, max_loss=100.0)
    assert strict[0].candidate.precision == "fp32"
    assert "points of" in reason_of(strict, "openvino", "bf16")
    assert lax[0].candidate.precision == "bf16"
    assert lax[0].loss.accuracy > 0.5


def test_throughput_shares_the_cores_in_other_ways_and_batches_otherwise(run) -> None:
    known = {("onnxruntime", "fp32"): (0.1, 0.0), ("openvino", "fp32"): (0.05, 0.0)}

    def scale(each: Candidate) -> float:
        return (0.5 if each.batch_size == 8 else 1.0) if each.backend == "openvino" else 1.0

    rows = run(known, "throughput", scale=scale)
    assert rows[0].candidate == Candidate("openvino", "fp32", CORES, 1, 8)
    assert rows[0].ratio.median == pytest.approx(4.0)
    splits = {(each.streams, each.threads) for each in run.opened if each.backend == "openvino"}
    assert splits == {(4, 1), (1, 4), (2, 2)}
    assert all(s * t <= CORES for s, t in splits)


def test_the_reference_alone_is_varied_too(run) -> None:
    rows = run({("onnxruntime", "fp32"): (0.1, 0.0)}, scale=lambda each: 0.5 if each.threads == 1 else 1.0,
               backends=("onnxruntime",))  # fmt: skip
    assert rows[0].candidate == Candidate("onnxruntime", "fp32", 1, 1, 1)
    assert rows[0].ratio.median == pytest.approx(2.0)
    assert all(row.ms for row in rows)


def test_what_fails_while_it_runs_is_told_from_what_is_not_there(run) -> None:
    known = {("onnxruntime", "fp32"): (0.1, 0.0), ("openvino", "fp32"): (0.05, float("nan"))}
    assert reason_of(run(known), "openvino", "fp32").startswith("fails: logit")


def some_choice(**changes: object) -> Choice:
    base = Choice("onnxruntime", "fp32", 1, 1, 1, "2.00x [1.9, 2.1]", "the reference", "abc")
    return replace(base, **changes)  # type: ignore[arg-type]


def test_auto_follows_the_choice_of_this_bundle_and_goal(bundle: Bundle) -> None:
    remember(bundle, "latency", some_choice())
    with open_backend(bundle, precision="auto") as backend:
        assert backend.name == "onnxruntime"
        assert backend.why.startswith("auto: mmx optimize chose onnxruntime fp32, 1 x 1 threads")
    assert recall(bundle, "throughput") is None
    other = replace(bundle, identity="0" * 64)
    assert recall(other, "latency") is None
    assert chosen_precision(bundle, "int8", "latency") == "int8"
    assert chosen_precision(bundle, "auto", "throughput") == "fp32"


def test_threads_and_streams_that_are_asked_for_count_more(bundle: Bundle) -> None:
    remember(bundle, "throughput", some_choice(streams=3, threads=1, batch_size=8))
    for streams, wanted in ((None, 3), (2, 2)):
        with open_backend(bundle, streams=streams, goal="throughput") as backend:
            assert backend.streams == wanted
            assert ("3 x 1 threads" in backend.why) == (wanted == 3)
    assert chosen_batch_size(bundle, "throughput", "onnxruntime", "fp32", 4) == 8
    assert chosen_batch_size(bundle, "throughput", "openvino", "fp32", 4) == 4


@pytest.mark.parametrize(
    "change",
    [{"precision": "int8"}, {"backend": "../x", "precision": "fp64"}, {"streams": 0}, {"threads": "many"}, {"loss": 5}],
)
def test_a_file_that_offers_what_there_is_not_is_not_followed(bundle: Bundle, change) -> None:
    remember(bundle, "latency", some_choice())
    content = json.loads(CHOICES.path.read_text())
    next(iter(content["results"].values()))["choice"].update(change)
    CHOICES.path.write_text(json.dumps(content))
    assert recall(bundle, "latency") is None
    assert chosen_precision(bundle, "auto", "latency") == "fp32"


def test_the_command_measures_once_and_keeps_the_choice(tiny_bundle: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.1)
    monkeypatch.setattr("mmx.runtime.machine.usable_cores", lambda: 2)
    command = ["optimize", str(tiny_bundle), "--backends", "onnxruntime"]
    assert main([*command, "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("onnxruntime fp32, 1 x ")
    assert CHOICES.path is not None and not CHOICES.path.exists()
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["choice"]["backend"] == "onnxruntime"
    assert found["rows"][0]["reason"].startswith("chosen")
    assert len(found["rows"]) > 1 and all(row["ms"] > 0 for row in found["rows"])
    assert recall(Bundle.open(tiny_bundle), "latency") is not None
    assert main(command) == 0
    assert "nothing that matters changed" in capsys.readouterr().err
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["choice"] == found["choice"]
