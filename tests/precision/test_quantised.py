"""INT8 and FP8 with FP16 around them: which types, which values, what is recorded."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from variants import with_graph

from mmx.calibration.layers import find_layers
from mmx.calibration.quantize import quantise
from mmx.export.precision.convert import convert
from mmx.export.precision.quantised import ensure_quantised, in_half
from mmx.export.precision.ranges import largest_values
from mmx.export.precision.rounded import rounded
from mmx.export.precision.rules import kept_nodes
from mmx.export.precision.samples import utterances
from mmx.export.precision.session import cpu_session
from mmx.export.precision.verification import Exact, measure
from mmx.export.precision.view import GraphView, element_types, label, read_graph
from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import ParityError, UsageError

QUIET = {"samples": 8, "seconds": 600.0, "report": lambda what, share: None}


def _block(random: np.random.Generator) -> onnx.ModelProto:
    """x -> product -> relu -> product -> LayerNorm -> product -> logits."""
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "w1"], ["a"], "first"),
        node("Relu", ["a"], ["b"], "relu"),
        node("MatMul", ["b", "w2"], ["c"], "second"),
        node("LayerNormalization", ["c", "one", "nil"], ["d"], "norm"),
        node("MatMul", ["d", "w3"], ["e"], "third"),
        node("Relu", ["e"], ["f"], "after"),
        node("MatMul", ["f", "w4"], ["logits"], "last"),
    ]
    constants = {f"w{i}": random.normal(size=(16, 16)).astype(np.float32) / 4 for i in (1, 2, 3, 4)}
    constants |= {"one": np.ones(16, np.float32), "nil": np.zeros(16, np.float32)}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 16]) for name in ("x", "logits")]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _pair(model: onnx.ModelProto, layer: str) -> tuple[int, int, int]:
    """The types that a layer's activation has before its pair, that come out of it, and that its result has."""
    types = element_types(model)
    made = {node.output[0]: node for node in model.graph.node}
    product = next(node for node in model.graph.node if node.name == layer)
    back = made[product.input[0]]
    assert back.op_type == "DequantizeLinear" and made[back.input[0]].op_type == "QuantizeLinear"
    assert made[product.input[1]].op_type == "DequantizeLinear"  # no cast between a layer and its pairs
    return types[made[back.input[0]].input[0]], types[product.input[0]], types[product.output[0]]


def test_types_follow_the_fp16_graph_and_values_its_rounding() -> None:
    random = np.random.default_rng(0)
    fp32 = _block(random)
    x = random.normal(size=(64, 16)).astype(np.float32)
    view = GraphView(fp32)
    int8 = quantise(fp32, find_layers(fp32), largest_values(view, [{"x": x}]))
    fp16 = convert(view, kept_nodes(view, "fp16"), "fp16").model
    made = in_half(int8, fp16).model
    onnx.checker.check_model(made, full_check=True)
    single, half = TensorProto.FLOAT, TensorProto.FLOAT16
    assert _pair(made, "first") == (single, half, half)  # an input of the graph is quantised as it comes
    assert _pair(made, "second") == (half, half, half)
    assert _pair(made, "third") == (single, half, half)  # LayerNorm is FP32
    assert _pair(made, "last") == (half, single, single)  # and so are the logits
    own, _ = measure(Exact(fp32, ()), int8, [{"x": x}], [], tolerance=math.inf, basic=True)
    both, _ = measure(Exact(fp32, ()), made, [{"x": x}], [], tolerance=math.inf, basic=True)
    assert 1e-3 < both.max_error < 1.5 * own.max_error + 1e-2

    # The second product by hand, from its own input: INT8 in, FP16 scales, one FP16 result.
    model = rounded(made)
    second = next(node for node in model.graph.node if node.name == "second")
    pair = next(node for node in model.graph.node if node.output[0].startswith("b_quantized"))
    for name in (pair.input[0], second.output[0].removesuffix("/exact")):
        model.graph.output.append(helper.make_tensor_value_info(name, single, None))
    _, before, after = cpu_session(model, basic=True).run(None, {"x": x})
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in int8.graph.initializer}
    scale = stored["b_scale"].astype(np.float16).astype(np.float32)
    codes = np.clip(np.rint(before / scale), -128, 127)
    value = (codes * scale).astype(np.float16).astype(np.float32)
    weight = stored["w2_int8"] * stored["w2_scale"].astype(np.float16).astype(np.float32)
    want = (value @ weight.astype(np.float16).astype(np.float32)).astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(after, want, rtol=2e-3, atol=1e-3)


def test_a_scale_too_fine_for_fp16_stays_fp32() -> None:
    random = np.random.default_rng(1)
    fp32 = _block(random)
    limits = dict.fromkeys("abcdef", 4.0) | {"x": 4.0, "b": 1e-3}
    view = GraphView(fp32)
    made = in_half(quantise(fp32, find_layers(fp32), limits), convert(view, kept_nodes(view, "fp16"), "fp16").model)
    kinds = {tensor.name: tensor.data_type for tensor in made.model.graph.initializer}
    assert kinds["b_scale"] == TensorProto.FLOAT and "b_scale_fp16" not in kinds
    assert kinds["w2_scale_fp16"] == TensorProto.FLOAT16


def test_a_bundles_graphs_for_engines_are_measured_and_recorded(tiny_bundle: Path, tmp_path: Path) -> None:
    path = shutil.copytree(tiny_bundle, tmp_path / "tiny.mmx")
    bundle = Bundle.open(path)
    for precision in ("int8", "fp8"):
        with pytest.raises(UsageError, match="has no INT8 graph"):
            ensure_quantised(bundle, precision, tolerance=None, **QUIET)
    model = read_graph(bundle.graph().path)
    largest = largest_values(GraphView(model), utterances(bundle.manifest, 4, 2))
    bundle = with_graph(bundle, "int8", quantise(model, find_layers(model), largest))
    with pytest.raises(ParityError, match="off FP32"):
        ensure_quantised(bundle, "fp8", tolerance=1e-6, **QUIET)
    for precision, name in (("int8", "int8-fp16"), ("fp8", "fp8")):
        bundle, made = ensure_quantised(Bundle.open(path), precision, tolerance=None, **QUIET)
        parity = bundle.graph(name).spec.parity
        assert made and 1e-4 < parity["max_error"] < 1 and parity["samples"] == 8 and parity["quantised"] > 20
        assert parity["half_nodes"] > parity["fp32_nodes"] > 20
        assert ensure_quantised(Bundle.open(path), precision, tolerance=None, **QUIET)[1] is False
    _same_islands(bundle)
    # other ranges, other graphs
    bundle = with_graph(bundle, "int8", quantise(model, find_layers(model), {k: 2 * v for k, v in largest.items()}))
    assert Bundle.open(path).precisions == ("fp32", "fp16", "int8") and not bundle.passed_over
    assert len(list((path / "variants").iterdir())) == 2
    assert ensure_quantised(bundle, "int8", tolerance=None, **QUIET)[1]


def _same_islands(bundle: Bundle) -> None:
    """Every node that FP16 engines compute in FP32 is FP32 in INT8 engines, and no other."""
    single = []
    for precision in ("fp16", "int8-fp16"):
        model = read_graph(bundle.graph(precision).path)
        types = element_types(model)
        single.append(
            {
                label(node)
                for node in model.graph.node
                if node.op_type not in ("Cast", "QuantizeLinear", "DequantizeLinear", "Constant")
                and TensorProto.FLOAT in {types.get(name) for name in (*node.input, *node.output)}
            }
        )
    assert single[0] == single[1] and len(single[0]) > 20
