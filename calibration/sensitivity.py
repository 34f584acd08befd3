"""How much INT8 costs each layer by itself: every layer runs in FP32 and, beside it, in INT8 on the same input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from mmx.calibration.layers import Layer
from mmx.calibration.quantize import Quantiser
from mmx.calibration.ranges import Inputs
from mmx.export.precision.session import cpu_session
from mmx.export.precision.view import GraphView, label

HIGHEST_DB = 120.0


def layer_sqnr(
    model: onnx.ModelProto, layers: Sequence[Layer], limits: Mapping[str, float], samples: Iterable[Inputs]
) -> dict[str, float]:
    """Signal to quantisation noise of each layer's result, in dB, by the layer's node name.

    Input and weights in INT8 against both in FP32, over all samples; errors of layers before it do not count. Layers
    that share a weight but not an input (ALBERT's) are measured apart.
    """
    view = GraphView(model)
    wanted = {layer.node: layer for layer in layers}
    made = Quantiser(view, limits)
    nodes: list[NodeProto] = []
    outputs: list[str] = []
    order: list[str] = []
    for node in view.nodes:
        nodes.append(node)
        layer = wanted.get(label(node))
        if layer is None:
            continue
        beside = NodeProto()
        beside.CopyFrom(node)
        beside.name = f"{layer.node}/int8"
        beside.input[0], beside.input[1] = made.activation(layer.activation), made.weight(layer.weight, layer.axis)
        beside.output[0] = f"{layer.output}|int8"
        nodes += [*made.nodes, beside]
        made.nodes = []
        noise, sums = f"{layer.output}|noise", (f"{layer.output}|n2", f"{layer.output}|s2")
        nodes.append(helper.make_node("Sub", [layer.output, beside.output[0]], [noise]))
        nodes.append(helper.make_node("ReduceSumSquare", [noise], [sums[0]], keepdims=0))
        nodes.append(helper.make_node("ReduceSumSquare", [layer.output], [sums[1]], keepdims=0))
        outputs += sums
        order.append(layer.node)
    probe = onnx.ModelProto()
    probe.CopyFrom(view.model)
    del probe.graph.node[:], probe.graph.output[:], probe.graph.value_info[:]
    probe.graph.node.extend(nodes)
    probe.graph.initializer.extend(made.constants)
    probe.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in outputs)
    session = cpu_session(probe)
    total = np.zeros(len(outputs))
    for inputs in samples:
        total += np.array(session.run(outputs, inputs), np.float64)
    noise_power, signal = total[0::2], total[1::2]
    with np.errstate(divide="ignore", invalid="ignore"):
        decibels = np.where(noise_power > 0, 10 * np.log10(signal / noise_power), HIGHEST_DB)
    return {name: float(min(value, HIGHEST_DB)) for name, value in zip(order, decibels, strict=True)}
