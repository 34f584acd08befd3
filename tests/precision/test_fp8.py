"""FP8 graphs made of INT8 ones: E4M3 as numpy rounds it, and why the proof leaves out ONNX Runtime's optimisations."""

from __future__ import annotations

import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mmx.calibration.layers import find_layers
from mmx.calibration.quantize import quantise
from mmx.export.precision.fp8 import ensure_fp8, to_fp8
from mmx.export.precision.ranges import largest_values
from mmx.export.precision.samples import utterances
from mmx.export.precision.session import cpu_session
from mmx.export.precision.variant import add_graph, locked
from mmx.export.precision.view import GraphView, read_graph
from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import ParityError, UsageError


def _product(weights: np.ndarray) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 32]) for name in "xy"]
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "product")
    graph = helper.make_graph([node], "g", values[:1], values[1:], [numpy_helper.from_array(weights, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_weights_and_activations_are_rounded_to_e4m3() -> None:
    random = np.random.default_rng(0)
    weights, x = random.normal(size=(32, 32)).astype(np.float32), random.normal(size=(8, 32)).astype(np.float32)
    fp32 = _product(weights)
    model, layers = to_fp8(quantise(fp32, find_layers(fp32), {"x": 2.0, "y": 9.0}), fp32)
    onnx.checker.check_model(model)
    assert layers == 1
    assert {t.data_type for t in model.graph.initializer} == {TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT}
    (got,) = cpu_session(model, basic=True).run(None, {"x": x})

    def in_e4m3(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return np.clip(values / scale, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale

    by_channel = np.abs(weights).max(axis=0) / np.float32(448)
    want = in_e4m3(x, np.float32(2 * 2.0 / 448)) @ in_e4m3(weights, by_channel)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    assert 0.01 < np.abs(got - x @ weights).max() < 1


def test_a_bundles_fp8_graph_is_measured_and_recorded(tiny_bundle: Path, tmp_path: Path) -> None:
    path = shutil.copytree(tiny_bundle, tmp_path / "tiny.mmx")
    bundle, ask = Bundle.open(path), {"samples": 8, "seconds": 60, "report": lambda what, share: None}
    with pytest.raises(UsageError, match="has no INT8 graph"):
        ensure_fp8(bundle, tolerance=None, **ask)
    model = read_graph(bundle.graph_path())
    largest = largest_values(GraphView(model), utterances(bundle.manifest, 4, 2))
    with locked(path):
        bundle = add_graph(bundle, "int8", quantise(model, find_layers(model), largest), {})
    with pytest.raises(ParityError, match="off FP32"):
        ensure_fp8(bundle, tolerance=1e-6, **ask)
    bundle, made = ensure_fp8(bundle, tolerance=None, **ask)
    parity = bundle.manifest.graphs["fp8"].parity
    assert made and 1e-4 < parity["max_error"] < 1 and parity["samples"] == 8 and parity["quantised"] > 20
    assert ensure_fp8(Bundle.open(path), tolerance=None, **ask)[1] is False
    with locked(path):  # other ranges, another FP8 graph
        bundle = add_graph(
            bundle, "int8", quantise(model, find_layers(model), {k: 2 * v for k, v in largest.items()}), {}
        )
    assert ensure_fp8(bundle, tolerance=None, **ask)[1]
