"""An ONNX Runtime session on the CPU for a graph that is held in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import onnxruntime as ort

_PROTOBUF_LIMIT = 2**31 - 2**20


def cpu_session(model: onnx.ModelProto, threads: int | None = None) -> ort.InferenceSession:
    """Load ``model``; graphs over protobuf's 2 GB go through a temporary file with external weights."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    providers = ["CPUExecutionProvider"]
    if model.ByteSize() < _PROTOBUF_LIMIT:
        return ort.InferenceSession(model.SerializeToString(), options, providers=providers)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path, save_as_external_data=True)
        return ort.InferenceSession(str(path), options, providers=providers)
