"""What is closed when a ``with`` is left, and generators that are closed while they run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Any, Self


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


async def close_generator(generator: AsyncGenerator[Any, None]) -> None:
    """``aclose``, of a generator whose last step was cancelled and may still be on its way out."""
    while True:
        try:
            return await generator.aclose()
        except RuntimeError as e:
            if "already running" not in str(e):
                raise
            await asyncio.sleep(0.001)
