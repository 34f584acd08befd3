"""What ``mmx batch`` was given -> one ``Task`` for each file: paths, folders, globs, URLs, and lists of these."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, BinaryIO

from mmx.runtime.errors import BadDataError, UsageError, missing_extra
from mmx.runtime.media.source import MEDIA
from mmx.runtime.urls import is_url, shown
from mmx.runtime.workers.task import Task
from mmx.serving.batch.urls import PROTOCOLS, check_url, download, import_fsspec

MAX_LIST_BYTES = 2**30

LISTS = (".txt", ".csv", ".parquet")
COLUMNS = ("path", "text", "transcript")  # of a CSV or Parquet list; the last two need not be there
BESIDE = (".srt", ".vtt", ".txt")


@dataclass(frozen=True)
class Asked:
    """A task with what identifies it in the results: ``key``, 16 hex digits."""

    key: str
    task: Task


def with_keys(tasks: Iterable[Task]) -> list[Asked]:
    """The tasks and their keys: of the path or URL (without passwords) and the words. One that comes twice has two."""
    asked = []
    often: Counter[str] = Counter()
    for task in tasks:
        words = task.transcript
        if words is not None and not isinstance(words, (str, Path)):
            words = json.dumps([[span.start, span.end, span.text] for span in words])
        parts = (task.shown, task.text, None if words is None else shown(str(words)))
        plain = "\0".join("" if part is None else f"+{part}" for part in parts)
        often[plain] += 1
        if often[plain] > 1:
            plain += f"\0{often[plain]}"
        asked.append(Asked(hashlib.sha256(plain.encode(errors="surrogateescape")).hexdigest()[:16], task))
    return asked


def find_tasks(
    inputs: Sequence[str],
    *,
    beside: bool = False,
    window: float | None = None,
    allow: Collection[str] = (),
    private: bool = False,
) -> list[Task]:
    """Every file that the inputs name, once, in their order (a folder's and a glob's files sorted).

    Args:
        inputs: files and URLs; folders, for the media files in them at any depth; globs, of paths or URLs; lists:
            ``.txt`` with a path on each line, ``.csv`` or ``.parquet`` with a column ``path`` and, if wanted, ``text``
            and ``transcript``; ``-`` for a list of lines on stdin. Relative paths in a list are relative to the current
            folder, as everywhere. Hidden files and folders are passed over, and no link to a folder is followed.
        beside: a file without words takes the .srt, .vtt or .txt beside it (local files only).
        window: of every task.
        allow: protocols of URLs that are followed besides ``urls.PROTOCOLS``.
        private: whether the URL of a list may lead to this machine and its network.

    Raises:
        UsageError: there is nothing at a path, or nothing in a folder or glob, or a URL that is not followed.
        BadDataError: a list that cannot be read. EnvironmentMissing: what reads it, or a protocol of the URLs, is not
            installed.
    """
    allowed = {*PROTOCOLS, *allow}
    found: dict[tuple[Any, ...], Task] = {}
    for given in inputs:
        for task in _expand(given, allowed, private):
            for url in (task.path, task.transcript):
                if isinstance(url, str) and is_url(url):
                    check_url(url, allowed)
            task = _with_beside(task) if beside else task
            name = shown(str(task.path))
            named = replace(task, window=window, name=name if name != task.path else None)
            found.setdefault((task.path, task.text, task.transcript), named)
    if not found:
        raise UsageError("the inputs name no files", "mmx batch ckpt.mmx FOLDER --out results")
    return list(found.values())


def _expand(given: str, allowed: Collection[str], private: bool) -> Iterator[Task]:
    if is_url(given):
        check_url(given, allowed)
    suffix = Path(given).suffix.lower()
    if given == "-":
        yield from _lines(sys.stdin)
    elif suffix in LISTS and not any(c in given for c in "*?["):
        yield from _read_list(given, suffix, private)
    elif is_url(given):
        yield from map(Task, _expand_url(given) if any(c in given for c in "*[") else [given])
    elif Path(given).is_dir():
        yield from _in_folder(Path(given))
    elif Path(given).exists():
        yield Task(given)
    else:
        matches = _in_glob(given)
        if not matches:
            raise UsageError(f"there is no file {given}", "give a file, a folder, a glob, a URL or a list of them")
        yield from map(Task, matches)


def _in_folder(folder: Path) -> Iterator[Task]:
    files = []
    for root, folders, names in os.walk(folder):  # which follows no link to a folder
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(root, name) for name in names if not name.startswith("."))
        files += [str(path) for path in paths if path.suffix.lower() in MEDIA and path.is_file()]
    if not files:
        raise UsageError(f"{folder} holds no media files", f"known by their ending: {' '.join(sorted(MEDIA))}")
    yield from map(Task, sorted(files))


def _in_glob(pattern: str) -> list[str]:
    """The files that a glob matches. ``**`` follows no links, which could lead round and round."""
    parts = Path(pattern).parts
    plain = next((n for n, part in enumerate(parts) if any(c in part for c in "*?[")), len(parts))
    if plain == len(parts):
        return []
    root, rest = Path(*parts[:plain]), parts[plain:]
    hidden = any(part.startswith(".") for part in rest)
    try:
        found = [path for path in root.glob(str(Path(*rest))) if path.is_file()]
    except (OSError, ValueError, NotImplementedError) as e:
        raise UsageError(f"{pattern} is no glob: {e}", "give a file, a folder or a glob") from e
    return sorted(
        str(path) for path in found if hidden or not any(part.startswith(".") for part in path.relative_to(root).parts)
    )


def _expand_url(pattern: str) -> list[str]:
    if pattern.startswith(("http://", "https://")):
        raise UsageError(f"{shown(pattern)}: HTTP servers list no files", "give the URLs, or a list of them")
    fsspec = import_fsspec()
    try:
        system, path = fsspec.core.url_to_fs(pattern)
        return [system.unstrip_protocol(name) for name in sorted(system.glob(path))]
    except Exception as e:  # each protocol has exceptions of its own
        raise BadDataError(
            f"{shown(pattern)} cannot be listed: {shown(str(e))}", "check the URL and its credentials"
        ) from e


def _read_list(given: str, suffix: str, private: bool) -> Iterator[Task]:
    """A list's tasks. It is read whole: what is wrong with it should be known before the work begins."""
    try:
        if suffix == ".parquet":
            return _rows(_read_parquet(given, private), given)
        with open_text(given, private) as file:
            return iter(list(_lines(file) if suffix == ".txt" else _rows(csv.DictReader(file, strict=True), given)))
    except (OSError, ValueError, csv.Error) as e:
        raise BadDataError(f"{shown(given)} cannot be read as a list of files: {e}", _list_hint(suffix)) from e


def open_text(path: str, private: bool = False) -> IO[str]:
    """A local file or a URL, open for reading text (UTF-8, with or without a byte order mark)."""
    return io.TextIOWrapper(_open_binary(path, private), encoding="utf-8-sig", newline="")


def _open_binary(path: str, private: bool) -> BinaryIO:
    if not is_url(path):
        return Path(path).open("rb")
    content = io.BytesIO()
    download(path, content, MAX_LIST_BYTES, private=private)
    content.seek(0)
    return content


def _lines(file: IO[str]) -> Iterator[Task]:
    for line in file:
        if path := line.strip():
            yield Task(path)


def _read_parquet(given: str, private: bool) -> Iterable[dict[str, Any]]:
    try:
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError as e:
        raise missing_extra("pyarrow", "batch") from e
    try:
        with _open_binary(given, private) as file:
            parquet = ParquetFile(file)
            wanted = [name for name in COLUMNS if name in parquet.schema_arrow.names]
            rows: list[dict[str, Any]] = parquet.read(wanted).to_pylist()
            return rows
    except ArrowInvalid as e:
        raise ValueError(str(e)) from e


def _rows(rows: Iterable[dict[str, Any]], given: str) -> Iterator[Task]:
    for number, row in enumerate(rows, 1):
        values = {name: row.get(name) or None for name in COLUMNS}
        if any(value is not None and not isinstance(value, str) for value in values.values()) or not values["path"]:
            raise BadDataError(f"{shown(given)}: row {number} has no path, or one that is not text", _list_hint(".csv"))
        if values["text"] and values["transcript"]:
            raise BadDataError(
                f"{shown(given)}: row {number} has both a text and a transcript", "leave one of them empty"
            )
        yield Task(str(values["path"]), values["text"], values["transcript"])


def _list_hint(suffix: str) -> str:
    return "one path on each line" if suffix == ".txt" else f"columns: {', '.join(COLUMNS)} (the last two are optional)"


def _with_beside(task: Task) -> Task:
    if task.text or task.transcript or is_url(str(task.path)):
        return task
    candidates = (Path(task.path).with_suffix(suffix) for suffix in BESIDE)
    found = next((str(path) for path in candidates if path.is_file()), None)
    return Task(task.path, None, found) if found else task
