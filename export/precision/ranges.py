"""The largest magnitude of every float value of a graph, measured."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from mmx.export.precision.session import cpu_session
from mmx.export.precision.view import GraphView


def largest_values(view: GraphView, batches: Iterable[dict[str, NDArray]]) -> dict[str, float]:
    """Run the graph on ``batches`` and note max |x| of every computed float32 value (NaN counts as infinite)."""
    names = [name for name in view.inputs if view.is_float(name)]
    nodes = [measure for name in names for measure in _measure(name)]
    for node in view.nodes:  # each measured where it is made, so that no value outlives its use
        made = [name for name in node.output if name and view.is_float(name)]
        nodes += [node, *(measure for name in made for measure in _measure(name))]
        names += made
    model = onnx.ModelProto()
    model.CopyFrom(view.model)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:], model.graph.output[:]
    model.graph.node.extend(copies)
    model.graph.output.extend(helper.make_tensor_value_info(f"{name}:max", TensorProto.FLOAT, []) for name in names)
    session = cpu_session(model, in_order=True, basic=True)
    largest = dict.fromkeys(names, 0.0)
    for batch in batches:
        for name, value in zip(names, session.run(None, batch), strict=True):
            largest[name] = max(largest[name], float(value)) if value == value else float("inf")
    return largest


def _measure(name: str) -> list[NodeProto]:
    return [
        helper.make_node("Abs", [name], [f"{name}:abs"], f"{name}:abs"),
        helper.make_node("ReduceMax", [f"{name}:abs"], [f"{name}:max"], f"{name}:max", keepdims=0),
    ]
