"""Printing the parts of manifests and records that have no schema: measurements, and how things were made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmx.runtime.errors import BadDataError


@contextmanager
def free_parts_of(path: Path, hint: str) -> Iterator[None]:
    """Say in one line that ``path`` holds something in such a part that mmx did not write.

    Raises:
        BadDataError: what is read in the block is missing, or of another type than mmx writes.
    """
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError, ArithmeticError) as e:
        problem = f"{path}: what it records of its making or measurements is not what mmx writes ({e!r:.200})"
        raise BadDataError(problem, hint) from e
