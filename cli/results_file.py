"""The results file of ``mmx predict --out``: one line of JSON for each file, written as soon as it is known."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from mmx.runtime.errors import BadDataError, UsageError

if TYPE_CHECKING:
    from mmx.runtime.manifest import Manifest
    from mmx.runtime.throughput import FileResult, Item

SCHEMA_VERSION = 1
FIELDS = {"schema_version", "file", "made_with", "error", "predictions"}


class ResultsFile:
    """Appends a line for each file's result; a kill loses at most the line that is being written.

    Args:
        path: the results file. made_with: what the results depend on besides the files (see ``made_with``).
        resume: go on with a file that is there. Lines of failed files, and a last line that was cut off, are removed:
            those files are not ``done``.

    Attributes:
        path: as given. done: how often each file was answered in earlier runs.

    Raises:
        UsageError: the file is there and ``resume`` is not set, or its results were made otherwise.
        BadDataError: it can't be read or written, or is no results file.
    """

    def __init__(self, path: Path, made_with: dict[str, Any], *, resume: bool) -> None:
        if path.exists() and not resume:
            raise UsageError(f"{path} is there already", "--resume goes on with it; or remove it")
        self.path, self._made_with = path, made_with
        self.done: Counter[str] = Counter()
        try:
            if path.exists():
                self._keep_what_is_done()
            self._file: BinaryIO = path.open("ab")
        except OSError as e:
            raise BadDataError(f"{path} cannot be written: {e.strerror}", "choose another --out") from e

    def write(self, result: FileResult) -> None:
        """Append one file's result and hand it to the system."""
        error = result.error
        line = {
            "schema_version": SCHEMA_VERSION,
            "file": result.file,
            "made_with": self._made_with,
            "error": error and {"message": error.message, "hint": error.hint, "exit_code": error.exit_code},
            "predictions": [prediction.to_dict() for prediction in result.predictions],
        }
        self._file.write(json.dumps(line, allow_nan=False).encode("ascii") + b"\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _keep_what_is_done(self) -> None:
        """Count the files with an answer; write the file again, without its other lines, if it has any."""
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
        try:
            dropped = 0
            with self.path.open("rb") as old, temporary.open("wb") as new:
                for number, line in enumerate(old, 1):
                    file = self._answered(line, number)
                    if file is None:
                        dropped += 1
                    else:
                        self.done[file] += 1
                        new.write(line)
            if dropped:
                temporary.replace(self.path)
        finally:
            temporary.unlink(missing_ok=True)

    def _answered(self, line: bytes, number: int) -> str | None:
        """The file that a line answers for; None for an error, and for a line that was cut off."""
        if not line.endswith(b"\n"):
            return None
        try:
            content = json.loads(line)
            whole = isinstance(content, dict) and set(content) >= FIELDS and isinstance(content["file"], str)
        except (ValueError, RecursionError):
            whole = False
        if not whole:
            raise BadDataError(f"{self.path}, line {number}, is no line of a results file", "give another --out")
        if content["made_with"] != self._made_with:
            raise UsageError(
                f"{self.path} was made with {content['made_with']}, this run is with {self._made_with}",
                "give another --out, or the options and the bundle of the first run",
            )
        return None if content["error"] else content["file"]


def made_with(manifest: Manifest, precision: str, window: float | None, faces: str = "exact") -> dict[str, Any]:
    """What two runs must share for their results to stand in one file: the model and how it is fed, not the engine."""
    model = (
        manifest.files[manifest.graphs["fp32"].file],
        asdict(manifest.preprocessing),
        manifest.labels,
        manifest.thresholds,
        manifest.fusion_weights,
    )
    key = hashlib.sha256(json.dumps(model).encode()).hexdigest()[:16]
    return {"model": key, "precision": precision, "window": window, "faces": faces}


def not_done(items: Iterable[Item], done: Counter[str]) -> Iterator[Item]:
    """The items that no earlier run answered; a file that is given twice is answered twice."""
    left = done.copy()
    for item in items:
        if left[str(item.path)]:
            left[str(item.path)] -= 1
        else:
            yield item
