"""Which nodes stay FP32, why, and that the result survives large activations in true FP16 arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import precision_graphs as graphs
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from mmx.export.precision.convert import convert
from mmx.export.precision.rounded import rounded
from mmx.export.precision.rules import Choices, count_by_rule, kept_nodes, with_finite_masks
from mmx.export.precision.session import cpu_session
from mmx.export.precision.view import GraphView, element_types
from mmx.runtime.errors import UsageError


def half_of(model: onnx.ModelProto, **options: Any) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The FP16 graph, and the rule by the name of each kept node."""
    view = GraphView(with_finite_masks(model)[0])
    kept = kept_nodes(view, "fp16", **options)
    return convert(view, kept, "fp16").model, {item.node: item.rule for item in kept.values()}


def in_true_fp16(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """numpy's float16 for every operation, sums included: harsher than any GPU."""
    return ReferenceEvaluator(model).run(None, {"x": x})[0]


@pytest.mark.parametrize("scale", [1, 16, 64, 500])
def test_simam_statistics_stay_fp32_and_survive_large_activations(scale: float) -> None:
    model = graphs.simam(3, 24)
    half, rules = half_of(model)
    for name in ("squared", "deviation", "sum", "variance", "energy"):
        assert rules[name] == "square"
    assert "gated" not in rules and "conv0" not in rules
    x = (scale * np.random.default_rng(1).normal(size=(2, 3, 24, 24))).astype(np.float32)
    want = ReferenceEvaluator(model).run(None, {"x": x})[0]
    for got in (in_true_fp16(half, x), cpu_session(rounded(half)).run(None, {"x": x})[0]):
        np.testing.assert_allclose(got, want, rtol=4e-3, atol=4e-3 * scale)


def test_without_the_rules_simam_overflows_at_16_sigma() -> None:
    view = GraphView(graphs.simam(3, 24))
    x = (16 * np.random.default_rng(1).normal(size=(2, 3, 24, 24))).astype(np.float32)
    careless = convert(view, (), "fp16").model
    want = ReferenceEvaluator(view.model).run(None, {"x": x})[0]
    assert not np.allclose(in_true_fp16(careless, x), want, rtol=0.05)


@pytest.mark.parametrize("mask", [-np.inf, float(np.finfo(np.float32).min), -1e9, -3e4])
@pytest.mark.parametrize("scale", [1, 16, 64])
def test_attention_with_any_mask_is_finite_and_right(mask: float, scale: float) -> None:
    model = graphs.attention(16, mask)
    half, rules = half_of(model)
    assert rules == {"norm": "normalisation", "out": "logits"}
    x = (scale * np.random.default_rng(2).normal(size=(1, 8, 16)) / 4).astype(np.float32)
    got = in_true_fp16(half, x)
    assert np.isfinite(got).all()
    if scale == 1:  # at larger scales the softmax decides between nearly equal giants
        np.testing.assert_allclose(got, cpu_session(model).run(None, {"x": x})[0], atol=1e-2)


def test_layer_norm_takes_one_type() -> None:
    half, _ = half_of(graphs.attention(16, -1e9))
    types = element_types(half)
    (norm,) = (node for node in half.graph.node if node.op_type == "LayerNormalization")
    assert {types[name] for name in (*norm.input, *norm.output)} == {TensorProto.FLOAT}


@pytest.mark.parametrize("scale", [1, 64])
def test_a_cube_stays_fp32_until_its_tanh(scale: float) -> None:
    model = graphs.gelu_tanh()
    half, rules = half_of(model)
    assert {name for name, rule in rules.items() if rule == "square"} == {"cube", "times_c", "sum", "times_r", "tanh"}
    x = (scale * np.random.default_rng(4).normal(size=(5, 8))).astype(np.float32)
    np.testing.assert_allclose(in_true_fp16(half, x), in_true_fp16(model, x), rtol=2e-3, atol=2e-3)


def test_the_running_sum_of_a_residual_trunk_stays_fp32_and_a_bias_does_not() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "embed"),
        helper.make_node("LayerNormalization", ["a", "ones"], ["n"], "norm1"),
        helper.make_node("MatMul", ["n", "w"], ["m"], "product"),
        helper.make_node("Add", ["m", "ones"], ["f"], "bias"),
        helper.make_node("Add", ["a", "f"], ["r"], "residual"),
        helper.make_node("LayerNormalization", ["r", "ones"], ["o"], "norm2"),
        helper.make_node("MatMul", ["o", "w"], ["y"], "out"),
    ]
    model = graphs.model(nodes, ["n", 8], {"w": np.eye(8, dtype=np.float32), "ones": np.ones(8, np.float32)})
    _, rules = half_of(model)
    assert rules["residual"] == "residual" and not {"bias", "product", "embed"} & set(rules)


def test_measured_range_keeps_what_would_overflow() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "large"),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "v"], ["b"], "small"),
        helper.make_node("MatMul", ["b", "v"], ["y"], "out"),
    ]
    eye = np.eye(4, dtype=np.float32)
    model = graphs.model(nodes, ["n", 4], {"w": 1e5 * eye, "v": 1e-6 * eye})
    _, rules = half_of(model, largest={"x": 1.0, "a": 1e5, "r": 1e5, "b": 0.1, "y": 1e-7})
    assert rules == {"large": "constant", "relu": "range", "small": "range", "out": "logits"}


def test_every_reason_is_said_and_counted() -> None:
    view = GraphView(graphs.simam(3, 8))
    kept = kept_nodes(view, "fp16")
    assert all(item.reason and item.rule for item in kept.values())
    assert sum(count_by_rule(kept).values()) == len(kept)


def test_a_small_constant_is_not_lost() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "first"),
        helper.make_node("Abs", ["a"], ["b"], "abs"),
        helper.make_node("Add", ["b", "eps"], ["c"], "plus_eps"),
        helper.make_node("MatMul", ["c", "w"], ["y"], "out"),
    ]
    model = graphs.model(nodes, ["n", 4], {"w": np.eye(4, dtype=np.float32), "eps": np.float32(1e-12)})
    _, rules = half_of(model)
    assert rules["plus_eps"] == "constant"


def test_values_that_a_loop_body_takes_from_outside_stay_fp32() -> None:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["state", "outer"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["outer"], "before"),
        helper.make_node("Loop", ["trips", "true", "outer"], ["looped"], "loop", body=body),
        helper.make_node("MatMul", ["looped", "w"], ["y"], "after"),
    ]
    constants = {"w": np.eye(4, dtype=np.float32), "trips": np.int64(3), "true": np.bool_(True)}
    model = graphs.model(nodes, [2, 4], constants)
    half, rules = half_of(model)
    assert rules["loop"] == "state"
    x = np.full((2, 4), 1.5, np.float32)
    np.testing.assert_array_equal(cpu_session(half).run(None, {"x": x})[0], 4 * x)


def between(node: onnx.NodeProto, constants: dict[str, Any], domain: str = "") -> onnx.ModelProto:
    """Two convolutions with one node between them, from ``a`` to ``b``."""
    node.domain = domain
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "first"),
        node,
        helper.make_node("Conv", ["b", "w"], ["y"], "second"),
        helper.make_node("Conv", ["y", "w"], ["z"], "last"),
    ]
    nodes[-1].output[0], nodes[2].output[0], nodes[-1].input[0] = "y", "c", "c"
    eye = np.eye(3, dtype=np.float32)[:, :, None, None]
    return graphs.model(nodes, ["batch", 3, 6, 6], {"w": eye, **constants})


@pytest.mark.parametrize("scales", ["constant", "computed"])
def test_a_resize_is_half_and_its_scales_are_not(scales: str) -> None:
    """In FP16 a scale of 1/3 would be another one; ONNX does not even allow it."""
    constants = {"scales": np.float32([1, 1, 1 / 3, 7 / 3]), "one": np.float32([1, 1, 1, 1])}
    model = between(helper.make_node("Resize", ["a", "", "scales"], ["b"], "resize", mode="linear"), constants)
    if scales == "computed":
        model.graph.node.insert(1, helper.make_node("Mul", ["scales", "one"], ["made"], "made"))
        model.graph.node[2].input[2] = "made"
    half, rules = half_of(model)
    onnx.shape_inference.infer_shapes(half, check_type=True, strict_mode=True)
    assert "resize" not in rules
    types = element_types(half)
    (resize,) = (node for node in half.graph.node if node.op_type == "Resize")
    assert [types[name] for name in resize.input if name] == [TensorProto.FLOAT16, TensorProto.FLOAT]
    x = np.random.default_rng(0).normal(size=(2, 3, 6, 6)).astype(np.float32)
    want = cpu_session(model).run(None, {"x": x})[0]
    assert want.shape == (2, 3, 2, 14)
    for graph in (rounded(half), half):
        np.testing.assert_allclose(cpu_session(graph, basic=True).run(None, {"x": x})[0], want, atol=4e-3)


def test_an_operator_without_a_half_form_stays_fp32_whatever_is_allowed() -> None:
    model = between(helper.make_node("Celu", ["a"], ["b"], "celu"), {})
    half, rules = half_of(model, choices=Choices(allow_half=("celu",)))
    assert rules["celu"] == "form"
    onnx.shape_inference.infer_shapes(half, check_type=True, strict_mode=True)
    x = np.random.default_rng(0).normal(size=(1, 3, 6, 6)).astype(np.float32)
    np.testing.assert_allclose(in_true_fp16(half, x), in_true_fp16(model, x), atol=4e-3)


def test_boxes_for_suppression_stay_fp32() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["boxes"], "boxes"),
        helper.make_node("ReduceMax", ["boxes", "axes"], ["best"], "best", keepdims=0),
        helper.make_node("Unsqueeze", ["best", "axes1"], ["scores"], "scores"),
        helper.make_node("NonMaxSuppression", ["boxes", "scores", "most"], ["picked"], "nms"),
        helper.make_node("Cast", ["picked"], ["y"], "cast", to=TensorProto.FLOAT),
    ]
    constants = {"w": np.eye(4, dtype=np.float32), "axes": np.int64([2]), "axes1": np.int64([1]), "most": np.int64([3])}
    half, _ = half_of(graphs.model(nodes, [1, 5, 4], constants))
    onnx.shape_inference.infer_shapes(half, check_type=True, strict_mode=True)
    types = element_types(half)
    (nms,) = (node for node in half.graph.node if node.op_type == "NonMaxSuppression")
    assert {types[name] for name in nms.input[:2]} == {TensorProto.FLOAT}


def test_an_operator_of_somebodys_own_stays_fp32() -> None:
    model = between(helper.make_node("Swish", ["a"], ["b"], "own"), {}, domain="my.own")
    model.opset_import.append(helper.make_opsetid("my.own", 1))
    model.graph.value_info.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, ["batch", 3, 6, 6]))
    view = GraphView(model)
    assert kept_nodes(view, "fp16")[1].rule == "form"


def test_a_user_keeps_nodes_and_allows_others() -> None:
    model = graphs.simam(3, 8)
    _, plain = half_of(model)
    assert "conv0" not in plain and plain["squared"] == "square"
    _, chosen = half_of(model, choices=Choices(keep_fp32=("conv?", "Sigmoid"), allow_half=("squared", "ReduceSum")))
    assert chosen["conv0"] == "keep-fp32" and chosen["gate"] == "keep-fp32"
    assert "squared" not in chosen and "sum" not in chosen and chosen["deviation"] == "square"
    for option, choices in (("keep-fp32", Choices(("nothing*",))), ("allow-half", Choices((), ("nothing*",)))):
        with pytest.raises(UsageError, match=rf"--{option} 'nothing\*' fits no node"):
            half_of(model, choices=choices)
