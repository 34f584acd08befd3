"""Temporary folders that are removed in the end, or by the next that starts if their process was killed.

$TMPDIR/mmx-serve-x1y2z3/.lock    locked for as long as its process lives
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mmx.runtime.closing import Closing
from mmx.runtime.errors import EnvironmentMissing

PREFIX = "mmx-"
LOCK = ".lock"


class Scratch(Closing):
    """A folder of this process alone, in the system's temporary folder.

    Args:
        purpose: a word that shows in its name.

    Attributes: ``path``.

    Raises:
        EnvironmentMissing: there is no temporary folder, or it is full.
    """

    def __init__(self, purpose: str) -> None:
        try:
            parent = Path(tempfile.gettempdir())
            sweep(parent)
            self.path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{purpose}-", dir=parent))
            lock = self.path / f"{LOCK}.new"
            self._lock = os.open(lock, os.O_CREAT | os.O_RDWR, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            lock.rename(self.path / LOCK)  # nobody finds it before it is locked
        except OSError as e:
            raise EnvironmentMissing(
                f"there is no room for temporary files: {e.strerror or e}", "free some space, or set TMPDIR"
            ) from e

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
            EnvironmentMissing: the disk is full.
        """
        folder = None
        try:
            folder = Path(tempfile.mkdtemp(dir=self.path))
            path = folder / name
            path.write_bytes(content)
        except OSError as e:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            raise EnvironmentMissing(f"{self.path} cannot be written: {e.strerror}", "free some space") from e
        try:
            yield path
        finally:
            shutil.rmtree(folder, ignore_errors=True)


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
