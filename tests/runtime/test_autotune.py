"""``auto`` on the CPU: autotuning takes the faster backend, keeps the result where it can, and distrusts it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmx.runtime import kept as kept_results
from mmx.runtime.backends import Backend, autotune, open_backend
from mmx.runtime.backends.autotune import RESULTS
from mmx.runtime.bundle import Bundle
from mmx.runtime.manifest import TensorSpec


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle of the test's own, never autotuned, and an empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Bundle.open(shutil.copytree(tiny_bundle, tmp_path / "own.mmx"))


def opened(bundle: Bundle, threads: int = 1) -> tuple[str, str]:
    """The backend that ``auto`` takes, and why."""
    with open_backend(bundle, threads=threads) as backend:
        return backend.name, backend.why


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where results are kept; the folder is there."""
    path = tmp_path / "cache" / "mmx" / RESULTS.name
    path.parent.mkdir(parents=True)
    return path


def kept(path: Path) -> dict[str, dict]:
    return json.loads(path.read_text())["results"]


class Clock:
    """Shows the time that the backends below say they take: a real one would show how busy the machine is."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Paced(Backend):
    """A backend whose run takes a known time on a clock that all of them share."""

    def __init__(self, name: str, seconds: float, clock: Clock) -> None:
        self.name, self.seconds, self.clock, self.runs = name, seconds, clock, 0

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.clock.now += self.seconds
        self.runs += 1
        return {}


def test_autotuning_runs_once_and_the_fastest_is_taken(bundle: Bundle, file: Path) -> None:
    before = sorted(bundle.path.rglob("*"))
    name, why = opened(bundle)
    assert why.startswith("auto: measured just now, ") and "openvino" in why and "onnxruntime" in why
    (result,) = kept(file).values()
    assert name == min(result["seconds"], key=result["seconds"].get)
    again, why = opened(Bundle.open(bundle.path))
    assert again == name and why.startswith("auto: measured before, ")
    assert sorted(bundle.path.rglob("*")) == before and sorted(file.parent.iterdir()) == [file]


def test_what_was_measured_decides(bundle: Bundle, file: Path) -> None:
    opened(bundle)
    for winner, loser in (("openvino", "onnxruntime"), ("onnxruntime", "openvino")):
        content = json.loads(file.read_text())
        for result in content["results"].values():
            result["seconds"] = {winner: 0.001, loser: 0.002}
            result["load_seconds"] = {winner: 1.0, loser: 0.5}
        file.write_text(json.dumps(content))
        assert opened(bundle)[0] == winner
        for utterances, name in ((499, loser), (501, winner)):  # where a quicker load is made up for
            with open_backend(bundle, threads=1, utterances=utterances) as backend:
                assert backend.name == name
    assert opened(bundle, threads=2)[1].startswith("auto: measured just now")  # another setting is measured anew
    assert len(kept(file)) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"schema_version": 1, "results": 7}',
        b'{"schema_version": 99, "results": {}}',
        b"\xff\xfe{",
        b"[" * 100_000,
        b'{"schema_version": 1, "results": {"KEY": {"seconds": {"/bin/sh": 0.1, "openvino": 0.2}, LOAD}}}',
        b'{"schema_version": 1, "results": {"KEY": {"seconds": {"onnxruntime": NaN, "openvino": 0.2}, LOAD}}}',
        b'{"schema_version": 1, "results": {"KEY": {"seconds": {"onnxruntime": "x", "openvino": 0.2}, LOAD}}}',
        b'{"schema_version": 1, "results": {"KEY": {"seconds": {"onnxruntime": 0.1, "openvino": 0.2}}}}',
        b" " * (kept_results.LIMIT_BYTES + 1),
    ],
)
def test_a_file_that_is_not_ours_is_measured_again(bundle: Bundle, file: Path, content: bytes) -> None:
    setting = autotune.setting_of(bundle.graph(), "fp32", 1)
    load = b'"load_seconds": {"onnxruntime": 1.0, "openvino": 2.0}'
    file.write_bytes(content.replace(b"KEY", setting.key.encode()).replace(b"LOAD", load))
    assert autotune.recall(setting, ("openvino", "onnxruntime")) is None
    result = autotune.Autotuned({"openvino": 0.1, "onnxruntime": 0.2}, {"openvino": 2.0, "onnxruntime": 1.0})
    autotune.remember(setting, result)
    assert autotune.recall(setting, ("openvino", "onnxruntime")) == result


def test_where_nothing_can_be_kept_every_start_measures(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    for _ in range(2):
        assert opened(bundle)[1].startswith("auto: measured just now")


def test_the_measurement_is_interleaved_and_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autotune, "perf_counter", clock := Clock())
    fast, slow = Paced("fast", 0.002, clock), Paced("slow", 0.02, clock)
    assert autotune.compare([slow, fast], [], limit_s=0.1) == pytest.approx({"fast": 0.002, "slow": 0.02})
    assert fast.runs == slow.runs == 5  # the fifth passes the limit
    sluggish = Paced("sluggish", 0.2, clock)
    autotune.compare([sluggish], [], limit_s=0.1)
    assert sluggish.runs == 2  # once to warm up, once measured


def test_few_utterances_do_not_wait_for_autotuning(bundle: Bundle, file: Path) -> None:
    with open_backend(bundle, threads=1, utterances=1) as backend:
        assert backend.name == "onnxruntime" and "too little to do to autotune" in backend.why
    assert not file.exists()
    with open_backend(bundle, threads=1, utterances=1000) as backend:
        assert backend.why.startswith("auto: measured just now")


def test_only_so_many_are_kept(bundle: Bundle, file: Path) -> None:
    setting = autotune.setting_of(bundle.graph(), "fp32", 1)
    for threads in range(1, kept_results.MOST + 5):
        autotune.remember(replace(setting, threads=threads), autotune.Autotuned({"x": 1.0}, {"x": 1.0}))
    results = list(kept(file).values())
    assert len(results) == kept_results.MOST and results[-1]["threads"] == kept_results.MOST + 4


def test_features_are_filled_like_the_rest() -> None:
    tensors = [TensorSpec("text", "float32", ("batch", "length", 300)), TensorSpec("text_len", "int64", ("batch",))]
    arrays = autotune.typical_inputs(tensors)
    assert arrays["text"].shape == (1, 20, 300) and arrays["text"].dtype == np.float32
    assert arrays["text_len"].tolist() == [20]
