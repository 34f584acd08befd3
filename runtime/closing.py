"""What is closed when a ``with`` is left."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Closing:
    """A base for what has a ``close``."""

    def close(self) -> None:
        """Free what it holds."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
