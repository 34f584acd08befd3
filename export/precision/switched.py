"""One graph in which each part computes in half precision or in FP32 as a switch says: many questions, one session."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx
from onnx import NodeProto, TensorProto, helper

from mmx.export.precision.convert import HALF_TYPES
from mmx.export.precision.forms import fp32_inputs
from mmx.export.precision.rules import MOVES
from mmx.export.precision.view import GraphView


def switch(part: int) -> str:
    """The graph's input that switches a part: a bool, true for half precision."""
    return f"part/{part}/half"


def switched(view: GraphView, parts: Sequence[range], kept: Collection[int], half: str) -> onnx.ModelProto:
    """``rounded`` with a switch for each part; with all switches on it computes what ``rounded`` does.

    Args:
        view: the FP32 graph; it is not changed.
        parts: stretches of its node list that cover it.
        kept: indices of the nodes that stay FP32 whatever the switches say.
        half: "fp16" or "bf16".
    """
    part_of = {index: number for number, part in enumerate(parts) for index in part}
    nodes: list[NodeProto] = []
    taken: dict[tuple[str, int], str] = {}

    def round_to(exact: str, part: int, name: str) -> None:
        """Make ``name`` the value ``exact``, rounded where the part's switch is on."""
        nodes.append(helper.make_node("Cast", [exact], [f"{name}/stored"], to=HALF_TYPES[half]))
        nodes.append(helper.make_node("Cast", [f"{name}/stored"], [f"{name}/rounded"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Where", [switch(part), f"{name}/rounded", exact], [name]))

    def input_of(part: int, name: str) -> str:
        maker = view.producer.get(name)
        if maker is not None and maker not in kept and part_of[maker] == part:
            return name  # rounded where it was made
        if (name, part) not in taken:
            taken[name, part] = f"{name}/for/{part}"
            round_to(name, part, taken[name, part])
        return taken[name, part]

    for index, node in enumerate(view.nodes):
        copy = NodeProto()
        copy.CopyFrom(node)
        made: list[str] = []
        if index not in kept and view.takes_or_makes_float(index):
            full = fp32_inputs(node, view.opset)
            for position, name in enumerate(node.input):
                if name and view.is_float(name) and position not in full:
                    copy.input[position] = input_of(part_of[index], name)
            for position, name in enumerate(node.output):
                if name and view.is_float(name) and node.op_type not in MOVES:
                    copy.output[position] = f"{name}/exact"
                    made.append(name)
        nodes.append(copy)
        for name in made:
            round_to(f"{name}/exact", part_of[index], name)
    model = onnx.ModelProto()
    model.CopyFrom(view.model)
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    switches = (helper.make_tensor_value_info(switch(number), TensorProto.BOOL, []) for number in range(len(parts)))
    model.graph.input.extend(switches)
    return model
