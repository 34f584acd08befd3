"""Read a pickle that holds only plain data: dicts, lists, tuples, strings, numbers. Nothing else is ever built.

The public data sets' ``meta.pkl`` is such a file. A pickle names the functions it wants called as globals; rejecting
every global leaves it nothing to call.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, NoReturn

from mmx.runtime.errors import BadDataError

LIMIT_BYTES = 256 * 2**20


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler without globals and persistent ids: what is left of the format is plain data."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("it refers to objects outside the file")


def load_plain(path: Path) -> Any:
    """What a pickle of plain data holds.

    Raises:
        BadDataError: missing, over 256 MB, damaged, or a pickle that wants more than plain data built.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LIMIT_BYTES + 1)
    except OSError as e:
        raise BadDataError(
            f"{path} can't be read: {e.strerror}", "the public layout has it beside the utterances"
        ) from e
    if len(data) > LIMIT_BYTES:
        raise BadDataError(
            f"{path} is larger than {LIMIT_BYTES >> 20} MB", "this is not the public data sets' meta.pkl"
        )
    try:
        return _PlainUnpickler(io.BytesIO(data)).load()
    except Exception as e:  # a damaged pickle fails in whatever way its bytes happen to lead to
        raise BadDataError(
            f"{path} is not a pickle of plain data: {e}",
            "if you trust it, load it yourself and write its dicts, lists, strings and numbers with pickle.dump",
        ) from e
