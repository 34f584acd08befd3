"""A folder that is there whole or not at all, and never in place of somebody's files."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmx.runtime.errors import UsageError


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to fill beside ``out``; when the block ends well it becomes ``out``, otherwise it goes away.

    Raises:
        UsageError: ``out`` is there and is not an empty folder, or can't be made.
    """
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        raise UsageError(f"{out} is there already", "remove it, or name another folder")
    folder = out.with_name(f"{out.name}.tmp-{secrets.token_hex(4)}")
    try:
        folder.mkdir(parents=True)
    except OSError as e:
        raise UsageError(f"cannot write {out}: {e.strerror}", "name another folder") from e
    try:
        yield folder
        folder.rename(out)  # replaces an empty folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
