"""Paths on the command line, checked before the work that needs them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from mmx.runtime.errors import UsageError


class InPath(click.Path):
    """A file or folder that exists; a UsageError says that it does not.

    ``hint``: what to do then. ``folder``: True: a folder is needed; False: a file.
    """

    def __init__(self, hint: str = "check the path", *, folder: bool | None = None) -> None:
        super().__init__(path_type=Path, file_okay=folder is not True, dir_okay=folder is not False)
        self._hint, self._folder = hint, folder

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Parse the option's value."""
        if not os.path.lexists(value):  # Path.exists raises where it may not look
            raise UsageError(f"{value} does not exist", self._hint)
        if self._folder is not None and Path(value).is_dir() is not self._folder:
            raise UsageError(f"{value} is {'not a folder' if self._folder else 'a folder'}", "check the path")
        return Path(value)


class OutFile(click.Path):
    """A file that can be made or replaced; folders above it may still be missing.

    ``endings``: what its name may end in; () for anything.
    """

    name = "file"

    def __init__(self, *endings: str) -> None:
        super().__init__(path_type=Path)
        self._endings = endings

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Parse the option's value."""
        path = Path(value)
        if path.is_dir():
            self.fail(f"{path} is a folder", param, ctx)
        place = next((folder for folder in path.absolute().parents if folder.exists()), Path("/"))
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            self.fail(f"{path} cannot be written: no file can be made in {place}", param, ctx)
        if self._endings and path.suffix.lower() not in self._endings:
            self.fail(f"{path} should end in {' or '.join(self._endings)}", param, ctx)
        return path


class BundlePath(InPath):
    """A bundle's folder, or ``hf://owner/name@revision``, which is fetched to mmx's cache unless it is there."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Parse the option's value."""
        if isinstance(value, str) and value.startswith("hf://"):
            from mmx.runtime.bundle import fetched

            return fetched(value)
        return super().convert(value, param, ctx)


BUNDLE = BundlePath("make a bundle with mmx export ckpt.pt")
