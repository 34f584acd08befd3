"""The reference that shows half precision on a CPU: it must overflow and round where the hardware does."""

from __future__ import annotations

import numpy as np
import precision_graphs as graphs
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from mmx.export.precision.convert import convert
from mmx.export.precision.rounded import rounded
from mmx.export.precision.session import cpu_session
from mmx.export.precision.view import GraphView

X = np.array([3.0, 300.0, 1.2345, 1e-5], np.float32)


def squares_and_back() -> GraphView:
    nodes = [helper.make_node("Mul", ["x", "x"], ["b"], "square"), helper.make_node("Sqrt", ["b"], ["y"], "root")]
    return GraphView(graphs.model(nodes, ["n"]))


def test_onnxruntime_alone_hides_overflow_and_the_rounded_graph_does_not() -> None:
    half = convert(squares_and_back(), (), "fp16").model
    (hidden,) = cpu_session(half).run(None, {"x": X})
    (shown,) = cpu_session(rounded(half)).run(None, {"x": X})
    assert hidden[1] == 300  # 300 * 300 was never stored in FP16: if this fails, ONNX Runtime has become honest
    assert np.isinf(shown[1])
    assert shown[3] == 0  # 1e-10 is below FP16's smallest number
    (numpy_half,) = ReferenceEvaluator(half).run(None, {"x": X})
    np.testing.assert_array_equal(shown, numpy_half)


def test_bfloat16_rounds_to_eight_bits_and_keeps_the_range() -> None:
    half = convert(squares_and_back(), (), "bf16").model
    (shown,) = cpu_session(rounded(half)).run(None, {"x": X})
    assert np.isfinite(shown).all()
    error = np.abs(shown / X - 1)[:3]
    assert 1e-4 < error.max() < 2**-7


@pytest.mark.parametrize("half", ["fp16", "bf16"])
def test_weights_are_rounded_to_the_nearest_even_half(half: str) -> None:
    weights = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    view = GraphView(graphs.model([helper.make_node("MatMul", ["x", "w"], ["y"], "p")], ["n", 64], {"w": weights}))
    model = convert(view, (), half).model
    kind = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}[half]
    assert [tensor.data_type for tensor in model.graph.initializer] == [kind]
    (got,) = cpu_session(rounded(model)).run(None, {"x": np.eye(64, dtype=np.float32)})
    import torch

    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[half]
    np.testing.assert_array_equal(got, torch.from_numpy(weights).to(dtype).float().numpy())
