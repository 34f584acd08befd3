"""Where an ONNX file keeps its tensors, read from the protobuf wire format: no onnx package in the runtime.

An ONNX file may name other files that hold its tensors, and engines open whatever it names. A bundle's graph may only
name files of the bundle, so this walks every message that can hold a tensor (graphs, subgraphs of attributes,
functions, sparse tensors) and collects those names. Field numbers are those of onnx.proto (ONNX 1.18, IR version 11).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from mmx.runtime.errors import BadDataError

# message -> field number -> the message found there
_CHILDREN: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
    "Entry": {},
}
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DEEPEST = 64


def external_locations(path: Path) -> set[str]:
    """The file names that the ONNX file at ``path`` keeps tensors in; empty when all its weights are inline.

    Raises:
        BadDataError: the file is no protobuf message, or its graphs are nested beyond reason.
    """
    if path.stat().st_size == 0:
        raise BadDataError(f"{path} is empty", "run mmx export again")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return set(_locations(data, 0, len(data), "Model", 0))
        except (IndexError, ValueError) as e:
            raise BadDataError(f"{path} is not an ONNX file: {e}", "run mmx export again") from e


def _locations(data: mmap.mmap, start: int, end: int, message: str, depth: int) -> Iterator[str]:
    """The ``location`` of every external-data entry in ``data[start:end]``, which holds one ``message``."""
    if depth > _DEEPEST:
        raise ValueError(f"messages nested deeper than {_DEEPEST}")
    entry: dict[int, bytes] = {}
    for field, begin, stop in _fields(data, start, end):
        if message == "Entry":
            entry[field] = data[begin:stop]
        elif (child := _CHILDREN[message].get(field)) is not None:
            yield from _locations(data, begin, stop, child, depth + 1)
    if entry.get(_ENTRY_KEY) == b"location":
        yield entry.get(_ENTRY_VALUE, b"").decode("utf-8")


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(field number, begin, end) of each length-delimited field in ``data[start:end]``; the others are skipped."""
    at = start
    while at < end:
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _BYTES:
            size, at = _varint(data, at)
            if at + size > end:
                raise ValueError(f"a field at byte {at} runs past its message")
            yield tag >> 3, at, at + size
            at += size
        elif kind == _VARINT:
            _, at = _varint(data, at)
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"unknown wire type {kind} at byte {at}")
    if at != end:
        raise ValueError(f"a message ends at byte {at}, not {end}")


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """The unsigned number at ``at`` and where the next byte is."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError(f"a number at byte {at} does not fit 64 bits")
