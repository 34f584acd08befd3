"""A PyTorch system -> one ONNX graph, with the contract's names, every dynamic axis symbolic and nothing else."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from onnx_ir.passes import common
from onnxscript import optimizer
from torch import nn

from mmx.export.naming import name_axes, name_everything, name_folded_weights
from mmx.export.specs import ExportSpec
from mmx.runtime.manifest import TensorSpec

OPSET = 20  # the first with Gelu as one operator
_TO_THE_END = np.iinfo(np.int64).max


def to_onnx(system: nn.Module, spec: ExportSpec, name: str) -> onnx.ModelProto:
    """Export ``system`` (in eval mode) with the inputs, outputs and axes of ``spec``, weights inline.

    The exporter's own optimiser is left out. Its pattern rewriting takes longer than everything else together, and what
    it would find here the passes below do, or an engine does when it loads the graph.

    Raises:
        RuntimeError: an axis is symbolic that must not be, or the other way round: a fault in the system's code.
    """
    model = _exported(system, spec)
    graph = model.graph
    common.CommonSubexpressionEliminationPass()(model)  # first, so that a weight is transposed once
    weights = name_folded_weights(graph)
    optimizer.fold_constants(model, should_fold=lambda node: True if node.op_type == "Transpose" else None)
    _bypass_idle_slices(graph)
    for tidy in (
        common.IdentityEliminationPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
    ):
        tidy(model)
    name_everything(graph, tuple(tensor.name for tensor in spec.outputs), weights)
    name_axes(graph, _symbols(graph, spec))
    common.ClearMetadataAndDocStringPass()(model)  # stack traces, with the paths of this machine
    graph.name = name
    model.producer_name, model.producer_version = "mmx", version("mmx")
    proto = ir.to_proto(model)
    check_axes(proto, spec)
    return proto


def check_axes(model: onnx.ModelProto, spec: ExportSpec) -> None:
    """Raise RuntimeError unless inputs and outputs have exactly the names, dtypes and axes of ``spec``."""
    for role, found, wanted in (
        ("inputs", model.graph.input, spec.inputs),
        ("outputs", model.graph.output, spec.outputs),
    ):
        if (tensors := tuple(map(_tensor_spec, found))) != wanted:
            raise RuntimeError(f"the exported graph's {role} are {tensors}, not {wanted}")


def _tensor_spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    axes = tuple(axis.dim_param or axis.dim_value for axis in tensor.shape.dim)
    return TensorSpec(value.name, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name, axes)


def _exported(system: nn.Module, spec: ExportSpec) -> ir.Model:
    """What the exporter makes of the system, with its symbols (s22) for dynamic axes and its metadata on the nodes."""
    example = spec.cases[spec.example]
    args = tuple(torch.from_numpy(example[tensor.name]) for tensor in spec.inputs)
    dims = {axis: torch.export.Dim(axis, max=spec.limits.get(axis)) for axis in spec.dynamic_axes}
    shapes = tuple({i: dims[a] for i, a in enumerate(t.axes) if isinstance(a, str)} for t in spec.inputs)
    with torch.no_grad(), _quiet():
        traced = torch.export.export(system, args, dynamic_shapes=shapes, strict=False)
        names = [tensor.name for tensor in spec.inputs]
        program = torch.onnx.export(
            traced, dynamo=True, opset_version=OPSET, optimize=False, verbose=False, input_names=names
        )
    assert program is not None
    return program.model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's warnings about its own internals, and about the absent torchvision, from the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _symbols(graph: ir.Graph, spec: ExportSpec) -> dict[str, str]:
    """The contract's name for each symbol in the shapes of the graph's inputs."""
    return {
        str(symbol.value): axis
        for value, tensor in zip(graph.inputs, spec.inputs, strict=True)
        for symbol, axis in zip(value.shape or (), tensor.axes, strict=True)
        if isinstance(symbol, ir.SymbolicDim) and isinstance(axis, str)
    }


def _bypass_idle_slices(graph: ir.Graph) -> None:
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


def _constant(value: ir.Value | None) -> NDArray | None:
    return None if value is None or value.const_value is None else value.const_value.numpy()
