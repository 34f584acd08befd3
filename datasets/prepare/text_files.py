"""The release's text files: UTF-8, or Windows-1252 where they are not, with any line ends and no limit on trust."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from mmx.runtime.errors import BadDataError

LIMIT_BYTES = 64 * 2**20
_LINE_END = re.compile(r"\r\n|\r|\n")  # str.splitlines also cuts at characters that occur inside lines


def read_text(path: Path) -> str:
    """The text of a file, without a byte order mark.

    Raises:
        BadDataError: it cannot be read, is larger than 64 MB, or is not text.
    """
    try:
        if not path.is_file():
            raise BadDataError(f"{path} is missing" if not path.exists() else f"{path} is not a file")
        with path.open("rb") as file:
            data = file.read(LIMIT_BYTES + 1)
    except OSError as e:
        raise BadDataError(f"{path} can't be read: {e.strerror or e}") from e
    if len(data) > LIMIT_BYTES:
        raise BadDataError(f"{path} is larger than {LIMIT_BYTES >> 20} MB")
    if b"\0" in data:
        raise BadDataError(f"{path} is not text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def read_lines(path: Path) -> list[str]:
    """The lines of a text file; see ``read_text``."""
    return _LINE_END.split(read_text(path))


def files_in(folder: Path, pattern: str) -> Iterator[Path]:
    """The files of a folder in order of their names, without macOS's ``._*`` files; none where there is no folder."""
    try:
        found = sorted(path for path in folder.glob(pattern) if path.is_file() and not path.name.startswith("._"))
    except OSError:
        return
    yield from found
