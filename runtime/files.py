"""Files and folders that appear whole or not at all: written elsewhere beside their place, then renamed into it."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mmx.runtime.errors import EnvironmentMissing, MmxError, UsageError

UNFINISHED = ".tmp-"  # in the name of what is still being written, or was when its writer was killed
OTHER_PLACE = "choose another place"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes ``path`` when the block ends, and goes away if it fails.

    Folders above ``path`` are made. The file's data are on the disk before it gets its name.

    Raises:
        EnvironmentMissing: the disk is full. UsageError: the place cannot be written.
    """
    part = _part_of(path)
    try:
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield part
            sync_file(part)
            part.replace(path)
    finally:
        with suppress(OSError):  # there may be no such folder, or no such file any more
            part.unlink()


@contextmanager
def whole_folder(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """An empty folder to fill, which becomes ``path`` when the block ends, and goes away if it fails.

    Args:
        path: not there, or an empty folder.
        sync: wait until every file's data are on the disk; costs milliseconds a file.

    Raises:
        FileExistsError: ``path`` holds something when the block ends.
        EnvironmentMissing: the disk is full. UsageError: the place cannot be written.
    """
    part = _part_of(path)
    try:
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            part.mkdir()
            yield part
            for file in part.rglob("*") if sync else ():
                if file.is_file():
                    sync_file(file)
        _rename_folder(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8) whole or not at all; raises as ``whole_file`` does."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write a file whole or not at all; raises as ``whole_file`` does."""
    with whole_file(path) as part:
        part.write_bytes(data)


@contextmanager
def write_errors(path: Path, hint: str = OTHER_PLACE) -> Iterator[None]:
    """Say in one line, naming ``path``, why the system did not let something be written there. See ``write_error``."""
    try:
        yield
    except OSError as e:
        raise write_error(path, e, hint) from e


def write_error(path: Path, error: Exception, hint: str = OTHER_PLACE) -> MmxError:
    """Why ``path`` could not be written: EnvironmentMissing if the disk is full, UsageError for any other reason.

    Args:
        error: an OSError, or a library's with an ``errno``.
        hint: what to do where it is not the disk that is full.
    """
    number = getattr(error, "errno", None)
    if number in NO_ROOM:
        return EnvironmentMissing(f"{path} cannot be written: {os.strerror(number)}", "free some space")
    reason = getattr(error, "strerror", None) or error
    return UsageError(f"{path} cannot be written: {reason}", hint)


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _rename_folder(part: Path, path: Path) -> None:
    try:
        part.rename(path)
    except OSError as e:
        if path.exists():
            raise FileExistsError(e.errno, os.strerror(e.errno or 0), str(path)) from e
        raise write_error(path, e) from e


def _part_of(path: Path) -> Path:
    return path.with_name(f".{path.name[:100]}{UNFINISHED}{secrets.token_hex(4)}{path.suffix}")


def sync_file(path: Path) -> None:
    """Wait until a file's data are on the disk: a full one may only say so now, and a rename must not overtake them."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
