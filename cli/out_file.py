"""A file to write, checked before the work whose result it will hold."""

from __future__ import annotations

import os
from pathlib import Path

import click


class OutFile(click.ParamType[Path]):
    """A path at which a file can be made or replaced; folders above it may still be missing."""

    name = "file"

    def convert(self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Parse the option's value."""
        path = Path(value)
        if path.is_dir():
            self.fail(f"{path} is a folder", param, ctx)
        place = next((folder for folder in path.absolute().parents if folder.exists()), Path("/"))
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            self.fail(f"{path} cannot be written: no file can be made in {place}", param, ctx)
        return path
