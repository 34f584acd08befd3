"""What a reader of ``on_ray`` hands to a network: a file, or a part of a long one, as a row of Arrow; no pickle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mmx.runtime.errors import MmxError
from mmx.runtime.packing import FACE_SHAPE, PIECE_SHAPE
from mmx.runtime.preprocess import Segment
from mmx.serving.batch.inputs import Task
from mmx.serving.batch.output import Row
from mmx.serving.segments import from_arrays, to_arrays

ARRAYS: dict[str, tuple[type, tuple[int, ...]]] = {
    "TOKENS": (np.int64, ()),
    "FACES": (np.float32, FACE_SHAPE),
    "PIECES": (np.float32, PIECE_SHAPE),
    "COUNTS": (np.int64, (3,)),
}
SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("path", pa.string()),
        ("text", pa.string()),
        ("transcript", pa.string()),
        ("read_from", pa.string()),
        ("number", pa.int32()),
        ("last", pa.bool_()),
        ("error", pa.string()),
        ("segments", pa.list_(pa.binary())),
        *((name, pa.large_binary()) for name in ARRAYS),
    ]
)


@dataclass(frozen=True)
class Chunk:
    """Some segments of one file: the ``number``-th chunk of it. ``error``: what ended the reading, in the last one."""

    task: Task
    read_from: str
    number: int
    segments: Sequence[Segment]
    error: MmxError | None
    last: bool


def chunk_table(chunk: Chunk) -> pa.Table:
    """A table of one row."""
    arrays = to_arrays(chunk.segments)
    error = chunk.error
    row = {
        "task": chunk.task.key,
        "path": chunk.task.path,
        "text": chunk.task.text,
        "transcript": chunk.task.transcript,
        "read_from": chunk.read_from,
        "number": chunk.number,
        "last": chunk.last,
        "error": json.dumps([error.message, error.hint, error.exit_code]) if error else None,
        "segments": arrays["SEGMENTS"].tolist(),
    }
    columns = {name: pa.array([value], SCHEMA.field(name).type) for name, value in row.items()}
    return pa.table(columns | {name: _one_binary(arrays[name]) for name in ARRAYS}, SCHEMA)


def chunks_in(table: pa.Table) -> list[Chunk]:
    """The chunks of a table; the arrays are views of it."""
    columns = {name: table.column(name) for name in SCHEMA.names}
    chunks = []
    for number in range(table.num_rows):
        row = {name: column[number] for name, column in columns.items() if name not in ARRAYS}
        known = {name: scalar.as_py() for name, scalar in row.items()}
        arrays: dict[str, NDArray[Any]] = {
            name: np.frombuffer(columns[name][number].as_buffer(), kind).reshape(-1, *shape)
            for name, (kind, shape) in ARRAYS.items()
        }
        segments = from_arrays({**arrays, "SEGMENTS": known["segments"]})
        task = Task(known["path"], known["text"], known["transcript"])
        error = _error(known["error"]) if known["error"] else None
        chunks.append(Chunk(task, known["read_from"], known["number"], segments, error, known["last"]))
    return chunks


def joined(chunks: dict[int, str]) -> list[Row]:
    """All rows of a file out of the JSON of its chunks: segments numbered through, the first error last."""
    parts: list[Row] = [row for number in sorted(chunks) for row in json.loads(chunks[number])]
    segments = [row for row in parts if row.get("segment") is not None]
    errors = [row for row in parts if row.get("error") is not None]
    return [{**row, "segment": number} for number, row in enumerate(segments)] + errors[:1] or parts[:1]


def _one_binary(array: NDArray[Any]) -> pa.Array:
    """An array's bytes as a column of one value, without a copy."""
    ends = np.array([0, array.nbytes], np.int64)
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, pa.py_buffer(ends), pa.py_buffer(array)])


def _error(line: str) -> MmxError:
    message, hint, code = json.loads(line)
    error = MmxError(message, hint)
    error.exit_code = code
    return error
