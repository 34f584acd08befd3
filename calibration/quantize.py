"""FP32 graph + limits -> QDQ graph: 7-bit weights per output channel, symmetric INT8 activations, biases in FP32.

What ``onnxruntime.quantization.quantize_static`` does with QDQ, QInt8, symmetric, per-channel, reduce_range,
QuantizeBias=False and MatMulConstBOnly; written out because the same nodes are also needed beside the FP32 layers, to
measure each by itself (``sensitivity``), and because a convolution alone needs its result quantised. A test compares
the two.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from mmx.calibration.layers import Layer
from mmx.calibration.ranges import LEVELS
from mmx.export.precision.view import GraphView, label

WEIGHT_BITS = 7
"""Of the eight that a weight is stored in. Two products of an unsigned byte with a weight then fit the 16-bit sums of
CPUs without VNNI (2 * 255 * 64 = 32640); with all eight, ONNX Runtime and OpenVINO saturate there, and a graph has
other answers on other machines. What the bit costs is in ``studies/NOTES.md``."""

WEIGHT_LEVELS = 2 ** (WEIGHT_BITS - 1)  # -64..64, as onnxruntime.quantization's reduce_range


class Quantiser:
    """Makes quantise-dequantise pairs for a graph; each value and weight is quantised once, whoever takes it.

    Attributes: ``nodes``: the pairs made since they were last taken. ``constants``: their scales and weights.
    """

    def __init__(self, view: GraphView, limits: Mapping[str, float]) -> None:
        self._view, self._limits = view, limits
        self._made: dict[str, str] = {}
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def activation(self, name: str) -> str:
        """The name of the value after INT8 and back."""
        if name not in self._made:
            self._made[name] = self._pair(name)
        return self._made[name]

    def pair_to(self, source: str, target: str) -> None:
        """Make ``target`` the value ``source`` after INT8 and back, with the limit of ``target``."""
        self._pair(source, target, target)

    def weight(self, name: str, axis: int) -> str:
        """The name of the dequantised weight: the FP32 tensor is stored as INT8 with a scale for each channel."""
        key = f"{name}|{axis}"
        if key not in self._made:
            values = self._view.array(name)
            assert values is not None
            integers, scales = quantised_weight(values, axis)
            stored = [f"{name}_int8", f"{name}_scale", f"{name}_zero"]
            self.constants += [
                numpy_helper.from_array(integers, stored[0]),
                numpy_helper.from_array(scales, stored[1]),
                numpy_helper.from_array(np.zeros(len(scales), np.int8), stored[2]),
            ]
            target = f"{name}_dequantized"
            self.nodes.append(helper.make_node("DequantizeLinear", stored, [target], f"{target}/dq", axis=axis))
            self._made[key] = target
        return self._made[key]

    def _pair(self, name: str, target: str | None = None, limit_of: str | None = None) -> str:
        known = limit_of or name
        scale, zero, integers = f"{known}_scale", f"{known}_zero", f"{known}_quantized"
        target = target or f"{name}_dequantized"
        limit = self._limits[known] or 1.0  # a value that is always 0
        self.constants.append(numpy_helper.from_array(np.array(limit / LEVELS, np.float32), scale))
        self.constants.append(numpy_helper.from_array(np.array(0, np.int8), zero))
        self.nodes.append(helper.make_node("QuantizeLinear", [name, scale, zero], [integers], f"{known}/q"))
        self.nodes.append(helper.make_node("DequantizeLinear", [integers, scale, zero], [target], f"{known}/dq"))
        return target


def quantised_weight(values: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Values of the weight's shape, -WEIGHT_LEVELS..WEIGHT_LEVELS, and the scale of each channel along ``axis``."""
    others = tuple(i for i in range(values.ndim) if i != axis)
    largest = np.abs(values).max(axis=others)
    scales = (np.where(largest > 0, largest, 1.0) / WEIGHT_LEVELS).astype(np.float32)
    shape = [1] * values.ndim
    shape[axis] = -1
    rounded = np.rint(values / scales.reshape(shape))
    return np.clip(rounded, -WEIGHT_LEVELS, WEIGHT_LEVELS).astype(np.int8), scales


def quantise(
    model: onnx.ModelProto, layers: Sequence[Layer], limits: Mapping[str, float], kept: Collection[str] = ()
) -> onnx.ModelProto:
    """The INT8 graph; the layers named in ``kept`` stay FP32. Inputs and outputs keep their names and types."""
    view = GraphView(model)
    chosen = {layer.node: layer for layer in layers if layer.node not in kept}
    made = Quantiser(view, limits)
    nodes: list[NodeProto] = []
    for original in view.nodes:
        node = NodeProto()
        node.CopyFrom(original)
        layer = chosen.get(label(original))
        if layer is not None:
            node.input[0], node.input[1] = made.activation(layer.activation), made.weight(layer.weight, layer.axis)
            nodes += made.nodes
            made.nodes = []
        nodes.append(node)
        if layer is not None and layer.op == "Conv":  # the layer's result keeps its name for all who take it
            node.output[0] = f"{layer.output}_float"
            made.pair_to(node.output[0], layer.output)
            nodes += made.nodes
            made.nodes = []
    result = onnx.ModelProto()
    result.CopyFrom(view.model)
    del result.graph.node[:], result.graph.initializer[:], result.graph.value_info[:]
    result.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input} | {value.name for value in result.graph.output}
    used |= {name for node in nodes for attribute in node.attribute for name in _captured(attribute)}
    constants = {tensor.name: tensor for tensor in [*view.constants.values(), *made.constants]}
    result.graph.initializer.extend(tensor for name, tensor in constants.items() if name in used)
    return result


def _captured(attribute: onnx.AttributeProto) -> set[str]:
    """Names that a loop's body takes from around it."""
    names: set[str] = set()
    for body in (attribute.g, *attribute.graphs):
        for node in body.node:
            names |= set(node.input)
            for inner in node.attribute:
                names |= _captured(inner)
    return names
