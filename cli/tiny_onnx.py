"""The smallest ONNX model worth running (y = x @ x), written without the onnx package, to try an engine with."""

from __future__ import annotations

import numpy as np

X = np.array([[1, 2], [3, 4]], np.float32)
Y = X @ X


def model() -> bytes:
    """A serialised ModelProto: float32 [2, 2] ``x`` -> ``y``, opset 18, IR version 8 (field numbers of onnx.proto)."""
    node = _text(1, "x") + _text(1, "x") + _text(2, "y") + _text(3, "square") + _text(4, "MatMul")
    graph = _message(1, node) + _text(2, "tiny") + _message(11, _tensor("x")) + _message(12, _tensor("y"))
    return _number(1, 8) + _message(7, graph) + _message(8, _number(2, 18))


def _tensor(name: str) -> bytes:
    """ValueInfoProto of a float32 [2, 2] tensor."""
    shape = _message(1, _number(1, 2)) * 2
    return _text(1, name) + _message(2, _message(1, _number(1, 1) + _message(2, shape)))


def _number(field: int, value: int) -> bytes:
    return bytes([field << 3, value])


def _message(field: int, payload: bytes) -> bytes:
    size = len(payload)
    length = bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])
    return bytes([field << 3 | 2]) + length + payload


def _text(field: int, value: str) -> bytes:
    return _message(field, value.encode())
