"""The layers of a graph that INT8 pays for: Conv, Gemm and MatMul with constant weights, wide on both sides.

A depth-wise convolution moves more bytes than it multiplies, and the products that make gates or labels have a handful
of results: quantising their inputs costs more than their arithmetic (``studies/NOTES.md``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx
from onnx import NodeProto, TensorProto

from mmx.export.precision.rules import fits
from mmx.export.precision.view import GraphView, label
from mmx.runtime.errors import UsageError

NARROWEST = 8
"""A layer with fewer results, or fewer inputs to each, stays in floats."""


@dataclass(frozen=True)
class Layer:
    """One layer. ``activation``, ``weight``, ``output``: names of values. ``axis``: the weight's output channels."""

    node: str
    op: str
    activation: str
    weight: str
    output: str
    axis: int

    @property
    def tensors(self) -> tuple[str, ...]:
        """The computed values whose ranges are needed.

        A convolution's result is quantised too: only then does ONNX Runtime run it in integers. A matrix product takes
        integers and gives floats, which is more exact and as fast.
        """
        return (self.activation, self.output) if self.op == "Conv" else (self.activation,)


def find_layers(model: onnx.ModelProto) -> list[Layer]:
    """The layers in the graph's order; matrix products of two activations are left out (they cost 17 dB in INT8)."""
    view = GraphView(model)
    layers = [_layer(view, node) for node in view.nodes]
    return [layer for layer in layers if layer is not None]


def without(layers: Sequence[Layer], patterns: Sequence[str]) -> list[Layer]:
    """The layers that no pattern means (their names, as file names are matched, or their operator).

    Raises:
        UsageError: a pattern means none, or nothing is left.
    """
    for pattern in patterns:
        if not any(fits(pattern, layer.node, layer.op) for layer in layers):
            raise UsageError(f"--keep-fp32 {pattern!r} fits no layer", "mmx calibrate -v lists them")
    left = [layer for layer in layers if not any(fits(pattern, layer.node, layer.op) for pattern in patterns)]
    if not left:
        raise UsageError("--keep-fp32 leaves no layer for INT8", "use mmx build-engine --fp16")
    return left


def _layer(view: GraphView, node: NodeProto) -> Layer | None:
    if node.op_type not in ("Conv", "Gemm", "MatMul") or len(node.input) < 2:
        return None
    activation, weight = node.input[0], node.input[1]
    tensor = view.constants.get(weight)
    if tensor is None or activation in view.constants or tensor.data_type != TensorProto.FLOAT:
        return None
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    if len(tensor.dims) < 2 or attributes.get("transA") or attributes.get("group", 1) > 1:
        return None
    axis = 0 if node.op_type == "Conv" or attributes.get("transB") else len(tensor.dims) - 1
    results = tensor.dims[axis]
    if min(results, math.prod(tensor.dims) // max(results, 1)) < NARROWEST:
        return None
    return Layer(label(node), node.op_type, activation, weight, node.output[0], axis)
