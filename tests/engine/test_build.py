"""``build_engine`` with TensorRT's real builder, on a machine that need not have a GPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from variants import engine_in, with_graph

from mmx.calibration.layers import find_layers
from mmx.calibration.quantize import quantise
from mmx.export.engine import child
from mmx.export.engine.build import Built, Settings, build_engine
from mmx.export.engine.precision_check import check_precision
from mmx.export.precision.fp8 import to_fp8
from mmx.export.precision.ranges import largest_values
from mmx.export.precision.samples import utterances
from mmx.export.precision.view import GraphView, read_graph
from mmx.export.variant_writer import made_now, new_variant
from mmx.runtime.bundle import Bundle
from mmx.runtime.engines import Engine, describe_engine, engines_of, mismatches, read_engine
from mmx.runtime.errors import BadDataError, EnvironmentMissing, UsageError
from mmx.runtime.files import sha256_of
from mmx.runtime.manifest import TensorSpec

ASKED = {"target": "rtx4090", "profiles": ("short",), "samples": 8}


def test_an_fp16_engine_for_a_card_that_is_not_here(built: Built) -> None:
    record = read_engine(built.path).record
    assert record == built.record and not built.cached and built.variant_made
    assert built.path.name == f"tensorrt-rtx-rtx4090-fp16-{record.key}.engine"
    assert built.path.parent.name.startswith(built.path.stem) and record.source == built.bundle.graph_sha256
    assert record.files == {built.path.name: sha256_of(built.path)} and record.capabilities == ("8.9",)
    assert record.recipe == {"rules": 1, "samples": 8, "seconds": 1800, "tolerance": 1e-2, "max_flips": None}
    assert record.weights["half"] > 0.5 * sum(record.weights.values())
    assert record.layers["matrix_multiply half"] > 10 and "normalization half" not in record.layers
    assert record.verification["samples"] == 8
    assert engines_of(Bundle.open(built.bundle.path)) == [Engine(built.path, record)]


def test_the_second_time_it_is_found_at_once(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "run_build", None)
    again = build_engine(built.bundle.path, "fp16", **ASKED)
    assert again.cached and again.path == built.path and again.record == built.record
    program = (
        "import sys; from pathlib import Path; from mmx.export.engine.build import build_engine\n"
        f"assert build_engine(Path({str(built.bundle.path)!r}), 'fp16', **{ASKED!r}).cached\n"
        "print(sorted({'numpy', 'onnx', 'onnxruntime', 'torch', 'tensorrt_rtx'} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert loaded == "[]\n"  # nothing that takes more than milliseconds


def test_what_was_measured_since_is_reported(own: Path, built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    """More utterances make the same graph, and so find the same engine; its record stays as it was written."""
    monkeypatch.setattr(child, "run_build", None)
    bundle = Bundle.open(own)
    graph = bundle.graph("fp16")
    record = replace(graph.variant.record, verification=graph.spec.parity | {"samples": 99}, **made_now())
    with new_variant(bundle) as folder:
        (folder.path / graph.path.name).write_bytes(graph.path.read_bytes())
        folder.publish("fp16", record)
    again = build_engine(own, "fp16", **ASKED)
    assert again.cached and again.record.verification["samples"] == 99
    assert read_engine(again.path).record == built.record


def test_whatever_would_change_the_engine_changes_its_name(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = []

    class Stop(Exception):
        pass

    def reject(job: dict[str, object], _progress: object) -> None:
        jobs.append(job["out"])
        raise Stop

    monkeypatch.setattr(child, "run_build", reject)
    for change in (
        {"target": "rtx3090"},
        {"target": "portable"},
        {"profiles": ("short", "long")},
        {"batch": 4},
        {"settings": Settings(workspace=2**30)},
        {"settings": Settings(level=1)},
    ):
        with pytest.raises(Stop):
            build_engine(built.bundle.path, "fp16", **(ASKED | change))
    with pytest.raises(Stop):
        build_engine(built.bundle.path, "fp32", **ASKED)
    assert len({*(Path(job).name for job in jobs), built.path.name}) == 8


def test_a_damaged_engine_or_record_is_built_again(own: Path, built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_in(own)
    record = engine.with_name("record.json")
    monkeypatch.setattr(child, "run_build", lambda *_: (_ for _ in ()).throw(EnvironmentMissing("asked to build")))
    assert build_engine(own, "fp16", **ASKED).cached
    record.write_text("{")
    with pytest.raises(EnvironmentMissing, match="asked to build"):
        build_engine(own, "fp16", **ASKED)
    record.write_text(built.record.to_json())
    engine.write_bytes(engine.read_bytes()[:-1])
    with pytest.raises(EnvironmentMissing, match="asked to build"):
        build_engine(own, "fp16", **ASKED)


def test_int8_and_fp8_are_not_made_up(built: Built) -> None:
    for precision in ("int8", "fp8"):
        with pytest.raises(UsageError, match="has no INT8 graph") as caught:
            build_engine(built.bundle.path, precision, **ASKED)
        assert "mmx calibrate" in caught.value.hint


@pytest.mark.parametrize("asked", ["fp16", "fp32", "int8"])
def test_an_engine_that_is_not_what_was_asked_for_is_rejected(built: Built, asked: str) -> None:
    outputs = built.bundle.manifest.graphs["fp32"].outputs
    io = [{"name": spec.name, "dtype": "float", "shape": []} for spec in outputs]
    other = {"weights": {"bf16": 100, "half": 1, "float": 1, "int8": 1}, "layers": {"cast half": 3}, "io": io}
    with pytest.raises(BadDataError, match=asked):
        check_precision(asked, other, outputs, "model.onnx")
    real = {"weights": built.record.weights, "layers": built.record.layers, "io": io}
    check_precision("fp16", real, outputs, "model.onnx")
    io[0]["dtype"] = "half"
    with pytest.raises(BadDataError, match="output logits is half, not float"):
        check_precision("fp16", real, outputs, "model.onnx")


def _job(tmp_path: Path, graph: onnx.ModelProto, shape: list[int]) -> dict[str, object]:
    onnx.save(graph, tmp_path / "g.onnx")
    sizes = {"min": shape, "opt": shape, "max": shape}
    return {
        "module": "tensorrt_rtx",
        "graph": str(tmp_path / "g.onnx"),
        "out": str(tmp_path / "g.engine"),
        "capabilities": ["8.9"],
        "profiles": [{"name": "only", "shapes": {"x": sizes}}],
        "workspace": 0,
        "level": None,
    }


def _graph(node: onnx.NodeProto) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy"]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.example", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _quantised() -> onnx.ModelProto:
    """A product in INT8, named as ``calibration.quantize`` names it."""
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["xq"], "x/quantize"),
        node("DequantizeLinear", ["xq", "x_scale", "x_zero"], ["xd"], "x/dequantize"),
        node("DequantizeLinear", ["w_int8", "w_scale", "w_zero"], ["wd"], "w/dequantize", axis=1),
        node("MatMul", ["xd", "wd"], ["y"], "product"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 64]) for name in "xy"]
    weights = np.random.default_rng(0).integers(-127, 128, (64, 64), np.int8)
    constants = {"x_scale": np.float32(0.05), "x_zero": np.int8(0), "w_int8": weights}
    constants |= {"w_scale": np.full(64, 0.01, np.float32), "w_zero": np.zeros(64, np.int8)}
    tensors = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_a_quantised_graph_builds_and_is_checked(tmp_path: Path, precision: str) -> None:
    model = _quantised() if precision == "int8" else to_fp8(_quantised(), _quantised())
    found = child.run_build(_job(tmp_path, model, [4, 64]), lambda *_: None)
    outputs = [TensorSpec("y", "float32", ("n", 64))]
    check_precision(precision, found, outputs, "g.onnx")
    with pytest.raises(BadDataError, match="it is not fp16"):
        check_precision("fp16", found, outputs, "g.onnx")
    other = {"int8": "fp8", "fp8": "int8"}[precision]
    with pytest.raises(BadDataError, match=f"has no {other} layer"):
        check_precision(other, found, outputs, "g.onnx")


def test_the_int8_graph_of_a_bundle_becomes_an_int8_engine(own: Path) -> None:
    """The graph that ``mmx calibrate`` adds, here with ranges of a few drawn utterances."""
    bundle = Bundle.open(own)
    model = read_graph(bundle.graph().path)
    largest = largest_values(GraphView(model), utterances(bundle.manifest, 4, 2))
    with_graph(bundle, "int8", quantise(model, find_layers(model), largest))
    made = build_engine(own, "int8", **ASKED)
    record = made.record
    assert record.precision == "int8" and record.layers["quantize int8"] > 20 and record.weights["int8"] > 1e5
    assert record.graph == "model.int8-fp16.onnx" and record.layers["matrix_multiply half"] > 10
    assert record.weights["half"] > record.weights["float"]
    assert build_engine(own, "int8", **ASKED).cached
    assert made.bundle is not None and mismatches(record, made.bundle, record.version, "8.9") == []
    wider = quantise(model, find_layers(model), {name: 2 * limit for name, limit in largest.items()})
    again = with_graph(Bundle.open(own), "int8", wider)  # its graph for engines has yet to be made
    assert mismatches(record, again, record.version, "8.9") == []
    again = with_graph(again, "int8-fp16", model, made_from={"int8": again.graph("int8").sha256})
    assert [found.what for found in mismatches(record, again, record.version, "8.9")] == ["int8 graph"]
    with pytest.raises(UsageError, match="rtx3090 computes no FP8"):
        build_engine(own, "fp8", target="rtx3090")


def test_a_layer_that_tensorrt_does_not_know_is_named(tmp_path: Path) -> None:
    node = helper.make_node("Frobnicate", ["x"], ["y"], "trunk.7/Frobnicate", domain="com.example")
    with pytest.raises(BadDataError, match=r"g\.onnx.*trunk\.7/Frobnicate") as caught:
        child.run_build(_job(tmp_path, _graph(node), [4]), lambda *_: None)
    assert "ONNX Runtime" in caught.value.hint


def test_a_profile_that_does_not_fit_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadDataError) as caught:
        child.run_build(_job(tmp_path, _graph(helper.make_node("Relu", ["x"], ["y"])), [4, 4]), lambda *_: None)
    assert "--profiles" in caught.value.hint


def test_a_builder_that_dies_is_an_error_and_no_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os, sys; sys.stderr.write('out of luck'); sys.stderr.flush(); os.kill(os.getpid(), 9)"
    monkeypatch.setattr(child, "WORKER", (sys.executable, "-c", code))
    with pytest.raises(EnvironmentMissing, match="ended by signal 9: out of luck"):
        child.run_build(_job(tmp_path, _graph(helper.make_node("Relu", ["x"], ["y"])), [4]), lambda *_: None)


def test_ctrl_c_ends_the_builder_and_leaves_nothing(own: Path) -> None:
    before = sorted((own / "variants").iterdir())
    command = [sys.executable, "-m", "mmx.cli.main", "build-engine", "--fp16", "--target", "rtx3090", str(own)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    for line in process.stderr:
        if "Building engine" in line:
            break
    workers = _workers_of(process.pid)
    assert len(workers) == 1
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    process.stderr.close()
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    assert sorted((own / "variants").iterdir()) == before


def test_the_builder_ends_with_its_parent(own: Path) -> None:
    command = [sys.executable, "-m", "mmx.cli.main", "build-engine", "--fp16", "--target", "rtx3090", str(own)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    for line in process.stderr:
        if "Building engine" in line:
            break
    (worker,) = _workers_of(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    end = time.monotonic() + 30
    while _alive(worker):
        assert time.monotonic() < end, "the builder outlived its parent"
        time.sleep(0.1)


def _workers_of(parent: int) -> list[int]:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [pid for pid in map(int, children) if b"worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_inspect_shows_the_record_and_a_changed_file(built: Built, own: Path) -> None:
    text = describe_engine(built.path)
    for part in ("tensorrt-rtx 1.", "rtx4090", "8.9", "face_index", "int64", "short", "on 8 samples", built.record.key):
        assert part in text
    assert "unchanged" in text
    changed = engine_in(own)
    record = changed.with_name("record.json")
    changed.write_bytes(b"x" + changed.read_bytes()[1:])
    assert "NOT the file that was built" in describe_engine(changed)
    raw = json.loads(record.read_text())
    for accuracy, said in (({"worst": 3e-6}, "3.0e-06 against PyTorch"), ({"layers": 70}, "made "), ({}, "made ")):
        record.write_text(json.dumps(raw | {"verification": accuracy}))
        assert said in describe_engine(changed)
    record.write_text(json.dumps(raw | {"schema_version": 9}))
    with pytest.raises(BadDataError, match="schema_version 9"):
        describe_engine(changed)


@pytest.mark.slow
@pytest.mark.parametrize("system", ["ours", "v2em", "fe2e", "v2em-visual+focal", "rfam+nest"])
def test_every_system_builds_for_sm89(system: str, tmp_path: Path, tokenizer_dir: Path) -> None:
    """At full size, FP16, three profiles. Any accuracy will do: that is tests/precision's business."""
    from mmx.export.exporter import export_bundle
    from mmx.models.checkpoint import save_checkpoint, seeded_module
    from mmx.models.registry import get_system

    config = get_system(system).presets["full"]
    save_checkpoint(tmp_path / "c.pt", seeded_module(system, config), system, config, dataset="iemocap")
    export_bundle(tmp_path / "c.pt", tmp_path / "c.mmx", tokenizer=tokenizer_dir)
    made = build_engine(tmp_path / "c.mmx", "fp16", target="sm89", samples=4, tolerance=9.0, max_flips=24)
    assert made.record.weights["half"] > 0.5 * sum(made.record.weights.values())
    assert [profile.name for profile in made.record.profiles] == ["short", "typical", "long"]
    assert made.record.size < 0.75 * made.bundle.graph("fp32").path.stat().st_size + 50e6
