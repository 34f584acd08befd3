"""Small rewrites of the exporter's graph: what it writes for any shape, said plainly for the shapes at hand."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

_TO_THE_END = np.iinfo(np.int64).max


def fix_reshape_targets(graph: ir.Graph) -> None:
    """Give each Reshape its target as a constant, instead of putting it together from sizes while it runs.

    The exporter recorded the shapes: a number where an axis is fixed, 0 (keep) where a dynamic axis stays
    in its place, and -1 (the rest) for at most one that does not. Engines fuse around a constant target.
    """
    targets: dict[tuple[int, ...], ir.Value] = {}
    for node in graph:
        if node.op_type != "Reshape" or (target := _target(node)) is None:
            continue
        if target not in targets:
            tensor = ir.tensor(np.array(target, np.int64), name=f"target_{len(targets)}")
            targets[target] = ir.Value(name=tensor.name, const_value=tensor, type=ir.TensorType(tensor.dtype))
            targets[target].shape = ir.Shape([len(target)])
            graph.register_initializer(targets[target])
        node.replace_input_with(1, targets[target])
        node.attributes.pop("allowzero", None)


def bypass_idle_slices(graph: ir.Graph) -> None:
    """Let what reads ``x[:]`` read x: the exporter writes a Slice for every axis of an index, also for a bare colon."""
    for node in graph:
        if node.op_type != "Slice" or len(node.inputs) < 4:
            continue
        data = node.inputs[0]
        starts, ends, _axes, *steps = map(_constant, node.inputs[1:])
        if data is None or starts is None or ends is None or any(step is None or (step != 1).any() for step in steps):
            continue
        if not starts.any() and (ends == _TO_THE_END).all():
            node.outputs[0].replace_all_uses_with(data)


def drop_zero_biases(graph: ir.Graph) -> None:
    """Take away the biases of zeros that the exporter gives to convolutions without one."""
    for node in graph:
        if node.op_type == "Conv" and len(node.inputs) == 3:
            bias = _constant(node.inputs[2])
            if bias is not None and not bias.any():
                node.resize_inputs(2)


def _target(node: ir.Node) -> tuple[int, ...] | None:
    """The constant that says the same as a Reshape's computed target; None if there is none."""
    data, after = node.inputs[0], node.outputs[0].shape
    if data is None or after is None:
        return None
    axes = [axis if isinstance(axis, int) else str(axis.value) for axis in after]
    if 0 in axes:
        return None
    dynamic = [position for position, axis in enumerate(axes) if isinstance(axis, str)]
    if len(dynamic) > 1:
        before = [str(axis) for axis in data.shape or ()]
        dynamic = [position for position in dynamic if before[position : position + 1] != [axes[position]]]
    if len(dynamic) > 1:
        return None
    target = [0 if isinstance(axis, str) else axis for axis in axes]
    for position in dynamic:
        target[position] = -1
    return tuple(target)


def _constant(value: ir.Value | None) -> NDArray | None:
    return None if value is None or value.const_value is None else value.const_value.numpy()
