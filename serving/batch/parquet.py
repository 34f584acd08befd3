"""Results as a folder of Parquet shards, each there whole or not at all.

    results/_run.json              what the results depend on besides the files
    results/part-<number>-<id>.parquet

All rows of one file are in one shard. A row is a segment; a file at fault has a row with its error, after those of the
segments that were still answered; a file without segments has one empty row. So a file is done when it has any row.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmx.runtime.errors import BadDataError, UsageError
from mmx.runtime.files import UNFINISHED, whole_file, write_error, write_text
from mmx.runtime.manifest import Manifest
from mmx.runtime.prediction import arrow_row, arrow_schema
from mmx.serving.batch.results import Done, Record, Results, check_made_with, lock

RUN = "_run.json"  # readers of Parquet folders pass over names that begin with _ or .
Row = dict[str, Any]


def schema(manifest: Manifest) -> pa.Schema:
    """The columns: those of a prediction, which file and segment it is of, and a file's error. See docs/batch.md."""
    place = [("task", pa.string()), ("content", pa.string()), ("segment", pa.int32())]
    fault = [("error", pa.string()), ("hint", pa.string()), ("exit_code", pa.int32())]
    answer = [(column.name, column.type) for column in arrow_schema(manifest.labels, manifest.modalities)]
    return pa.schema([*place, *answer, *fault])


def rows_of(record: Record) -> list[Row]:
    """What one file adds to the results."""

    def own(words: str) -> str:
        return words.encode(errors="backslashreplace").decode()

    head = {"task": record.task, "content": record.content, "file": own(record.file)}
    rows: list[Row] = [
        {**arrow_row(prediction), **head, "segment": number} for number, prediction in enumerate(record.predictions)
    ]
    if (error := record.error) is not None:
        rows.append({**head, "error": own(error.message), "hint": own(error.hint), "exit_code": error.exit_code})
    return rows or [head]


class ParquetFolder(Results):
    """A results folder.

    Args:
        path: made if it is not there. manifest: of the bundle. made_with: see ``results.made_with``.
        shard_files, shard_s: a shard is written when it has so many files, or so many seconds after the last one.

    Raises:
        UsageError: another run is writing there, its results were made otherwise, or it holds other things.
        BadDataError: a shard cannot be read. EnvironmentMissing: the disk is full.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        made_with: dict[str, Any],
        *,
        shard_files: int = 1000,
        shard_s: float = 60.0,
    ) -> None:
        self.path, self._schema = path, schema(manifest)
        self._shard_files, self._shard_s = shard_files, shard_s
        self._rows: list[Row] = []
        self._files = 0
        self._since = time.monotonic()
        self._shard_of: dict[str, Path] = {}
        self.done: dict[str, Done] = {}
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path, os.O_RDONLY)
        except OSError as e:
            raise write_error(path, e) from e
        try:
            lock(path, self._lock)
            self._check_made_with(made_with)
            for leftover in path.glob(f".*{UNFINISHED}*"):
                leftover.unlink()
            for shard in self._shards():
                self._take_note(shard)
            self._next = 1 + max((_number(shard) for shard in self._shards()), default=-1)
        except BaseException:
            os.close(self._lock)
            raise

    def add(self, record: Record) -> None:
        if record.task in self.done:
            return
        self.done[record.task] = Done(record.file, record.content, record.error.exit_code if record.error else 0)
        self._rows += rows_of(record)
        self._files += 1
        if self._files >= self._shard_files or time.monotonic() - self._since > self._shard_s:
            self.flush()

    def flush(self) -> None:
        """Write a shard of what is waiting."""
        rows, self._rows, self._files, self._since = self._rows, [], 0, time.monotonic()
        if rows:
            shard = self.path / f"part-{self._next:05}-{secrets.token_hex(4)}.parquet"
            self._write(pa.Table.from_pylist(rows, self._schema), shard)
            self._shard_of |= {row["task"]: shard for row in rows}
            self._next += 1

    def remove(self, keys: Collection[str]) -> None:
        self.flush()
        for shard in {self._shard_of[key] for key in keys}:
            table = pq.read_table(shard)
            table = table.filter(pc.invert(pc.is_in(table["task"], pa.array(list(keys), pa.string()))))
            if table.num_rows:
                self._write(table, shard)
            else:
                shard.unlink()
        for key in keys:
            del self.done[key], self._shard_of[key]

    def close(self) -> None:
        try:
            self.flush()
        finally:
            os.close(self._lock)

    def _shards(self) -> list[Path]:
        return sorted(self.path.glob("part-*.parquet"))

    def _write(self, table: pa.Table, path: Path) -> None:
        with whole_file(path) as part:
            pq.write_table(table, part, compression="zstd")

    def _check_made_with(self, now: dict[str, Any]) -> None:
        path = self.path / RUN
        if not path.exists():
            if foreign := [path.name for path in self.path.iterdir() if not path.name.startswith(".")]:
                raise UsageError(f"{self.path} holds {foreign[0]}, which mmx batch did not write", "another --out")
            write_text(path, json.dumps(now, indent=2) + "\n")
            return
        try:
            before = json.loads(path.read_text())
        except (OSError, ValueError, RecursionError) as e:
            raise BadDataError(f"{path} cannot be read: {e}", "choose another --out") from e
        check_made_with(self.path, before, now)

    def _take_note(self, shard: Path) -> None:
        try:
            table = pq.read_table(shard, columns=["task", "file", "content", "exit_code"])
        except (OSError, pa.ArrowInvalid) as e:
            raise BadDataError(f"{shard} cannot be read: {e}", "remove it; its files are then done again") from e
        for row in table.to_pylist():  # an error's row is the last of its task
            self.done[row["task"]] = Done(row["file"], row["content"] or "", row["exit_code"] or 0)
            self._shard_of[row["task"]] = shard


def _number(shard: Path) -> int:
    return int(shard.name.split("-")[1])
