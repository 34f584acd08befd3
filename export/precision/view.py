"""A read-only view of an ONNX graph: who makes a value, who takes it, and of which element type it is."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, numpy_helper

from mmx.runtime.errors import BadDataError

FLOAT = TensorProto.FLOAT


class GraphView:
    """Index of one graph without duplicated value names (as ONNX demands).

    Attributes:
        model: the graph that is looked at. Its float ``Constant`` nodes have become initialisers.
        nodes: in topological order.
        producer: node index by the value it makes. consumers: node indices by the value they take.
        types: ONNX element type by value name (inputs, initialisers, and every value that shape inference reaches).
        constants: initialisers by name. opset: of ONNX's own operators.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = _constants_as_initialisers(model)
        graph = self.model.graph
        self.nodes: list[NodeProto] = list(graph.node)
        self.producer = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self.consumers: dict[str, list[int]] = defaultdict(list)
        for i, node in enumerate(self.nodes):
            for name in node.input:
                if name:
                    self.consumers[name].append(i)
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs = [value.name for value in graph.input if value.name not in self.constants]
        self.outputs = [value.name for value in graph.output]
        self.types = element_types(self.model)
        self.opset = max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=1)

    def is_float(self, name: str) -> bool:
        """Whether the value is float32."""
        return self.types.get(name) == FLOAT

    def float_inputs(self, index: int) -> list[str]:
        """The float32 inputs of a node."""
        return [name for name in self.nodes[index].input if name and self.is_float(name)]

    def computed_inputs(self, index: int) -> list[str]:
        """The float32 inputs of a node that another node makes, or that the caller gives."""
        return [name for name in self.float_inputs(index) if name not in self.constants]

    def takes_or_makes_float(self, index: int) -> bool:
        """Whether a node has anything to do with float32 values."""
        node = self.nodes[index]
        return any(self.is_float(name) for name in (*node.input, *node.output) if name)

    def array(self, name: str) -> NDArray | None:
        """The value of a constant, or None for a computed value."""
        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def users(self, index: int) -> list[int]:
        """The nodes that take what this node makes."""
        return [user for name in self.nodes[index].output for user in self.consumers.get(name, ())]

    def makers(self, index: int) -> list[int]:
        """The nodes that make what this node takes."""
        return [self.producer[name] for name in self.nodes[index].input if name in self.producer]


def label(node: NodeProto) -> str:
    """The node's name, or its first output's where it has none."""
    return node.name or next(iter(node.output), "?")


def read_graph(path: Path) -> onnx.ModelProto:
    """Load an ONNX file and its weights.

    Raises:
        BadDataError: not an ONNX file.
    """
    try:
        return onnx.load(path)
    except Exception as e:  # protobuf's own error classes differ between its implementations
        raise BadDataError(f"{path} is not a readable ONNX file: {e}") from e


def _constants_as_initialisers(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose float ``Constant`` nodes are initialisers of the same name, so that casts find one kind only."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept = []
    for node in copy.graph.node:
        tensor = _float_constant(node) if node.op_type == "Constant" else None
        if tensor is None:
            kept.append(node)
        else:
            copy.graph.initializer.append(tensor)
    del copy.graph.node[:]
    copy.graph.node.extend(kept)
    return copy


def _float_constant(node: NodeProto) -> TensorProto | None:
    attribute = node.attribute[0]
    if attribute.name == "value" and attribute.t.data_type == FLOAT:
        tensor = TensorProto()
        tensor.CopyFrom(attribute.t)
        tensor.name = node.output[0]
        return tensor
    if attribute.name == "value_float":
        return numpy_helper.from_array(np.array(attribute.f, np.float32), node.output[0])
    if attribute.name == "value_floats":
        return numpy_helper.from_array(np.array(attribute.floats, np.float32), node.output[0])
    return None


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element types by shape inference, on a copy whose large weights are left out (protobuf stops at 2 GB)."""
    light = onnx.ModelProto()
    light.CopyFrom(model)
    types: dict[str, int] = {}
    for tensor in light.graph.initializer:
        types[tensor.name] = tensor.data_type
        if len(tensor.raw_data) > 1024:
            light.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    large = {tensor.name for tensor in light.graph.initializer if len(tensor.raw_data) > 1024}
    small = [tensor for tensor in light.graph.initializer if tensor.name not in large]
    del light.graph.initializer[:]
    light.graph.initializer.extend(small)
    try:
        graph = onnx.shape_inference.infer_shapes(light, strict_mode=True).graph
    except onnx.shape_inference.InferenceError as e:
        raise BadDataError(f"the graph's types cannot be inferred: {e}", "check it with onnx.checker") from e
    for value in (*graph.input, *graph.output, *graph.value_info):
        types[value.name] = value.type.tensor_type.elem_type
    return types
