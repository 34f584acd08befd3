"""What a Python caller gives, checked: a wrong kind of value is a ``UsageError`` that names the argument."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mmx.runtime.errors import UsageError


def at_least_one(name: str, value: Any) -> None:
    """Reject what is not an integer of 1 or more.

    Raises:
        UsageError: it is something else.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise UsageError(f"{name} is {type(value).__name__}", "it must be an integer, 1 or more")
    if value < 1:
        raise UsageError(f"{name} is {value}; it must be 1 or more")


def as_path(name: str, value: Any) -> Path:
    """A path as ``Path``.

    Raises:
        UsageError: it is neither text nor a path.
    """
    if not isinstance(value, (str, os.PathLike)):
        raise UsageError(f"{name} is {type(value).__name__}", "it must be a path")
    return Path(value)


def as_text(name: str, value: Any) -> str:
    """A string as it is.

    Raises:
        UsageError: it is something else.
    """
    if not isinstance(value, str):
        raise UsageError(f"{name} is {type(value).__name__}", "it must be a string")
    return value
