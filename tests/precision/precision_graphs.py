"""Small float32 graphs for the tests of the precision rules."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

Constants = dict[str, NDArray]


def model(
    nodes: Sequence[NodeProto], shape: Sequence[int | str], constants: Constants | None = None
) -> onnx.ModelProto:
    """A graph from float32 ``x`` to float32 ``y``."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def simam(channels: int, size: int) -> onnx.ModelProto:
    """Conv1x1 -> SimAM (reference form) -> Conv1x1, so that the gate stands between half-precision nodes."""
    identity = np.eye(channels, dtype=np.float32)[:, :, None, None]
    n = size * size - 1
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w0"], ["f"], "conv0"),
        node("ReduceMean", ["f", "axes"], ["mean"], "mean", keepdims=1),
        node("Sub", ["f", "mean"], ["d"], "deviation"),
        node("Mul", ["d", "d"], ["d2"], "squared"),
        node("ReduceSum", ["d2", "axes"], ["sum"], "sum", keepdims=1),
        node("Div", ["sum", "n"], ["variance"], "variance"),
        node("Add", ["variance", "eps"], ["v1"], "plus_eps"),
        node("Mul", ["v1", "four"], ["v4"], "times_four"),
        node("Div", ["d2", "v4"], ["e"], "energy"),
        node("Add", ["e", "half"], ["e1"], "plus_half"),
        node("Sigmoid", ["e1"], ["gate"], "gate"),
        node("Mul", ["f", "gate"], ["g"], "gated"),
        node("Conv", ["g", "w1"], ["y"], "conv1"),
    ]
    constants = {
        "w0": identity,
        "w1": identity,
        "axes": np.array([2, 3], np.int64),
        "n": np.float32(n),
        "eps": np.float32(1e-4),
        "four": np.float32(4),
        "half": np.float32(0.5),
    }
    return model(nodes, ["batch", channels, size, size], constants)


def attention(width: int, mask: float) -> onnx.ModelProto:
    """One head of self-attention over [1, tokens, width]; every even token is masked by ``mask``, then a product."""
    weights = np.random.default_rng(3).normal(0, width**-0.5, (4, width, width)).astype(np.float32)
    node = helper.make_node
    nodes = [
        *(node("MatMul", ["x", f"w{name}"], [name], f"{name}_proj") for name in "qkv"),
        node("Mul", ["q", "scale"], ["qs"], "scaled"),
        node("Transpose", ["k"], ["kt"], "kt", perm=[0, 2, 1]),
        node("MatMul", ["qs", "kt"], ["s"], "scores"),
        node("Add", ["s", "mask"], ["sm"], "masked"),
        node("Softmax", ["sm"], ["p"], "softmax", axis=-1),
        node("MatMul", ["p", "v"], ["o"], "mix"),
        node("LayerNormalization", ["o", "gamma", "beta"], ["ln"], "norm", epsilon=1e-12),
        node("MatMul", ["ln", "wo"], ["y"], "out"),
    ]
    constants = {f"w{name}": weights[i] for i, name in enumerate("qkvo")}
    constants |= {"scale": np.float32(width**-0.5), "gamma": np.ones(width, np.float32)}
    constants |= {"beta": np.zeros(width, np.float32)}
    constants["mask"] = np.where(np.arange(8) % 2 == 0, np.float32(mask), np.float32(0))
    return model(nodes, [1, 8, width], constants)


def gelu_tanh() -> onnx.ModelProto:
    """Two products with ALBERT's GELU between them, written out."""
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "w"], ["a"], "in"),
        node("Pow", ["a", "three"], ["a3"], "cube"),
        node("Mul", ["a3", "c"], ["ca3"], "times_c"),
        node("Add", ["a", "ca3"], ["s"], "sum"),
        node("Mul", ["s", "r"], ["rs"], "times_r"),
        node("Tanh", ["rs"], ["t"], "tanh"),
        node("Add", ["t", "one"], ["t1"], "plus_one"),
        node("Mul", ["a", "t1"], ["at"], "gated"),
        node("Mul", ["at", "half"], ["g"], "halved"),
        node("MatMul", ["g", "w"], ["y"], "out"),
    ]
    scalars = {"three": 3, "c": 0.044715, "r": 0.7978845608, "one": 1, "half": 0.5}
    constants: Constants = {name: np.float32(value) for name, value in scalars.items()}
    constants["w"] = np.eye(8, dtype=np.float32)
    return model(nodes, ["rows", 8], constants)
