"""FP8 graphs made of INT8 ones: E4M3 as numpy rounds it; verification without ONNX Runtime's optimisations."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mmx.calibration.layers import find_layers
from mmx.calibration.quantize import quantise
from mmx.export.precision.fp8 import to_fp8
from mmx.export.precision.session import cpu_session


def _product(weights: np.ndarray) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 32]) for name in "xy"]
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "product")
    graph = helper.make_graph([node], "g", values[:1], values[1:], [numpy_helper.from_array(weights, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_weights_and_activations_are_rounded_to_e4m3() -> None:
    random = np.random.default_rng(0)
    weights, x = random.normal(size=(32, 32)).astype(np.float32), random.normal(size=(8, 32)).astype(np.float32)
    fp32 = _product(weights)
    model = to_fp8(quantise(fp32, find_layers(fp32), {"x": 2.0, "y": 9.0}), fp32)
    onnx.checker.check_model(model)
    assert {t.data_type for t in model.graph.initializer} == {TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT}
    (got,) = cpu_session(model, basic=True).run(None, {"x": x})

    def in_e4m3(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return np.clip(values / scale, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale

    by_channel = np.abs(weights).max(axis=0) / np.float32(448)
    want = in_e4m3(x, np.float32(2 * 2.0 / 448)) @ in_e4m3(weights, by_channel)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    assert 0.01 < np.abs(got - x @ weights).max() < 1
