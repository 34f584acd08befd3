"""Names a person can read in netron and in a profile: what belongs to which module of the system.

The exporter calls values ``add_17`` and ``val_2996``. Here a node is called after the module it belongs to and what it
does (``A.0.layers.2.blocks.5.mlp.fc1/MatMul``), a value after the node that makes it, a weight as in the state dict
(``.T`` where it is stored transposed), a constant after what it is to its node (``.../Reshape.shape``), and an axis as
in the graph contract.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Mapping, Set

import onnx_ir as ir
from onnx import defs

_SCOPES = "pkg.torch.onnx.name_scopes"


def name_folded_weights(graph: ir.Graph) -> frozenset[str]:
    """Before constants are folded: call what one weight alone determines after that weight. Returns those names."""
    seen = Counter(graph.initializers)
    derived = set(graph.initializers.values())
    for node in graph:
        if node.inputs and node.inputs[0] in derived and len(node.outputs) == 1:
            step = "T" if node.op_type == "Transpose" else node.op_type.lower()
            node.outputs[0].name = _unique(f"{node.inputs[0].name}.{step}", seen)
            derived.add(node.outputs[0])
    return frozenset(seen)


def name_everything(graph: ir.Graph, outputs: tuple[str, ...], weights: Set[str]) -> None:
    """Name nodes, values, constants and outputs.

    Args:
        graph: its nodes still carry the exporter's metadata.
        outputs: the names of the graph's outputs, in order.
        weights: the initialisers whose names are good as they are.
    """
    seen: Counter[str] = Counter()
    for node in graph:
        scope = _scope(node)
        node.name = _unique(f"{scope}/{node.op_type}" if scope else node.op_type, seen)
        for position, value in enumerate(node.outputs):
            value.name = f"{node.name}:{position}" if len(node.outputs) > 1 else node.name
    for value, name in zip(graph.outputs, outputs, strict=True):
        value.name = name
    for value in list(graph.initializers.values()):
        if (old := str(value.name)) not in weights:
            node, position = next(iter(value.uses()))
            del graph.initializers[old]
            value.name = _unique(f"{node.name}.{_role(node, position)}", seen)
            graph.initializers[value.name] = value


def name_axes(graph: ir.Graph, names: Mapping[str, str]) -> None:
    """Replace the exporter's symbols (``s22``) by the contract's names in every shape, also within expressions."""
    symbols = re.compile(rf"\b({'|'.join(map(re.escape, names))})\b")
    for value in (*graph.inputs, *(value for node in graph for value in node.outputs)):
        if value.shape is not None:
            value.shape = ir.Shape(
                symbols.sub(lambda found: names[found[1]], str(axis.value))
                if isinstance(axis, ir.SymbolicDim)
                else axis
                for axis in value.shape
            )


def _renamed(axis: int | ir.SymbolicDim, symbols: re.Pattern[str], names: Mapping[str, str]) -> int | str:
    return axis if isinstance(axis, int) else symbols.sub(lambda found: names[found[1]], str(axis.value))


def _scope(node: ir.Node) -> str:
    """The dotted path of the module whose forward the node comes from; "" for the system's own."""
    scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
    return scopes[-2] if len(scopes) > 1 and not scopes[-2].startswith("_empty") else ""


def _role(node: ir.Node, position: int) -> str:
    """What the operator calls its input number ``position``."""
    formal = defs.get_schema(node.op_type).inputs
    return str(formal[min(position, len(formal) - 1)].name).lower()


def _unique(name: str, seen: Counter[str]) -> str:
    seen[name] += 1
    return name if seen[name] == 1 else f"{name}_{seen[name]}"
