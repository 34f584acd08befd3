"""Rewrite an FP32 graph so that every node outside the kept ones computes in half precision, with casts in between."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from mmx.export.precision.forms import fp32_inputs
from mmx.export.precision.view import GraphView

HALF_TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


@dataclass(frozen=True)
class Converted:
    """A half-precision graph, and what was done: nodes by their type, casts put in."""

    model: onnx.ModelProto
    half_nodes: int
    fp32_nodes: int
    casts: int


def convert(view: GraphView, kept: Collection[int], half: str) -> Converted:
    """Make the variant.

    Inputs and outputs keep their types (float32 in, float32 logits, int64 ids). A constant that only half-precision
    nodes take is stored in half precision.

    Args:
        view: the FP32 graph; it is not changed.
        kept: indices of the nodes that stay FP32.
        half: "fp16" or "bf16".
    """
    return _Converter(view, frozenset(kept), half).run()


class _Converter:
    def __init__(self, view: GraphView, kept: frozenset[int], half: str) -> None:
        self.view, self.kept, self.half = view, kept, half
        self.half_type = HALF_TYPES[half]
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, TensorProto] = {}
        self.made: dict[str, int] = {name: TensorProto.FLOAT for name in view.inputs if view.is_float(name)}
        self.renamed: dict[tuple[str, int], str] = {}
        self.casts = 0

    def run(self) -> Converted:
        view = self.view
        half_nodes = 0
        for index, node in enumerate(view.nodes):
            is_half = index not in self.kept and view.takes_or_makes_float(index)
            half_nodes += is_half
            self._add(node, self.half_type if is_half else TensorProto.FLOAT)
        model = onnx.ModelProto()
        model.CopyFrom(view.model)
        graph = model.graph
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        for name in view.outputs:
            if self.made.get(name) == self.half_type:
                self._rename_output(name)
        graph.node.extend(self.nodes)
        graph.initializer.extend(self.constants.values())
        fp32 = sum(view.takes_or_makes_float(i) for i in range(len(view.nodes))) - half_nodes
        return Converted(model, half_nodes, fp32, self.casts)

    def _add(self, node: NodeProto, wanted: int) -> None:
        copy = NodeProto()
        copy.CopyFrom(node)
        full = fp32_inputs(node, self.view.opset) if wanted == self.half_type else frozenset()
        for position, name in enumerate(node.input):
            if name and self.view.is_float(name):
                copy.input[position] = self._as(name, TensorProto.FLOAT if position in full else wanted)
            elif name in self.view.constants:
                self.constants.setdefault(name, self.view.constants[name])
        for attribute in copy.attribute:
            for body in (attribute.g, *attribute.graphs):
                self._keep_captures(body)
        self.nodes.append(copy)
        for name in node.output:
            if name and self.view.is_float(name):
                self.made[name] = wanted

    def _keep_captures(self, body: onnx.GraphProto) -> None:
        """What a loop's body takes from around it stays as the body knows it: float values come as FP32."""
        own = {value.name for value in body.input} | {name for node in body.node for name in node.output}
        for node in body.node:
            for position, name in enumerate(node.input):
                if name in own:
                    continue
                if self.view.is_float(name):
                    node.input[position] = self._as(name, TensorProto.FLOAT)
                elif name in self.view.constants:
                    self.constants.setdefault(name, self.view.constants[name])
            for attribute in node.attribute:
                for inner in (attribute.g, *attribute.graphs):
                    self._keep_captures(inner)

    def _as(self, name: str, wanted: int) -> str:
        """The name under which a float value is found in the wanted type; makes the cast or the constant once."""
        if name in self.view.constants:
            return self._constant(name, wanted)
        if self.made.get(name, TensorProto.FLOAT) == wanted:
            return name
        key = (name, wanted)
        if key not in self.renamed:
            suffix = "fp32" if wanted == TensorProto.FLOAT else self.half
            self.renamed[key] = self._new_name(name, suffix)
            self.nodes.append(
                helper.make_node("Cast", [name], [self.renamed[key]], f"{self.renamed[key]}/cast", to=wanted)
            )
            self.casts += 1
        return self.renamed[key]

    def _new_name(self, name: str, suffix: str) -> str:
        new = f"{name}_{suffix}"
        while new in self.view.types:
            new += "_"
        return new

    def _constant(self, name: str, wanted: int) -> str:
        tensor = self.view.constants[name]
        if wanted == TensorProto.FLOAT:
            self.constants.setdefault(name, tensor)
            return name
        short = self._new_name(name, self.half)
        if short not in self.constants:
            self.constants[short] = _half_tensor(numpy_helper.to_array(tensor), short, self.half)
        return short

    def _rename_output(self, name: str) -> None:
        """Cast a half-precision value back under the name that the caller asks for."""
        inner = self._new_name(name, self.half)
        for node in self.nodes:
            for names in (node.input, node.output):
                for position, found in enumerate(names):
                    if found == name:
                        names[position] = inner
        self.nodes.append(helper.make_node("Cast", [inner], [name], f"{name}/cast", to=TensorProto.FLOAT))
        self.casts += 1


def _half_tensor(values: np.ndarray, name: str, half: str) -> TensorProto:
    """Round to nearest even. Subnormal results stay: they are exact enough for weights."""
    if half == "fp16":
        return numpy_helper.from_array(values.astype(np.float16), name)
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    tensor = TensorProto(name=name, data_type=TensorProto.BFLOAT16, dims=values.shape)
    tensor.raw_data = rounded.tobytes()
    return tensor
