"""The rows of a table as they are in its file: CSV, TSV, JSON Lines, Parquet, or Arrow as ``datasets`` saves it.

A Parquet or Arrow file may hold the media themselves, as Hugging Face's ``Audio`` and ``Video`` columns do (bytes and a
path); they are written to the user's cache. Class labels that are numbers there get their names.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmx.datasets.prepare.text_files import read_text
from mmx.runtime.errors import BadDataError, missing_extra
from mmx.runtime.files import whole_file
from mmx.runtime.machine import user_cache

TEXT_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
SUFFIXES = (*TEXT_SUFFIXES, ".parquet", ".arrow")
AT_ONCE = 16  # rows whose media are in memory
_ENDING = re.compile(r"\.[A-Za-z0-9]{1,5}")


@dataclass(frozen=True)
class Raw:
    """A row as it is.

    Attributes:
        line: of the file, from 1 on; of a Parquet file or a folder: which row. cells: by column.
        folder: what its paths are relative to. problem: why it cannot be read; "" if it can.
    """

    line: int
    cells: Mapping[str, Any]
    folder: Path
    problem: str = ""


def read_rows(path: Path) -> Iterator[Raw]:
    """The rows of a file.

    Raises:
        BadDataError: it cannot be read, or is not such a file. EnvironmentMissing: pyarrow is needed and not installed.
    """
    suffix = path.suffix.lower()
    if suffix in (".parquet", ".arrow"):
        for number, row in enumerate(_columnar(path), 1):
            yield Raw(number, row, path.parent)
    elif suffix in (".jsonl", ".ndjson"):
        yield from _json_lines(path)
    else:
        yield from _csv(path)


def _json_lines(path: Path) -> Iterator[Raw]:
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            is_row = isinstance(row, dict) and bool(row)
            yield Raw(number, row if is_row else {}, path.parent, "" if is_row else "not a JSON object")


def _csv(path: Path) -> Iterator[Raw]:
    text = read_text(path)
    head = text.split("\n", 1)[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ";" if ";" in head and "," not in head else ","
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
        for row in reader:
            yield Raw(reader.line_num, {str(key).strip(): value for key, value in row.items()}, path.parent)
    except csv.Error as e:
        raise BadDataError(f"{path} is not a table: {e}", "CSV with a heading") from e


def _columnar(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a Parquet file or an Arrow stream; of a column of media the paths, also under ``file``."""
    try:
        import pyarrow
    except ModuleNotFoundError as e:
        raise missing_extra("pyarrow, which reads Parquet,", "batch") from e
    try:
        with _opened(path) as (schema, batches):
            classes = _classes(schema.metadata)
            media = next((each.name for each in schema if _is_media(pyarrow, each.type)), None)
            for batch in batches:
                batch.validate(full=True)  # a damaged offset would be read from wherever it points to
                for start in range(0, batch.num_rows, AT_ONCE):
                    for row in batch.slice(start, AT_ONCE).to_pylist():
                        row |= {name: _named(row.get(name), names) for name, names in classes.items()}
                        if media is not None:
                            row[media] = row["file"] = _media_file(row[media])
                        yield row
    except (pyarrow.ArrowException, OSError, ValueError, KeyError) as e:
        kind = "Parquet" if path.suffix.lower() == ".parquet" else "Arrow"
        raise BadDataError(f"{path} is not a readable {kind} file: {e}".split("\n")[0]) from e


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """A file's schema and its record batches."""
    import pyarrow
    import pyarrow.parquet

    if path.suffix.lower() == ".parquet":
        with pyarrow.parquet.ParquetFile(path) as file:
            yield file.schema_arrow, file.iter_batches(batch_size=AT_ONCE)
    else:
        with pyarrow.memory_map(str(path)) as source, pyarrow.ipc.open_stream(source) as stream:
            yield stream.schema, stream


def _is_media(pyarrow: Any, kind: Any) -> bool:
    return bool(pyarrow.types.is_struct(kind)) and {"bytes", "path"} <= {
        kind.field(i).name for i in range(kind.num_fields)
    }


def _classes(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """The names of class labels by column, from what ``datasets`` writes about its features."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        found = {name: _class_names(feature) for name, feature in features.items()}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}
    return {name: names for name, names in found.items() if names}


def _class_names(feature: Any) -> list[str]:
    """The names of a class label, or of those in a list."""
    if isinstance(feature, list):
        feature = {"feature": feature[0]} if len(feature) == 1 else {}
    inner = feature.get("feature")
    if inner is not None:
        return _class_names(inner)
    return [str(name) for name in feature["names"]] if feature.get("_type") == "ClassLabel" else []


def _named(cell: Any, names: Sequence[str]) -> Any:
    if isinstance(cell, list):
        return [_named(each, names) for each in cell]
    return names[cell] if isinstance(cell, int) and 0 <= cell < len(names) else None


def _media_file(cell: Any) -> str:
    """The path of a row's media; what the table holds itself is written to the cache first. "": there is none."""
    if not isinstance(cell, dict):
        return ""
    content, path = cell.get("bytes"), str(cell.get("path") or "")
    if not isinstance(content, bytes) or not content:
        return path
    ending = Path(path).suffix
    name = hashlib.sha256(content).hexdigest()[:32] + (ending if _ENDING.fullmatch(ending) else "")
    file = user_cache("table-media") / name
    if not file.is_file():
        with whole_file(file) as part:
            part.write_bytes(content)
    return str(file)
