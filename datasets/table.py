"""A table of one's own clips, a row for each utterance: a file (see ``rows``) or a folder (see ``folders``).

Columns are found by common names (``NAMES``) or given. Labels are the file's: one in a cell, or several with ``|`` or
``;`` between them (a list in JSON Lines). Rows that make no sense are left out, each with its line and the reason.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmx.datasets.folders import SPLIT_NAMES, matching, read_folder
from mmx.datasets.prepare.splits import drawn
from mmx.datasets.rows import read_rows
from mmx.runtime.errors import BadDataError, UsageError
from mmx.runtime.media.decode import probe

NAMES = {
    "file": ("file", "path", "filename", "file_name", "video", "clip", "media", "audio"),
    "start": ("start", "start_time", "begin", "onset"),
    "end": ("end", "end_time", "stop", "offset"),
    "text": ("text", "transcript", "transcription", "utterance", "sentence", "words"),
    "label": ("label", "labels", "emotion", "emotions", "class", "target"),
    "split": ("split", "set", "subset", "partition", "fold"),
    "speaker": ("speaker", "speaker_id", "person", "actor", "subject"),
}
MOST_ROWS, MOST_LABELS = 5_000_000, 200


@dataclass(frozen=True)
class Clip:
    """One row: an utterance in a media file.

    Attributes:
        name: unique in the table. start, end: seconds; None: the file's start and end.
        target: 0 or 1 for each label of the table. speaker: "" where the table does not say.
    """

    name: str
    path: Path
    start: float | None
    end: float | None
    text: str
    target: tuple[int, ...]
    speaker: str
    line: int

    def duration(self) -> float:
        """Seconds.

        Raises:
            BadDataError: the row does not say, and the file neither, or it cannot be read.
        """
        end = self.end if self.end is not None else probe(self.path).duration
        if end is None or end <= (self.start or 0.0):
            raise BadDataError(f"{self.path} ends before line {self.line} of the table starts, or does not say when")
        return end - (self.start or 0.0)


@dataclass(frozen=True)
class Table:
    """What a table holds; ``wrong``: rows that were left out, as (line, reason); ``drawn``: mmx made the splits."""

    path: Path
    labels: tuple[str, ...]
    splits: dict[str, tuple[Clip, ...]]
    wrong: tuple[tuple[int, str], ...]
    drawn: bool


@dataclass(frozen=True)
class _Row:
    """A row that makes sense, before the labels of all rows are known."""

    clip: Clip
    labels: tuple[str, ...]
    split: str


def read_table(
    path: Path, columns: Mapping[str, str] | None = None, *, files: str | None = None, seed: int = 0
) -> Table:
    """Read a table.

    Args:
        path: a file of rows, or a folder.
        columns: the table's own names for some of ``NAMES``.
        files: a glob, relative to the table's folder: the table's files are looked up in what it matches, by name,
            with or without the ending. For a folder: its clips.
        seed: of the splits where the table has none: by speaker, else by file, so that neither is in two.

    Raises:
        UsageError: a column that was asked for is not there, or nothing matches ``files``.
        BadDataError: it is no such table, lacks a column of files or labels, or has no row that makes sense.
        EnvironmentMissing: a Parquet file, and pyarrow is not installed.
    """
    rows, wrong = [], []
    seen: set[tuple[str, float | None, float | None]] = set()
    found: dict[str, str] | None = None
    find = _finder(matching(path.parent, files)) if files and not path.is_dir() else Path.__truediv__
    for count, raw in enumerate(read_folder(path, files) if path.is_dir() else read_rows(path), 1):
        if count > MOST_ROWS:
            raise BadDataError(f"{path} has more than {MOST_ROWS} rows")
        if raw.problem:
            wrong.append((raw.line, raw.problem))
            continue
        found = _columns(path, raw.cells, columns or {}) if found is None else found
        try:
            row = _read(raw.folder, raw.line, {kind: raw.cells.get(name) for kind, name in found.items()}, find)
            key = (str(row.clip.path), row.clip.start, row.clip.end)
            if key in seen:
                raise ValueError("the same stretch of the same file as an earlier row")
            seen.add(key)
            rows.append(row)
        except ValueError as e:
            wrong.append((raw.line, str(e)))
    if not rows:
        why = f": line {wrong[0][0]}: {wrong[0][1]}" if wrong else ""
        raise BadDataError(f"{path} has no row that makes sense{why}", "a row needs a file that exists and a label")
    labels = tuple(sorted({label for row in rows for label in row.labels}))
    if not 2 <= len(labels) <= MOST_LABELS:
        raise BadDataError(f"{path} has {len(labels)} different labels: {labels[0][:60]!r}", f"2 to {MOST_LABELS}")
    clips = [_with_targets(row, labels) for row in rows]
    given = any(row.split for row in rows)
    names = {row.clip.name: row.split for row in rows} if given else _drawn(clips, seed)
    splits = {split: tuple(clip for clip in clips if names[clip.name] == split) for split in ("train", "valid", "test")}
    return Table(path, labels, splits, tuple(wrong), not given)


def _finder(files: Sequence[Path]) -> Callable[[Path, str], Path]:
    """What finds a table's file among others by its name, with or without the ending."""
    places: dict[str, set[Path]] = {}
    for file in files:
        for name in {file.name, file.stem}:
            places.setdefault(name, set()).add(file)

    def find(folder: Path, name: str) -> Path:
        there = places.get(Path(name).name, set())
        if len(there) > 1:
            raise ValueError(f"{name[:100]} may be {' or '.join(sorted(map(str, there))[:2])}")
        return next(iter(there), folder / name)

    return find


def _columns(path: Path, row: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str]:
    """Which column is which."""
    if unknown := sorted(set(given) - set(NAMES)):
        raise UsageError(f"no such kind of column: {unknown[0]!r}", f"one of {', '.join(NAMES)}")
    if absent := [name for name in given.values() if name not in row]:
        raise UsageError(f"{path} has no column {absent[0]!r}", f"it has {', '.join(map(str, row))}"[:300])
    there = {str(name).strip().lower(): name for name in row}
    found = {kind: next((there[name] for name in names if name in there), None) for kind, names in NAMES.items()}
    chosen = {kind: name for kind, name in {**found, **given}.items() if name is not None}
    for kind in ("file", "label"):
        if kind not in chosen:
            raise BadDataError(
                f"{path} has no column of {kind}s; it has {', '.join(map(str, row))}"[:300],
                f"name it {NAMES[kind][0]!r}, or --columns {kind}=NAME",
            )
    return chosen


def _read(folder: Path, line: int, cells: Mapping[str, Any], find: Callable[[Path, str], Path]) -> _Row:
    """One row; raises ValueError with the reason why it makes no sense."""
    name = _text(cells.get("file"))
    if not name or "\0" in name:
        raise ValueError("no file")
    path = find(folder, name)
    if not os.path.isfile(path):  # noqa: PTH113 (Path.is_file raises for a name that is too long)
        raise ValueError(f"{name[:100]} does not exist")
    start, end = _seconds("start", cells.get("start")), _seconds("end", cells.get("end"))
    if end is not None and end <= (start or 0.0):
        raise ValueError(f"it ends at {end:g} s and starts at {start or 0:g} s")
    raw = cells.get("label")
    listed = raw if isinstance(raw, (list, tuple)) else _text(raw).replace(";", "|").split("|")
    labels = tuple(dict.fromkeys(label for label in map(_text, listed) if label))
    if not labels:
        raise ValueError("no label")
    if any(len(label) > 100 or not label.isprintable() for label in labels):
        raise ValueError(f"{labels[0][:60]!r} is no label")
    asked = _text(cells.get("split"))
    if "split" in cells and asked.lower() not in SPLIT_NAMES:
        raise ValueError(f"{asked[:60]!r} is no split: train, valid or test")
    split = SPLIT_NAMES.get(asked.lower(), "")
    name = f"{path.stem[:100]}_{line}"
    clip = Clip(name, path, start, end, _text(cells.get("text")), (), _text(cells.get("speaker")), line)
    return _Row(clip, labels, split)


def _text(cell: Any) -> str:
    return "" if cell is None or (isinstance(cell, float) and math.isnan(cell)) else str(cell).strip()


def _seconds(what: str, cell: Any) -> float | None:
    text = _text(cell)
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < 1e6:
        raise ValueError(f"{what} is {text[:40]!r}, not seconds")
    return seconds


def _with_targets(row: _Row, labels: Sequence[str]) -> Clip:
    target = tuple(int(label in row.labels) for label in labels)
    return replace(row.clip, target=target)


def _drawn(clips: Sequence[Clip], seed: int) -> dict[str, str]:
    """A split for each clip, where the table has none."""
    for group in (lambda clip: clip.speaker, lambda clip: str(clip.path), lambda clip: clip.name):
        groups: dict[str, list[str]] = {}
        for clip in clips:
            groups.setdefault(group(clip), []).append(clip.name)
        if len(groups) >= 3 and "" not in groups:
            return {name: split for split, names in drawn(groups, seed).items() for name in names}
    raise BadDataError("fewer than three rows are too few for three splits", "add a column split")
