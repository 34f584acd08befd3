"""An ONNX Runtime session on the CPU for a graph that is held in memory."""

from __future__ import annotations

import onnx
import onnxruntime as ort

from mmx.runtime.scratch import Scratch

_PROTOBUF_LIMIT = 2**31 - 2**20


def cpu_session(
    model: onnx.ModelProto, *, in_order: bool = False, basic: bool = False, as_written: bool = False
) -> ort.InferenceSession:
    """Load ``model``; graphs over protobuf's 2 GB go through a temporary file with external weights.

    ``in_order`` runs nodes as soon as they can, not when an output needs them, so that values are freed early.
    ``basic`` leaves out what pays only where a session runs often, and what computes FP8 graphs wrongly (ONNX Runtime
    1.32 from its extended level on: ``tests/precision/test_fp8.py``). ``as_written`` changes nothing at all: a
    quantised graph is then computed in floats between its quantisers, which is what it means, on every CPU.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False  # it keeps what the longest utterance took, a GB and more for v2em
    if as_written:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    elif basic:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    if in_order:
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    providers = ["CPUExecutionProvider"]
    if model.ByteSize() < _PROTOBUF_LIMIT:
        return ort.InferenceSession(model.SerializeToString(), options, providers=providers)
    with Scratch("graph") as scratch:
        path = scratch.path / "model.onnx"
        onnx.save(model, path, save_as_external_data=True)
        return ort.InferenceSession(str(path), options, providers=providers)
