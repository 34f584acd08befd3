"""Disk work in a thread, so that a slow disk holds up its own request and no other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar

from mmx.serving.server.rejection import Rejection

log = logging.getLogger(__name__)
T = TypeVar("T")
RETRY_S = 10


async def on_disk(work: Callable[[], T]) -> T:
    """Do it in a thread. Where this is cancelled, it is still waited for: nothing works on in a folder that is gone.

    Raises:
        Rejection: 507 where the disk is full or the folder is gone; the log says which.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
    except OSError as e:
        log.error("an upload cannot be kept: %s", e)
        raise Rejection(507, "no_room", "the server has no room for the upload", "try again later", RETRY_S) from e
