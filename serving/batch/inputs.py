"""What ``mmx batch`` was given -> one ``Task`` for each file: paths, folders, globs, URLs, and lists of these."""

from __future__ import annotations

import csv
import glob
import hashlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mmx.runtime.errors import BadDataError, EnvironmentMissing, UsageError, missing_extra

VIDEO = (
    ".mp4",
    ".m4v",
    ".mov",
    ".mkv",
    ".webm",
    ".avi",
    ".mpg",
    ".mpeg",
    ".ts",
    ".m2ts",
    ".flv",
    ".wmv",
    ".3gp",
    ".ogv",
)
SOUND = (".wav", ".mp3", ".m4a", ".aac", ".flac", ".ogg", ".opus")
MEDIA = frozenset(VIDEO + SOUND)  # what is taken out of a folder; a file that is named may be called anything
LISTS = (".txt", ".csv", ".parquet")
COLUMNS = ("path", "text", "transcript")  # of a CSV or Parquet list; the last two need not be there
BESIDE = (".srt", ".vtt", ".txt")


@dataclass(frozen=True)
class Task:
    """One file to answer for: its path or URL, and what is said in it (the words, or a transcript's path or URL)."""

    path: str
    text: str | None = None
    transcript: str | None = None

    @property
    def key(self) -> str:
        """What tells it from every other task, and stands in the results: 16 hex digits."""
        parts = "\0".join("" if part is None else f"+{part}" for part in (self.path, self.text, self.transcript))
        return hashlib.sha256(parts.encode(errors="surrogateescape")).hexdigest()[:16]


def find_tasks(inputs: Sequence[str], *, beside: bool = False) -> list[Task]:
    """Every file that the inputs name, once, in their order (a folder's and a glob's files sorted).

    Args:
        inputs: files and URLs (anything that fsspec opens, such as s3://bucket/a.mp4); folders, for the media files in
            them at any depth; globs, of paths or URLs; lists: ``.txt`` with a path on each line, ``.csv`` or
            ``.parquet`` with a column ``path`` and, if wanted, ``text`` and ``transcript``; ``-`` for a list of
            lines on stdin. Relative paths in a list are relative to the current folder, as everywhere.
        beside: a file without words takes the .srt, .vtt or .txt beside it (local files only).

    Raises:
        UsageError: there is nothing at a path, or nothing in a folder or glob.
        BadDataError: a list that cannot be read. EnvironmentMissing: what reads it, or a protocol of the URLs, is not
            installed.
    """
    found: dict[str, Task] = {}
    for given in inputs:
        for task in _expand(given):
            task = _with_beside(task) if beside else task
            found.setdefault(task.key, task)
    if not found:
        raise UsageError("the inputs name no files", "mmx batch ckpt.mmx FOLDER --out results")
    _check_protocols(found.values())
    return list(found.values())


def is_url(path: str) -> bool:
    """Whether a path is for fsspec rather than the local disk."""
    return "://" in path


def _expand(given: str) -> Iterator[Task]:
    suffix = Path(given).suffix.lower()
    if given == "-":
        yield from _lines(sys.stdin)
    elif suffix in LISTS and not any(c in given for c in "*?["):
        yield from _read_list(given, suffix)
    elif is_url(given):
        yield from map(Task, _expand_url(given) if any(c in given for c in "*[") else [given])
    elif Path(given).is_dir():
        yield from _in_folder(Path(given))
    elif Path(given).exists():
        yield Task(given)
    else:
        matches = sorted(path for path in glob.glob(given, recursive=True) if Path(path).is_file())  # noqa: PTH207 (any root)
        if not matches:
            raise UsageError(f"there is no file {given}", "give a file, a folder, a glob, a URL or a list of them")
        yield from map(Task, matches)


def _in_folder(folder: Path) -> Iterator[Task]:
    files = sorted(str(path) for path in folder.rglob("*") if path.suffix.lower() in MEDIA and path.is_file())
    if not files:
        raise UsageError(f"{folder} holds no media files", f"known by their ending: {' '.join(sorted(MEDIA))}")
    yield from map(Task, files)


def _expand_url(pattern: str) -> list[str]:
    fsspec = import_fsspec()
    try:
        system, path = fsspec.core.url_to_fs(pattern)
        return [system.unstrip_protocol(name) for name in sorted(system.glob(path))]
    except (OSError, ValueError, ImportError) as e:
        raise BadDataError(f"{pattern} cannot be listed: {e}", "check the URL and its credentials") from e


def _read_list(given: str, suffix: str) -> Iterator[Task]:
    """A list's tasks. It is read whole: what is wrong with it should be known before the work begins."""
    try:
        if suffix == ".parquet":
            return _rows(_read_parquet(given), given)
        with open_text(given) as file:
            return iter(list(_lines(file) if suffix == ".txt" else _rows(csv.DictReader(file, strict=True), given)))
    except (OSError, ValueError, csv.Error) as e:
        raise BadDataError(f"{given} cannot be read as a list of files: {e}", _list_hint(suffix)) from e


def open_text(path: str) -> Any:
    """A local file or a URL, open for reading text (UTF-8, with or without a byte order mark)."""
    if is_url(path):
        return import_fsspec().open(path, "rt", encoding="utf-8-sig", newline="")
    return Path(path).open(encoding="utf-8-sig", newline="")


def _lines(file: IO[str]) -> Iterator[Task]:
    for line in file:
        if path := line.strip():
            yield Task(path)


def _read_parquet(given: str) -> Iterable[dict[str, Any]]:
    try:
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError as e:
        raise missing_extra("pyarrow", "batch") from e
    try:
        with import_fsspec().open(given, "rb") if is_url(given) else Path(given).open("rb") as file:
            parquet = ParquetFile(file)
            wanted = [name for name in COLUMNS if name in parquet.schema_arrow.names]
            rows: list[dict[str, Any]] = parquet.read(wanted).to_pylist()
            return rows
    except ArrowInvalid as e:
        raise ValueError(str(e)) from e


def _check_protocols(tasks: Iterable[Task]) -> None:
    """What opens the URLs must be there now, rather than be missed by each of a million files."""
    urls = (url for task in tasks for url in (task.path, task.transcript) if url is not None and is_url(url))
    for protocol in sorted({url.partition("://")[0].rpartition("::")[2] for url in urls}):
        try:
            import_fsspec().get_filesystem_class(protocol)
        except ImportError as e:
            raise EnvironmentMissing(
                f"{protocol}:// URLs cannot be read: {e}", f"pip install 'fsspec[{protocol}]'"
            ) from e
        except ValueError:  # no such protocol: an error of those files alone
            continue


def _rows(rows: Iterable[dict[str, Any]], given: str) -> Iterator[Task]:
    for number, row in enumerate(rows, 1):
        values = {name: row.get(name) or None for name in COLUMNS}
        if any(value is not None and not isinstance(value, str) for value in values.values()) or not values["path"]:
            raise BadDataError(f"{given}: row {number} has no path, or one that is no text", _list_hint(".csv"))
        if values["text"] and values["transcript"]:
            raise BadDataError(f"{given}: row {number} has both a text and a transcript", "leave one of them empty")
        yield Task(str(values["path"]), values["text"], values["transcript"])


def _list_hint(suffix: str) -> str:
    return "one path on each line" if suffix == ".txt" else f"columns: {', '.join(COLUMNS)} (the last two are optional)"


def _with_beside(task: Task) -> Task:
    if task.text or task.transcript or is_url(task.path):
        return task
    candidates = (Path(task.path).with_suffix(suffix) for suffix in BESIDE)
    found = next((str(path) for path in candidates if path.is_file()), None)
    return Task(task.path, None, found) if found else task


def import_fsspec() -> Any:
    """The package that opens URLs. Raises EnvironmentMissing where it is not installed."""
    try:
        import fsspec
    except ModuleNotFoundError as e:
        raise missing_extra("fsspec", "batch") from e
    return fsspec
