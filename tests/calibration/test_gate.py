"""The gate lets through what is as good and faster, says which of the two failed, and leaves the bundle as it was."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from mmx.calibration import calibrate as module_under_test
from mmx.calibration.calibrate import Calibration, calibrate, foresee_speed, require, require_gain
from mmx.calibration.gate import Accuracy, Speed
from mmx.calibration.layers import find_layers
from mmx.calibration.quantize import quantise
from mmx.cli.main import main
from mmx.runtime.backends import open_backend
from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import EnvironmentMissing, ParityError
from mmx.runtime.packing import pack
from mmx.runtime.records import GraphRecord
from mmx.runtime.synthetic import mel_powers, pictures
from mmx.runtime.types import Sample


class Samples:
    """Real-shaped utterances that need no media."""

    def __init__(self, count: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.targets = random.integers(0, 2, (count, 6))
        self._samples = [
            Sample(
                np.array([2, *random.integers(13, 900, 8), 3]),
                pictures(2 + i % 2, 48, random),
                mel_powers(2 + i % 3, 128, 32, random),
            )
            for i in range(count)
        ]
        self._seed = seed

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]

    def digest(self) -> str:
        return f"{self._seed:064}"


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Bundle:
    """A bundle of one's own."""
    return Bundle.open(shutil.copytree(tiny_bundle, tmp_path / "tiny.mmx"))


def run(bundle: Bundle, **options: object) -> Calibration:
    return calibrate(bundle, Samples(8, 0), Samples(12, 1), method="minmax", **options)  # type: ignore


def verdict(monkeypatch: pytest.MonkeyPatch, fp32_ms: float, int8_ms: float) -> None:
    """Decide what the stopwatch says; whether this machine is quick today is not what is tested."""
    times = {"onnxruntime fp32": _seconds(fp32_ms), "onnxruntime int8": _seconds(int8_ms)}
    monkeypatch.setattr(module_under_test, "measure_speed", lambda *_, **__: Speed(times))


def _seconds(ms: float, noise: float = 0.0) -> np.ndarray:
    """Timings [10 utterances, 3 passes] around so many milliseconds; the odd ones off by a share of ``noise``."""
    return np.full((10, 3), ms / 1000) * (1 + noise * np.where(np.arange(10) % 2, 1, -1))[:, None]


def allow(monkeypatch: pytest.MonkeyPatch, points: float) -> None:
    """Accept this loss: seeded weights have logits that are all near their thresholds."""
    monkeypatch.setattr("mmx.calibration.gate.MAX_LOSS", points)


def test_what_passes_is_added_and_runs_on_both_engines(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict(monkeypatch, 2.0, 1.0)
    allow(monkeypatch, 1.0)
    found = run(bundle)
    require(found)
    opened = Bundle.open(bundle.path)
    assert found.added and opened.graph("int8").path.stat().st_size < opened.graph().path.stat().st_size
    assert opened.graph("int8").spec.parity["tries"][0]["accuracy"]["decisions"] == 72
    inputs = pack([Samples(1, 5)[0]]).inputs
    with open_backend(opened, "onnxruntime", "fp32", 1) as exact:
        wanted = exact.run(inputs)["logits_text"]
    for engine in ("onnxruntime", "openvino"):
        with open_backend(opened, engine, "int8", 1) as backend:
            error = np.abs(backend.run(inputs)["logits_text"] - wanted).max()
        assert 0 < error < 0.2 * np.abs(wanted).max(), engine
    graph = opened.graph("int8")
    assert graph.variant and isinstance(graph.variant.record, GraphRecord)
    assert graph.variant.record.recipe["weight_bits"] == 7 and graph.variant.record.probe
    path = graph.variant.path / "record.json"
    raw = json.loads(path.read_text())
    raw["probe"]["exact"] = raw["probe"]["own"] = {"logits_text": [[9.0] * 6] * len(raw["probe"]["samples"])}
    path.write_text(json.dumps(raw))
    with pytest.raises(EnvironmentMissing, match="onnxruntime does not compute this INT8 graph right"):
        open_backend(Bundle.open(bundle.path), "onnxruntime", "int8", 1)


def test_a_slow_graph_is_rejected_unless_it_is_for_elsewhere(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict(monkeypatch, 1.0, 1.5)
    allow(monkeypatch, 1.0)
    before = (bundle.path / "manifest.json").read_bytes()
    found = run(bundle)
    with pytest.raises(ParityError, match=r"failed the gate on speed: INT8 takes 1\.50 ms"):
        require(found)
    assert (bundle.path / "manifest.json").read_bytes() == before
    assert "int8" not in Bundle.open(bundle.path).precisions
    assert run(bundle, require_speed=False).added


def test_where_int8_costs_time_the_command_says_so_before_it_reads_data(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where it may gain, and where a slower one is accepted, it goes on."""

    class Reading(Exception):
        pass

    def read(*_: object) -> None:
        raise Reading

    monkeypatch.setattr("mmx.cli.calibrate._folder", read)
    before = [path.name for path in bundle.path.rglob("*")]
    verdict(monkeypatch, 1.0, 1.5)
    assert main(["calibrate", str(bundle.path), "--synth"]) == 3
    assert "nothing was calibrated: INT8 failed the gate on speed: INT8 takes 1.50 ms" in capsys.readouterr().err
    assert [path.name for path in bundle.path.rglob("*")] == before
    with pytest.raises(Reading):
        main(["calibrate", str(bundle.path), "--synth", "--any-speed"])
    verdict(monkeypatch, 1.0, 0.999)
    with pytest.raises(Reading):
        main(["calibrate", str(bundle.path), "--synth"])


def test_the_speed_that_is_foreseen_is_that_of_every_layer_quantised(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[onnx.ModelProto] = []

    def measure(_: Bundle, model: onnx.ModelProto, samples: list[Sample], **__: object) -> Speed:
        assert len({len(sample.pieces) for sample in samples}) > 1
        timed.append(model)
        return Speed({"onnxruntime fp32": _seconds(2.0), "onnxruntime int8": _seconds(1.0)})

    monkeypatch.setattr(module_under_test, "measure_speed", measure)
    require_gain(bundle, foresee_speed(bundle))
    model = onnx.load(bundle.graph().path)
    layers = find_layers(model)
    limits = {name: 2.0 for layer in layers for name in (layer.activation, layer.output)}
    assert [node.op_type for node in timed[0].graph.node] == [
        node.op_type for node in quantise(model, layers, limits).graph.node
    ]
    assert sum(node.op_type == "QuantizeLinear" for node in timed[0].graph.node) >= len(layers) / 2


def test_a_worse_graph_is_rejected_after_the_sweep(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    allow(monkeypatch, -1.0)  # nothing can be that good
    found = run(bundle)
    with pytest.raises(ParityError, match="failed the gate on accuracy: F1"):
        require(found)
    assert [len(each.kept) for each in found.tries] == [0, 1, 2, 4, 8, 16, 32, 64]
    worst = list(found.sqnr)
    assert found.tries[3].kept == tuple(worst[:4])
    assert list(found.sqnr.values()) == sorted(found.sqnr.values())
    assert found.tries[-1].accuracy.error < found.tries[0].accuracy.error
    assert found.speed is None and "int8" not in Bundle.open(bundle.path).precisions


def test_ranges_are_kept_in_the_bundle_by_data_and_method(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict(monkeypatch, 2.0, 1.0)
    allow(monkeypatch, 1.0)
    first = run(bundle)
    assert not first.reused and first.ranges_path.parent.parent == bundle.path / "variants"
    bundle = Bundle.open(bundle.path)
    again = run(bundle)
    assert again.reused and again.ranges == first.ranges
    other = calibrate(bundle, Samples(8, 2), Samples(12, 1), method="minmax", labelled=False)  # type: ignore[arg-type]
    assert not other.reused and other.ranges != first.ranges
    assert not run(bundle, fresh=True).reused
    found = run(Bundle.open(bundle.path))
    found.ranges_path.write_text("{}")
    assert found.reused and not run(Bundle.open(bundle.path)).reused  # a damaged one is measured again


def test_half_a_point_is_what_may_go() -> None:
    fine = Accuracy("onnxruntime", True, 100, (0.8, 0.7951), (0.9, 0.8951), 0.1, 0.02, 0.2, flips=3, decisions=600)
    assert fine.holds
    assert not replace(fine, f1=(0.8, 0.7949)).holds
    assert not replace(fine, accuracy=(0.9, 0.8949)).holds
    unknown = replace(fine, labelled=False, shift=0.049)
    assert unknown.holds and not replace(unknown, shift=0.051).holds and "agreement" in unknown.failure


def test_int8_must_beat_the_fastest_that_is_there() -> None:
    times = {"onnxruntime fp32": 3.0, "onnxruntime int8": 2.5, "openvino fp32": 2.0, "openvino int8": 1.9}
    speed = Speed({key: _seconds(ms) for key, ms in times.items()})
    assert speed.holds and speed.ratio.median == pytest.approx(2 / 1.9)
    assert speed.milliseconds == pytest.approx(times)
    assert not replace(speed, seconds={**speed.seconds, "openvino int8": _seconds(2.1)}).holds


def test_faster_in_the_median_alone_is_not_faster() -> None:
    """Half of the utterances say 1.1 times faster, half 0.98 times: the median of that may be noise."""
    speed = Speed({"onnxruntime fp32": _seconds(1.04, 0.06), "onnxruntime int8": _seconds(1.0)})
    assert speed.ratio.median > 1 > speed.ratio.low
    assert not speed.holds and "must be above 1 in its whole interval" in speed.failure
