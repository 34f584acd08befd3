"""``mmx build-engine net.onnx``: a graph that mmx did not make."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mmx.cli.main import main
from mmx.export.engine.build import build_engine
from mmx.export.engine.onnx_file import file_digest, source_of_file
from mmx.runtime.engines import read_engine
from mmx.runtime.errors import BadDataError, UsageError

SHAPES = {"mine": {"rows": [1, 2, 8]}}


def _network(rows: int | str = "rows") -> onnx.ModelProto:
    """An embedding of ids times features, two layers, as anybody might export it."""
    random = np.random.default_rng(0)
    constants = {
        "table": random.normal(size=(7, 32)).astype(np.float32),
        "w1": random.normal(0, 0.2, (32, 64)).astype(np.float32),
        "w2": random.normal(0, 0.2, (64, 5)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"], "embed"),
        helper.make_node("Mul", ["e", "x"], ["m"], "scale"),
        helper.make_node("MatMul", ["m", "w1"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "w2"], ["y"], "second"),
        helper.make_node("ArgMax", ["y"], ["best"], "best", axis=1, keepdims=0),
    ]
    inputs = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, [rows]),
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, 32]),
    ]
    outputs = [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, 5]),
        helper.make_tensor_value_info("best", TensorProto.INT64, [rows]),
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """``net.onnx`` and its shapes."""
    onnx.save(_network(), tmp_path / "net.onnx")
    (tmp_path / "shapes.json").write_text(json.dumps(SHAPES))
    return tmp_path / "net.onnx"


def test_an_engine_beside_the_file_and_at_once_the_second_time(
    network: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(network.parent)
    before = network.read_bytes()
    command = ["build-engine", "net.onnx", "--fp16", "--target", "sm89", "--profiles", "shapes.json", "-v"]
    assert main([*command, "--samples", "12"]) == 0
    out = capsys.readouterr().out
    assert "net.fp16.onnx" in out and "outputs within" in out and "makes the logits" in out and "mmx predict" not in out
    (engine,) = Path("net.engines").glob("*/*.engine")
    record = read_engine(engine).record
    assert record.weights["half"] > 0.8 * sum(record.weights.values()) and record.verification["samples"] >= 12
    assert record.profiles[0].shapes["x"].max == (8, 32) and record.verification["on"] == "random inputs"
    assert [spec.dtype for spec in record.outputs] == ["float32", "int64"]
    assert main(command) == 0 and "found in" in capsys.readouterr().out
    assert main(["inspect", str(engine)]) == 0 and "net.fp16.onnx" in capsys.readouterr().out
    assert network.read_bytes() == before


def test_fixed_shapes_need_no_profile_and_dynamic_ones_are_asked_for(network: Path) -> None:
    with pytest.raises(UsageError, match="how long the axis 'rows' is") as caught:
        build_engine(network, "fp32", target="sm89")
    assert "--profiles FILE.json" in caught.value.hint
    fixed = network.with_name("fixed.onnx")
    onnx.save(_network(4), fixed)
    built = build_engine(fixed, "fp32", target="sm89")
    assert built.bundle is None and [profile.name for profile in built.record.profiles] == ["static"]
    assert built.record.graph == "fixed.onnx" and built.record.weights.keys() == {"float"}
    assert build_engine(fixed, "fp32", target="sm89").cached
    onnx.save(_network(3), fixed)  # another graph under the same name
    assert not build_engine(fixed, "fp32", target="sm89").cached


def test_inputs_of_ones_own(network: Path) -> None:
    shapes, run = network.with_name("shapes.json"), network.with_name("run.npz")
    np.savez(run, ids=np.array([6, 5, 4]), x=np.full((3, 32), 1e4, np.float32))
    with pytest.raises(BadDataError, match="of the engine's weights are half"):  # 64e4 is no FP16 number
        build_engine(network, "fp16", target="sm89", profiles=shapes, inputs=(run,))
    np.savez(run, ids=np.array([6, 5, 4]), x=np.ones((3, 32), np.float32))
    built = build_engine(network, "fp16", target="sm89", profiles=shapes, inputs=(run,))
    assert built.record.verification["samples"] == 3 and built.record.verification["on"] == "1 given file"
    np.savez(run, ids=np.array([6, 5, 4]))
    with pytest.raises(BadDataError, match=r"run\.npz does not hold the inputs"):
        build_engine(network, "fp16", target="sm89", profiles=shapes, inputs=(run,))
    np.savez(run, ids=np.array([99]), x=np.ones((1, 32), np.float32))
    with pytest.raises(BadDataError, match=r"cannot run .*net\.onnx"):
        build_engine(network, "fp16", target="sm89", profiles=shapes, inputs=(run,))


def test_weights_in_other_files_stay_in_the_folder(network: Path) -> None:
    onnx.save(_network(4), network, save_as_external_data=True, location="weights.bin", size_threshold=0)
    built = build_engine(network, "fp32", target="sm89")
    assert built.record.weights["float"] > 2000
    weights = network.with_name("weights.bin")
    digest = file_digest(network)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    assert file_digest(network) != digest  # a changed weight is another engine
    weights.rename(network.parent.parent / "elsewhere.bin")
    with pytest.raises(BadDataError, match=r"weights\.bin, and there is no such file"):
        source_of_file(network)
    weights.symlink_to(network.parent.parent / "elsewhere.bin")
    with pytest.raises(BadDataError, match="not in its folder"):
        source_of_file(network)


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd", "a/../../w"])
def test_a_file_that_points_elsewhere_is_rejected(network: Path, location: str) -> None:
    model = onnx.load(network)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    network.write_bytes(model.SerializeToString())
    with pytest.raises(BadDataError, match="not in its folder"):
        build_engine(network, "fp32", target="sm89")


def test_no_file_no_graph_and_no_such_precision(network: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file"):
        build_engine(tmp_path / "none.onnx", "fp32")
    network.write_bytes(b"hello")
    with pytest.raises(BadDataError, match=r"net\.onnx"):
        build_engine(network, "fp32")
    onnx.save(_network(4), network)
    with pytest.raises(BadDataError, match="no int8 layer"):
        build_engine(network, "int8", target="sm89")


def test_a_resize_builds_in_fp16_with_its_scales_in_fp32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Upsampling by a factor that FP16 does not hold; then the same with nodes that the user chose."""
    monkeypatch.chdir(tmp_path)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "first"),
        helper.make_node("Resize", ["a", "", "scales"], ["b"], "resize", mode="linear"),
        helper.make_node("Conv", ["b", "w"], ["c"], "second"),
        helper.make_node("Conv", ["c", "w"], ["y"], "last"),
    ]
    weight = np.random.default_rng(0).normal(0, 0.3, (8, 8, 1, 1)).astype(np.float32)
    constants = {"w": weight, "scales": np.float32([1, 1, 2.2, 2.2])}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 8, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 8, 13, 13])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), "up.onnx")
    command = ["build-engine", "up.onnx", "--fp16", "--target", "sm89", "--samples", "4", "-v"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "outputs within" in out and "resize" not in out
    assert main([*command, "--keep-fp32", "Resize"]) == 0
    out = capsys.readouterr().out
    assert "keep-fp32 Resize" in out and "built in" in out
    assert main([*command, "--keep-fp32", "Rezise"]) == 2
