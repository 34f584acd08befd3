"""The reference that shows half precision on a CPU: it must overflow and round where the hardware does."""

from __future__ import annotations

import numpy as np
import precision_graphs as graphs
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from mmx.export.precision.convert import convert
from mmx.export.precision.rounded import rounded
from mmx.export.precision.rules import kept_nodes
from mmx.export.precision.session import cpu_session
from mmx.export.precision.switched import switch, switched
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


@pytest.mark.parametrize("half", ["fp16", "bf16"])
def test_switches_round_a_part_at_a_time(half: str) -> None:
    """All on: what the rounded graph computes. All off: FP32. One on: that part alone in half precision."""
    view = GraphView(graphs.attention(16, -1e9))
    kept = kept_nodes(view, half)
    parts = [range(0, 5), range(5, 8), range(8, len(view.nodes))]
    session = cpu_session(switched(view, parts, kept, half), basic=True)
    x = np.random.default_rng(5).normal(size=(1, 8, 16)).astype(np.float32)

    def with_on(*on: int) -> np.ndarray:
        return session.run(None, {"x": x, **{switch(i): np.array(i in on) for i in range(len(parts))}})[0]

    def reference(stay: set[int]) -> np.ndarray:
        return cpu_session(rounded(convert(view, stay, half).model), basic=True).run(None, {"x": x})[0]

    np.testing.assert_array_equal(with_on(0, 1, 2), reference(set(kept)))
    np.testing.assert_array_equal(with_on(), cpu_session(view.model, basic=True).run(None, {"x": x})[0])
    for number, part in enumerate(parts):
        alone = with_on(number)
        np.testing.assert_array_equal(alone, reference({*kept, *(set(range(len(view.nodes))) - set(part))}))
        assert number == 2 or np.abs(alone - with_on()).max() > 0
