"""Everything one running server holds, and the ways it ends: open, drain, cut off, close."""

from __future__ import annotations

import asyncio
import hmac
import itertools
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from mmx.runtime.scratch import Scratch
from mmx.serving.server.admission import Admission
from mmx.serving.server.engine import Engine
from mmx.serving.server.metrics import Metrics
from mmx.serving.server.off_loop import on_disk
from mmx.serving.server.rejection import Rejection
from mmx.serving.server.settings import Settings
from mmx.serving.server.tensors import TensorLimits
from mmx.serving.server.uploads import Uploads

DRAINING_RETRY_S = 5


class Service:
    """A server's state. Opening the bundle and the network happens here; ``open`` starts the processes.

    Attributes:
        settings, metrics, engine, tensor_limits.
        uploads: the bodies that arrive. work: how many requests may be waiting or worked on.
        live: how many cameras may be answered. draining: set when no more requests are taken.
        cut_off: set when requests that are still being worked on must end now.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.engine = Engine(settings, self.metrics)
        self.tensor_limits = TensorLimits.of(self.engine.bundle.manifest)
        self.uploads = Uploads(settings.uploads, settings.budget_bytes, settings.limits.upload_rate)
        self.work = Admission(settings.queue, "requests are being answered or wait for it")
        self.live = Admission(settings.live, "cameras are being answered")
        self.cut_off = asyncio.Event()
        self.draining = asyncio.Event()
        self._opened = False
        self._scratch = Scratch("serve")
        self._numbers = itertools.count()
        self.metrics.watch(
            {
                "requests": lambda: self.work.inside,
                "live": lambda: self.live.inside,
                "uploads": lambda: self.uploads.inside,
                "decode": lambda: self.engine.workers.waiting,
                "batch": lambda: self.engine.batcher.waiting,
            },
            upload_bytes=lambda: self.uploads.held,
        )

    async def open(self) -> None:
        """Start the workers and warm the network up."""
        await self.engine.open()
        self._opened = True

    async def close(self) -> None:
        """End everything and leave nothing behind."""
        self._opened = False
        await self.engine.close()
        self._scratch.close()

    def drain(self) -> None:
        """From now on take no request; those at hand go on."""
        self.draining.set()

    def check_ready(self) -> None:
        """Reject (503) where a new request would not be answered."""
        if self.draining.is_set():
            raise Rejection(
                503, "shutting_down", "the server is shutting down", "try again later", retry_after=DRAINING_RETRY_S
            )
        if not self._opened or not self.engine.workers.alive or not self.engine.batcher.alive:
            raise Rejection(503, "not_ready", "the server is not ready", "try again later", retry_after=1)

    def check_key(self, authorization: str) -> None:
        """Reject (401) where a key is asked for and ``Authorization: Bearer KEY`` has it not; in constant time."""
        if self.settings.api_key is None:
            return
        scheme, _, key = authorization.partition(" ")
        same = hmac.compare_digest(key.strip().encode("utf-8", "surrogateescape"), self.settings.api_key.encode())
        if not (same and scheme.lower() == "bearer"):
            raise Rejection(401, "no_key", "this server asks for an API key", "Authorization: Bearer KEY")

    @asynccontextmanager
    async def folder(self) -> AsyncIterator[Path]:
        """An empty folder for one upload, gone afterwards. Its name is a number.

        Raises:
            Rejection: 507 where the disk is full, or the temporary folder is gone.
        """
        folder = self._scratch.path / str(next(self._numbers))
        try:
            await on_disk(lambda: folder.mkdir(mode=0o700))
            yield folder
        finally:
            await on_disk(lambda: shutil.rmtree(folder, ignore_errors=True))
