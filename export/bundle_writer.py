"""Writing a bundle so that it is there whole or not at all.

The files go to ``<name>.tmp-<random>`` beside the destination; the manifest is written last and the folder is renamed.
The writer holds a lock on its folder, so the next export can tell a folder in use from one that a killed export left.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

from mmx.runtime.bundle import ADDED_LATER, MANIFEST, UNFINISHED, sha256_of
from mmx.runtime.errors import EnvironmentMissing, MmxError, UsageError
from mmx.runtime.manifest import Manifest

_NO_PLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP)
_OTHER_OUT = "choose another place with --out"


@contextmanager
def bundle_folder(out: Path, needs: int = 0) -> Iterator[Path]:
    """A new folder to fill; when the block ends well it becomes ``out``, otherwise it goes away.

    A bundle that is already at ``out`` stays until then, and is replaced whole: its engines belong to its own graphs.

    Args:
        out: the bundle's folder.
        needs: bytes that will be written, so that a full disk is told before the work is done.

    Raises:
        UsageError: ``out`` is something other than a bundle, or its folder cannot be written.
        EnvironmentMissing: the disk is full.
    """
    _check_replaceable(out)
    with _disk_errors(out):
        _clear_leftovers(out)
        folder, lock = _new_folder(out)
    try:
        with _disk_errors(out):
            if shutil.disk_usage(folder).free < needs:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            yield folder
            _move_into_place(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def hash_files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file under ``folder`` by its path relative to it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json: the last file, without which the folder is no bundle."""
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")


def _check_replaceable(out: Path) -> None:
    """Refuse to replace anything but a bundle, or a bundle that holds files of somebody else."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UsageError(f"{out} exists and is not a bundle folder", _OTHER_OUT)
    if not out.exists() or not any(out.iterdir()):
        return
    try:
        listed = set(json.loads((out / MANIFEST).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise UsageError(f"{out} exists and is not an mmx bundle", f"remove it, or {_OTHER_OUT}") from e
    for name in sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir()):
        if name != MANIFEST and name not in listed and not ADDED_LATER.fullmatch(name):
            raise UsageError(f"{out} holds {name}, which mmx did not write", f"move it away, or {_OTHER_OUT}")


def _clear_leftovers(out: Path) -> None:
    """Remove the folders that killed exports to ``out`` left: those whose lock nobody holds."""
    for leftover in out.parent.glob(f"{escape(out.name)}{UNFINISHED}*"):
        with suppress(OSError):
            lock = _locked(leftover)
            shutil.rmtree(leftover, ignore_errors=True)
            os.close(lock)


def _new_folder(out: Path) -> tuple[Path, int]:
    """Make and lock ``<out>.tmp-<random>``; another export may clear it away between the two, so try again."""
    while True:
        folder = out.with_name(f"{out.name}{UNFINISHED}{secrets.token_hex(4)}")
        folder.mkdir(parents=True)
        with suppress(FileNotFoundError, BlockingIOError):
            return folder, _locked(folder)


def _locked(folder: Path) -> int:
    """An open descriptor that holds the lock of ``folder``; it is let go when closed or when the process dies.

    Raises:
        BlockingIOError: another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _move_into_place(folder: Path, out: Path) -> None:
    """Give ``folder`` the name ``out``. What is there goes away with what is left under the name ``folder``."""
    if not out.exists():
        folder.rename(out)
        return
    if _exchange(folder, out):
        return
    old = out.with_name(f"{out.name}{UNFINISHED}old-{secrets.token_hex(4)}")
    out.rename(old)
    try:
        folder.rename(out)
    except BaseException:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap the names of two folders in one step: ``other`` is there at every moment, even if the machine stops.

    Linux's ``renameat2``, which Python does not offer. False where the C library or the file system lacks it.
    """
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


@contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    """Turn what the file system refuses into one clear line."""
    try:
        yield
    except MmxError:
        raise
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EnvironmentMissing(f"no space left on the disk for {out}", f"free some, or {_OTHER_OUT}") from e
        if e.errno in _NO_PLACE:
            raise UsageError(f"cannot write {out}: {e.strerror}", _OTHER_OUT) from e
        raise
