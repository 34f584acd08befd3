"""Folders that are there whole or not at all: filled under another name beside their place, then renamed.

Whoever fills one holds a lock on it, which distinguishes it from what a killed process left.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import secrets
import shutil
from contextlib import suppress
from glob import escape
from pathlib import Path

from mmx.runtime.files import sync_file

OLD = "-old"  # ends the name of what was at a place while another folder takes it, where the two cannot be exchanged
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY)


def new_folder(parent: Path, prefix: str) -> tuple[Path, int]:
    """Make and lock ``parent/prefix<random>``; returns it and the descriptor that holds the lock."""
    while True:
        folder = parent / f"{prefix}{secrets.token_hex(4)}"
        folder.mkdir(parents=True)
        with suppress(FileNotFoundError, BlockingIOError):  # another process may clear it away before it is locked
            return folder, locked(folder)


def locked(folder: Path) -> int:
    """An open descriptor that holds the lock of ``folder``; it is let go when closed or when the process dies.

    Raises:
        BlockingIOError: another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def clear_leftovers(parent: Path, prefix: str) -> None:
    """Remove the folders that killed processes left: those whose lock nobody holds."""
    for leftover in parent.glob(f"{escape(prefix)}*"):
        with suppress(OSError):
            lock = locked(leftover)
            shutil.rmtree(leftover, ignore_errors=True)
            os.close(lock)


def place(folder: Path, target: Path) -> Path | None:
    """Give ``folder`` the name ``target``, in one step.

    Returns:
        Where what was there before is now, for the caller to remove; None where there was nothing.
    """
    for _ in range(2):  # twice, for a target that appears between the two calls
        if exchange(folder, target):
            return folder
        try:
            folder.rename(target)
        except OSError as e:
            if e.errno not in _TAKEN:
                raise
        else:
            return None
    old = folder.with_name(folder.name + OLD)  # where folders cannot be exchanged, there is none for a moment
    target.rename(old)
    try:
        folder.rename(target)
    except BaseException:
        old.rename(target)
        raise
    return old


def exchange(one: Path, other: Path) -> bool:
    """Swap the names of two folders in one step: both are there at every moment, even if the machine stops.

    Linux's ``renameat2``, which Python does not offer. False where the C library or the file system lacks it, or where
    one of them does not exist.
    """
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchanging = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), exchanging) == 0


def sync_files(folder: Path) -> None:
    """Wait until the data of every file in ``folder`` are on the disk; a full one may only report it now."""
    for path in folder.rglob("*"):
        if path.is_file():
            sync_file(path)
