"""A PyTorch system -> one ONNX graph, with the contract's names, every dynamic axis symbolic and nothing else."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any
from unittest import mock

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes import common
from onnxscript import opset20, optimizer
from torch import nn

from mmx.export.naming import name_axes, name_everything, name_folded_weights
from mmx.export.specs import ExportSpec
from mmx.export.tidy import bypass_idle_slices, drop_zero_biases, fix_reshape_targets
from mmx.runtime.manifest import TensorSpec

OPSET = 20  # the first with Gelu as one operator
_op: Any = opset20  # its signatures do not know that a number is a constant


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
    bypass_idle_slices(graph)
    drop_zero_biases(graph)
    fix_reshape_targets(graph)
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
    inputs = {tensor.name: torch.from_numpy(example[tensor.name]) for tensor in spec.inputs}
    dims = {axis: torch.export.Dim(axis, max=spec.limits.get(axis)) for axis in spec.dynamic_axes}
    shapes = {t.name: {i: dims[a] for i, a in enumerate(t.axes) if isinstance(a, str)} for t in spec.inputs}
    with torch.no_grad(), _quiet():
        traced = torch.export.export(system, (), inputs, dynamic_shapes=shapes, strict=False)
        try:
            # The exporter would trace it all again to take operators apart, for two thirds of its time.
            with mock.patch.object(traced, "run_decompositions", lambda *_: traced):
                return _translated(traced, spec)
        except torch.onnx.OnnxExporterError:  # here is an operator that has to be taken apart
            return _translated(traced, spec)


def _translated(traced: torch.export.ExportedProgram, spec: ExportSpec) -> ir.Model:
    program = torch.onnx.export(
        traced,
        dynamo=True,
        opset_version=OPSET,
        optimize=False,
        verbose=False,
        input_names=[tensor.name for tensor in spec.inputs],
        custom_translation_table={
            torch.ops.aten.to.dtype: _cast,
            torch.ops.aten.rsub.Scalar: _subtract_from,
            torch.ops.aten.__and__.Tensor: _both,
        },
    )
    assert program is not None
    return program.model


# Translations of what the exporter only knows taken apart.
def _cast(x: Any, dtype: int, non_blocking: bool = False, copy: bool = False) -> Any:
    return _op.Cast(x, to=dtype)


def _subtract_from(x: Any, other: float) -> Any:
    return _op.Sub(_op.CastLike(other, x), x)


def _both(x: Any, y: Any) -> Any:
    return _op.And(x, y)


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
