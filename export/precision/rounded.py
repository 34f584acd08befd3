"""The FP32 graph that computes what a half-precision graph does on tensor cores: operands and results rounded to half
precision (and past its range, infinite), products accumulated in FP32.

ONNX Runtime on a CPU cannot be asked directly: it computes FP16 nodes in FP32 and drops the casts between them, at
every optimisation level, so 300 * 300 comes out as 90000. Explicit casts back and forth between FP32 and half it keeps;
``tests/precision/test_rounded.py`` checks that it still does.
"""

from __future__ import annotations

import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from mmx.export.precision.rules import MOVES
from mmx.export.precision.view import element_types

HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rewrite a variant made by ``convert`` so that any FP32 runtime shows its half-precision rounding and overflow.

    Args:
        model: a graph with FP16 or BF16 values inside and float32 inputs and outputs; it is not changed.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    types = {name: kind for name, kind in element_types(model).items() if kind in HALVES}
    for tensor in graph.initializer:
        if tensor.data_type in HALVES:
            wide = numpy_helper.to_array(tensor).astype("float32")
            tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
    nodes: list[NodeProto] = []
    for node in graph.node:
        copy = NodeProto()
        copy.CopyFrom(node)
        nodes.append(copy)
        halves = [(i, name) for i, name in enumerate(node.output) if name in types]
        if node.op_type == "Cast" and halves:
            copy.attribute[0].i = TensorProto.FLOAT
        if node.op_type in MOVES:
            continue  # what it moves is rounded already
        for i, name in halves:
            copy.output[i] = f"{name}/exact"
            nodes.append(helper.make_node("Cast", [f"{name}/exact"], [f"{name}/stored"], to=types[name]))
            nodes.append(helper.make_node("Cast", [f"{name}/stored"], [name], to=TensorProto.FLOAT))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return result
