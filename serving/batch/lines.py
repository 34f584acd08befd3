"""Results as one file that grows: JSON Lines (a line for each file) or CSV (a flat row for each segment, for pandas).

A record is written in one piece as soon as it is known; a kill loses at most the last one, which the next run removes.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Collection, Generator
from pathlib import Path
from typing import Any

from mmx.runtime.errors import BadDataError, MmxError, UsageError
from mmx.runtime.files import write_bytes, write_error
from mmx.runtime.manifest import Manifest
from mmx.runtime.prediction import Prediction
from mmx.runtime.quality import NUMBERS
from mmx.serving.batch.results import Done, Record, Results, check_made_with, lock

Found = Generator[tuple[str, Done, bytes], None, bool]  # key, what is done, the record as it was written
PLACE = ("task", "content", "made_with", "rows", "file", "segment")  # the first columns of a CSV
FAULT = ("error", "hint", "exit_code")  # the last
STAGES = ("decode", "faces", "mel", "text", "network")


class LinesFile(Results):
    """A results file.

    Args:
        path: made if it is not there. made_with: see ``results.made_with``. form: how a record is written and read.
        resume: go on with a file that is there.

    Raises:
        UsageError: it is there and ``resume`` is not set; another process writes to it; it was made otherwise.
        BadDataError: it is no results file. EnvironmentMissing: the disk is full.
    """

    def __init__(self, path: Path, made_with: dict[str, Any], form: JsonLines | Csv, *, resume: bool) -> None:
        if path.exists() and not resume:
            raise UsageError(f"{path} is there already", "--resume goes on with it; or remove it")
        self.path, self._form, self._made_with = path, form, made_with
        self._file = self._open()
        try:
            self.done, whole = self._read(lambda key: True)
            if not whole:  # the last record was cut off
                self._rewrite(lambda key: True)
            elif not os.fstat(self._file).st_size:
                self._append(form.header())
        except BaseException:
            os.close(self._file)
            raise

    def add(self, record: Record) -> None:
        if record.task not in self.done:
            self._append(self._form.record(record, self._made_with))
            self.done[record.task] = Done(record.file, record.content, record.error.exit_code if record.error else 0)

    def remove(self, keys: Collection[str]) -> None:
        self._rewrite(lambda key: key not in keys)

    def close(self) -> None:
        os.close(self._file)

    def _open(self) -> int:
        """The file, open and locked; not one that another process has replaced meanwhile."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            while True:
                file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
                try:
                    lock(self.path, file)
                    if self.path.exists() and os.path.samestat(os.fstat(file), self.path.stat()):
                        return file
                except BaseException:
                    os.close(file)
                    raise
                os.close(file)
        except OSError as e:
            raise write_error(self.path, e) from e

    def _read(self, keep: Callable[[str], bool], into: list[bytes] | None = None) -> tuple[dict[str, Done], bool]:
        """What is done, of the tasks to keep; and whether the file is whole."""
        done: dict[str, Done] = {}
        with self.path.open("rb") as file:
            found = self._form.records(file, self.path, self._made_with)
            while True:
                try:
                    key, each, content = next(found)
                except StopIteration as end:
                    return done, bool(end.value)
                if keep(key) and key not in done:
                    done[key] = each
                    if into is not None:
                        into.append(content)

    def _rewrite(self, keep: Callable[[str], bool]) -> None:
        kept: list[bytes] = []
        self.done, _ = self._read(keep, kept)
        write_bytes(self.path, b"".join([self._form.header(), *kept]))
        old = self._file
        self._file = self._open()
        os.close(old)

    def _append(self, content: bytes) -> None:
        size = os.fstat(self._file).st_size
        try:
            left = memoryview(content)
            while left:
                left = left[os.write(self._file, left) :]
        except OSError as e:
            os.ftruncate(self._file, size)  # no half record
            raise write_error(self.path, e) from e


class JsonLines:
    """A line of JSON for each file: its record, with ``made_with``."""

    def header(self) -> bytes:
        """Nothing: each line stands for itself."""
        return b""

    def record(self, record: Record, made_with: dict[str, Any]) -> bytes:
        """One line."""
        line = {
            "schema_version": made_with["schema_version"],
            "file": record.file,
            "task": record.task,
            "content": record.content,
            "made_with": made_with,
            "error": plain_error(record.error),
            "predictions": [prediction.to_dict() for prediction in record.predictions],
        }
        return json.dumps(line, allow_nan=False).encode("ascii") + b"\n"

    def records(self, file: Any, path: Path, made_with: dict[str, Any]) -> Found:
        """The records of a file, and in the end whether it is whole."""
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return False
            try:
                content = json.loads(line)
                error = content["error"]
                done = Done(_escaped(content["file"]), content["content"], error["exit_code"] if error else 0)
                key, before = content["task"], content["made_with"]
            except (ValueError, KeyError, TypeError, RecursionError) as e:
                raise BadDataError(f"{path}, line {number}, is no line of a results file", "give another --out") from e
            check_made_with(path, before, made_with)
            yield key, done, line
        return True


class Csv:
    """A row for each segment, with ``Prediction.to_flat`` in columns; an error is a row of its own."""

    def __init__(self, manifest: Manifest) -> None:
        labels, modalities = manifest.labels, manifest.modalities
        columns = Prediction.flat_columns(labels, modalities, {"timings_ms": STAGES, "quality": NUMBERS})
        self._columns = [*PLACE, *(name for name in columns if name not in PLACE), *FAULT]

    def header(self) -> bytes:
        """The row of names."""
        return self._line(dict(zip(self._columns, self._columns, strict=True)))

    def record(self, record: Record, made_with: dict[str, Any]) -> bytes:
        """The rows of one file."""
        rows: list[dict[str, Any]] = [
            prediction.to_flat() | {"segment": number} for number, prediction in enumerate(record.predictions)
        ]
        if record.error is not None or not rows:
            rows.append(plain_error(record.error) or {})
            rows[-1]["error"] = rows[-1].pop("message", None)
        head = {
            "task": record.task,
            "content": record.content,
            "made_with": json.dumps(made_with),
            "rows": len(rows),
            "file": record.file,
        }
        return b"".join(self._line(row | head) for row in rows)

    def records(self, file: Any, path: Path, made_with: dict[str, Any]) -> Found:
        """The records of a file, and in the end whether it is whole."""
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        reader = csv.reader(text, strict=True)
        rows: list[dict[str, str]] = []  # of a file whose rows are not all there yet
        complete: list[dict[str, str]] = []  # of the file before, if nothing has come after it
        ends_well = _ends_with_newline(path)
        try:
            columns = next(reader, None)
            if columns is None:
                return True
            if columns != self._columns:
                if not ends_well and self.header().startswith(path.read_bytes()[: len(self.header())]):
                    return False
                if set(PLACE) <= set(columns):
                    raise UsageError(f"{path} was made with another bundle", "give another --out")
                raise BadDataError(f"{path} is no results file of mmx", "give another --out")
            try:
                for values in reader:
                    if complete:
                        yield self._found(complete, path, made_with)
                        complete = []
                    if len(values) != len(columns):
                        return False
                    rows.append(dict(zip(columns, values, strict=True)))
                    if len(rows) == int(rows[-1]["rows"]):
                        complete, rows = rows, []
            except csv.Error:  # the last row was cut off inside quotes, so that the one before is whole
                if complete:
                    yield self._found(complete, path, made_with)
                return False
            if complete and ends_well:
                yield self._found(complete, path, made_with)
            return ends_well and not rows
        except (ValueError, KeyError, TypeError) as e:
            raise BadDataError(f"{path} is no results file of mmx", "give another --out") from e

    def _found(self, rows: list[dict[str, str]], path: Path, made_with: dict[str, Any]) -> tuple[str, Done, bytes]:
        check_made_with(path, json.loads(rows[0]["made_with"]), made_with)
        done = Done(rows[0]["file"], rows[0]["content"], int(rows[-1]["exit_code"] or 0))
        return rows[0]["task"], done, b"".join(map(self._line, rows))

    def _line(self, row: dict[str, Any]) -> bytes:
        line = io.StringIO()
        writer = csv.DictWriter(line, self._columns, extrasaction="ignore", lineterminator="\n")
        writer.writerow({name: _escaped(value) if isinstance(value, str) else value for name, value in row.items()})
        return line.getvalue().encode()


def plain_error(error: MmxError | None) -> dict[str, Any] | None:
    """An error in results."""
    return None if error is None else {"message": error.message, "hint": error.hint, "exit_code": error.exit_code}


def _escaped(text: str) -> str:
    """Text whose odd bytes (of file names that are no Unicode) are escaped."""
    return text.encode(errors="backslashreplace").decode()


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
