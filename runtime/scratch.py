"""Temporary folders that are removed in the end, or by the next that starts if their process was killed.

$TMPDIR/mmx-serve-x1y2z3/.lock    locked for as long as its process lives
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mmx.runtime.closing import Closing
from mmx.runtime.errors import EnvironmentMissing
from mmx.runtime.files import write_errors

PREFIX = "mmx-"
ELSEWHERE = "let TMPDIR name a folder that can be written and has space"
LOCK = ".lock"


class Scratch(Closing):
    """A folder of this process alone.

    Args:
        purpose: a word that shows in its name.
        parent: the folder it is made in; by default the system's temporary folder.

    Attributes: ``path``.

    Raises:
        EnvironmentMissing: there is no temporary folder, or the disk is full. UsageError: ``parent`` cannot be written.
    """

    def __init__(self, purpose: str, parent: Path | None = None) -> None:
        parent = parent or temporary_folder()
        sweep(parent)
        with write_errors(parent, ELSEWHERE):
            self.path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{purpose}-", dir=parent))
            lock = self.path / f"{LOCK}.new"
            self._lock = os.open(lock, os.O_CREAT | os.O_RDWR, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            lock.rename(self.path / LOCK)  # nobody finds it before it is locked

    def close(self) -> None:
        """Remove it; twice is fine."""
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):
            os.close(self._lock)
        self._lock = -1

    @contextmanager
    def holding(self, content: bytes, name: str) -> Iterator[Path]:
        """A file with that content, for as long as the block lasts.

        Raises:
            EnvironmentMissing: the disk is full. UsageError: the folder cannot be written, or is no more.
        """
        folder = self.path / secrets.token_hex(8)
        try:
            with write_errors(self.path, ELSEWHERE):
                folder.mkdir(mode=0o700)
                path = folder / name
                path.write_bytes(content)
            yield path
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def temporary_folder() -> Path:
    """The system's. Raises EnvironmentMissing: there is none that can be written, as when all are full."""
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as e:
        raise EnvironmentMissing(
            f"no temporary file can be written: {e.strerror}", f"free some space, or {ELSEWHERE}"
        ) from e


def sweep(parent: Path) -> None:
    """Remove what processes that are no more have left in a folder."""
    for folder in parent.glob(f"{PREFIX}*-*"):
        with suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)  # without one it is not ours, or just being made
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
