"""What a reader of ``on_ray`` hands to a network: a file, or a part of a long one, as a row of Arrow; no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mmx.runtime.errors import MmxError
from mmx.runtime.packing import FACE_SHAPE, PIECE_SHAPE
from mmx.runtime.prediction import Prediction
from mmx.runtime.preprocess import Segment
from mmx.runtime.workers.segments import from_arrays, to_arrays
from mmx.runtime.workers.task import error_of, error_to_plain
from mmx.serving.batch.results import Record

ARRAYS: dict[str, tuple[type, tuple[int, ...]]] = {
    "TOKENS": (np.int64, ()),
    "FACES": (np.float32, FACE_SHAPE),
    "PIECES": (np.float32, PIECE_SHAPE),
    "COUNTS": (np.int64, (3,)),
}
SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("file", pa.string()),
        ("content", pa.string()),
        ("number", pa.int32()),
        ("last", pa.bool_()),
        ("error", pa.string()),
        ("segments", pa.list_(pa.binary())),
        *((name, pa.large_binary()) for name in ARRAYS),
    ]
)


@dataclass(frozen=True)
class Chunk:
    """Some segments of one file: the ``number``-th chunk of it.

    ``task``, ``file``, ``content``: see ``results.Record``. ``error``: what ended the reading, in the last one.
    """

    task: str
    file: str
    content: str
    number: int
    segments: Sequence[Segment]
    error: MmxError | None
    last: bool


def chunk_table(chunk: Chunk) -> pa.Table:
    """A table of one row."""
    arrays = to_arrays(chunk.segments)
    row = {
        "task": chunk.task,
        "file": json.dumps(chunk.file),  # which need not be Unicode
        "content": chunk.content,
        "number": chunk.number,
        "last": chunk.last,
        "error": json.dumps(error_to_plain(chunk.error)) if chunk.error else None,
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
        error = error_of(json.loads(known["error"])) if known["error"] else None
        file = json.loads(known["file"])
        chunks.append(Chunk(known["task"], file, known["content"], known["number"], segments, error, known["last"]))
    return chunks


def part_of(chunk: Chunk, predictions: Sequence[Prediction], error: MmxError | None) -> str:
    """A chunk's part of its file's record, as JSON."""
    return json.dumps(
        {
            "task": chunk.task,
            "file": chunk.file,
            "content": chunk.content,
            "predictions": [prediction.to_dict() for prediction in predictions],
            "error": error_to_plain(error) if error else None,
        }
    )


def joined(parts: Mapping[int, str]) -> Record:
    """The record of a file out of the parts of its chunks, in their order: all predictions, and the first error."""
    plain = [json.loads(parts[number]) for number in sorted(parts)]
    predictions = tuple(Prediction.from_dict(each) for part in plain for each in part["predictions"])
    error = next((error_of(part["error"]) for part in plain if part["error"]), None)
    return Record(plain[0]["task"], plain[0]["file"], plain[0]["content"], predictions, error)


def _one_binary(array: NDArray[Any]) -> pa.Array:
    """An array's bytes as a column of one value, without a copy."""
    ends = np.array([0, array.nbytes], np.int64)
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, pa.py_buffer(ends), pa.py_buffer(array)])
