"""A folder that is there whole or not at all, and never in place of somebody's files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmx.runtime.errors import UsageError
from mmx.runtime.files import whole_folder


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to fill beside ``out``; when the block ends well it becomes ``out``, otherwise it goes away.

    Raises:
        UsageError: ``out`` is there and is not an empty folder. Also what ``whole_folder`` raises.
    """
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        raise UsageError(f"{out} is there already", "remove it, or name another folder")
    with whole_folder(out) as folder:
        yield folder
