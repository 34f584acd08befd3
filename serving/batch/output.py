"""The results folder of ``mmx batch``: Parquet shards, each there whole or not at all, and what is done already.

    results/_run.json              what the results depend on besides the files
    results/part-<number>-<id>.parquet

All rows of one file are in one shard. A row is a segment; a file at fault has a row with its error, after those of the
segments that were still answered; a file without segments has one empty row. So a file is done when it has any row.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmx.runtime.errors import BadDataError, EnvironmentMissing, MmxError, UsageError
from mmx.runtime.manifest import Manifest
from mmx.runtime.prediction import Prediction, arrow_row, arrow_schema
from mmx.serving.batch.inputs import Task

SCHEMA_VERSION = 1
RUN = "_run.json"  # readers of Parquet folders pass over names that begin with _ or .
TEMPORARY = ".tmp"
Row = dict[str, Any]


def schema(manifest: Manifest) -> pa.Schema:
    """The columns: those of a prediction, which file and segment it is of, and a file's error. See docs/batch.md."""
    place = [("task", pa.string()), ("segment", pa.int32())]
    fault = [("error", pa.string()), ("hint", pa.string()), ("exit_code", pa.int32())]
    answer = [(column.name, column.type) for column in arrow_schema(manifest.labels, manifest.modalities)]
    return pa.schema([*place, *answer, *fault])


def rows_of(task: Task, predictions: Sequence[Prediction], error: MmxError | None, read_from: str = "") -> list[Row]:
    """What one file adds to the results, as plain data.

    Args:
        read_from: where the file was read, if it was downloaded; errors name the task's path instead.
    """

    def own(words: str) -> str:
        words = words.replace(read_from, task.path) if read_from and read_from != task.path else words
        return words.encode(errors="backslashreplace").decode()

    head = {"task": task.key, "file": own(task.path)}
    rows: list[Row] = []
    for number, prediction in enumerate(predictions):
        rows.append({**arrow_row(prediction), **head, "segment": number})
    if error is not None:
        rows.append({**head, "error": own(error.message), "hint": own(error.hint), "exit_code": error.exit_code})
    return rows or [head]


class Results:
    """A results folder that this process alone adds to.

    Args:
        folder: made if it is not there.
        manifest: of the bundle. made_with: what the results depend on besides the files; must be that of the
            results that are there.
        retry: remove the rows of files with an error, so that those files are not ``done``.
        shard_files, shard_s: a shard is written when it has so many files, or so many seconds after the last one.

    Attributes: ``done``: the exit code of each task (by key) that has rows, 0 for one without an error.

    Raises:
        UsageError: another run is writing there, its results were made otherwise, or it holds other things.
        BadDataError: a shard cannot be read. EnvironmentMissing: the disk is full.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        made_with: dict[str, Any],
        *,
        retry: bool = False,
        shard_files: int = 1000,
        shard_s: float = 60.0,
    ) -> None:
        self._folder, self._schema = folder, schema(manifest)
        self._shard_files, self._shard_s = shard_files, shard_s
        self._rows: list[Row] = []
        self._files = 0
        self._since = time.monotonic()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(folder)
        except OSError as e:
            raise UsageError(f"cannot write {folder}: {e.strerror}", "choose another --out") from e
        try:
            self._check_made_with(made_with)
            for leftover in folder.glob(f".*{TEMPORARY}"):
                leftover.unlink()
            self.done: dict[str, int] = {}
            for shard in sorted(folder.glob("part-*.parquet")):
                self.done |= self._done_in(shard, retry)
            self._next = 1 + max((_number(path) for path in folder.glob("part-*.parquet")), default=-1)
        except BaseException:
            os.close(self._lock)
            raise

    def add(self, rows: Sequence[Row]) -> None:
        """Add all rows of one file; a shard may be written. A file that is done already is left out."""
        key = rows[0]["task"]
        if key in self.done:
            return
        self.done[key] = rows[-1].get("exit_code") or 0
        self._rows += rows
        self._files += 1
        if self._files >= self._shard_files or time.monotonic() - self._since > self._shard_s:
            self.flush()

    def flush(self) -> None:
        """Write a shard of what is waiting."""
        if self._rows:
            table = pa.Table.from_pylist(self._rows, self._schema)
            self._write(table, self._folder / f"part-{self._next:05}-{secrets.token_hex(4)}.parquet")
            self._next += 1
        self._rows, self._files, self._since = [], 0, time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what is waiting, also when the run is broken off."""
        try:
            self.flush()
        finally:
            os.close(self._lock)

    def _write(self, table: pa.Table, path: Path) -> None:
        temporary = path.with_name(f".{path.name}{TEMPORARY}")
        try:
            with temporary.open("wb") as file:
                pq.write_table(table, file, compression="zstd")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as e:
            temporary.unlink(missing_ok=True)
            raise EnvironmentMissing(
                f"{path} cannot be written: {e.strerror}", "free some space; the same command goes on"
            ) from e

    def _check_made_with(self, made_with: dict[str, Any]) -> None:
        path = self._folder / RUN
        now = {"schema_version": SCHEMA_VERSION, **made_with}
        if not path.exists():
            if strangers := [path.name for path in self._folder.iterdir() if not path.name.startswith(".")]:
                raise UsageError(f"{self._folder} holds {strangers[0]}, which mmx batch did not write", "another --out")
            temporary = path.with_name(f".{RUN}{TEMPORARY}")
            temporary.write_text(json.dumps(now, indent=2) + "\n")
            temporary.replace(path)
            return
        try:
            before = json.loads(path.read_text())
        except (OSError, ValueError) as e:
            raise BadDataError(f"{path} cannot be read: {e}", "choose another --out") from e
        if before != now:
            differing = [name for name in now if before.get(name) != now[name]] if isinstance(before, dict) else [RUN]
            raise UsageError(
                f"{self._folder} was made with another {', '.join(differing)}",
                "give another --out, or the bundle and the options of the first run",
            )

    def _done_in(self, shard: Path, retry: bool) -> dict[str, int]:
        """The tasks of a shard; with ``retry``, it is written again without those that have an error."""
        try:
            table = pq.read_table(shard, columns=None if retry else ["task", "exit_code"])
        except (OSError, pa.ArrowInvalid) as e:
            raise BadDataError(f"{shard} cannot be read: {e}", "remove it; its files are then done again") from e
        if retry:
            failed = table.filter(pc.is_valid(table["exit_code"]))["task"].unique()
            if len(failed):
                table = table.filter(pc.invert(pc.is_in(table["task"], failed)))
                if table.num_rows:
                    self._write(table, shard)
                else:
                    shard.unlink()
        codes = zip(table["task"].to_pylist(), table["exit_code"].to_pylist(), strict=True)
        return {key: code or 0 for key, code in codes}  # an error's row is the last of its task


def _number(shard: Path) -> int:
    return int(shard.name.split("-")[1])


def _lock(folder: Path) -> int:
    """An open descriptor that holds the folder's lock until it is closed or the process dies."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        os.close(descriptor)
        raise UsageError(f"another mmx batch is writing to {folder}", "wait for it, or choose another --out") from e
    return descriptor
