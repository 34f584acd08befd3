"""The largest magnitude of every float value of a graph, measured."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from mmx.export.precision.session import cpu_session
from mmx.export.precision.view import GraphView


def largest_values(view: GraphView, batches: Iterable[dict[str, NDArray]]) -> dict[str, float]:
    """Run the graph on ``batches`` and note max |x| of every computed float32 value (NaN counts as infinite)."""
    names = [name for node in view.nodes for name in node.output if name and view.is_float(name)]
    names += [name for name in view.inputs if view.is_float(name)]
    model = onnx.ModelProto()
    model.CopyFrom(view.model)
    graph = model.graph
    for position, name in enumerate(names):
        graph.node.append(helper.make_node("Abs", [name], [f"size:{position}"]))
        graph.node.append(helper.make_node("ReduceMax", [f"size:{position}"], [f"largest:{position}"], keepdims=0))
    del graph.output[:]
    graph.output.extend(
        helper.make_tensor_value_info(f"largest:{position}", TensorProto.FLOAT, []) for position in range(len(names))
    )
    session = cpu_session(model)
    largest = dict.fromkeys(names, 0.0)
    for batch in batches:
        for name, value in zip(names, session.run(None, batch), strict=True):
            largest[name] = max(largest[name], float(value)) if value == value else float("inf")
    return largest
