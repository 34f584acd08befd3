"""``Live``: a camera or a stream and a bundle -> predictions while it goes on.

with Live("ckpt.mmx", "rtsp://camera.local/main") as live:
    for each in live:
        print(each.prediction.end, each.prediction.labels, f"{each.lag_s:.2f} s late")
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mmx.runtime.bundle import Bundle
from mmx.runtime.closing import Closing, close_generator
from mmx.runtime.errors import MmxError, UsageError
from mmx.runtime.live.session import RECONNECT_S, LiveCounts, LivePrediction, Session
from mmx.runtime.network import Network, media_bundle
from mmx.runtime.packing import FACE_SHAPE, PIECE_SHAPE
from mmx.runtime.people.choice import People
from mmx.runtime.prediction import Prediction
from mmx.runtime.preprocess import Segment
from mmx.runtime.probabilities import Certainty
from mmx.runtime.streaming.reading import MAX_LAG_S
from mmx.runtime.streaming.segments import LiveTask
from mmx.runtime.streaming.sources import LiveSource
from mmx.runtime.streaming.windows import Rolling
from mmx.runtime.types import Sample
from mmx.runtime.workers.task import Limits
from mmx.runtime.workers.worker import WorkerSettings

__all__ = ["Live", "LiveCounts", "LivePrediction"]

T = TypeVar("T")


class Live(Closing):
    """A live source that is being answered: iterate for ``LivePrediction``s, and close it.

    Args:
        bundle: a bundle folder, or one that is open.
        source: a file, a URL, the number of a camera, a device, a pipe; or what ``LiveSource.of`` made of it.
        window, hop: seconds; see ``Rolling``.
        pace: ``real``: a recording comes at its own speed, as from a camera, and what is late is dropped; ``none``: it
            is read as fast as it is answered, and nothing is dropped. Cameras and streams have their own pace.
        max_lag: seconds after which a frame that was not looked at is dropped.
        reconnect_s: how long a source that was lost is tried again.
        backend, precision, threads, on_mismatch, device: see ``open_backend``. faces, certainty: see ``Predictor``.
        people: see ``Predictor.predict``; ``each`` gives a prediction a window for each person.
        limits: of the worker process that reads the source.
        on_lost: called with the reason, from another thread, each time the source is lost.

    Attributes: ``name`` (of the source), ``bundle``, ``network``, ``backend``, ``counts`` (see ``LiveCounts``).

    Raises:
        MmxError: as ``Predictor``, and ``LiveSource.of``.
    """

    def __init__(
        self,
        bundle: Bundle | str | Path,
        source: str | LiveSource,
        *,
        window: float = 3.0,
        hop: float = 0.5,
        pace: str = "real",
        max_lag: float = MAX_LAG_S,
        reconnect_s: float = RECONNECT_S,
        backend: str = "auto",
        precision: str = "fp32",
        threads: int | None = None,
        on_mismatch: str = "error",
        device: str | None = None,
        faces: str = "exact",
        people: str = "largest",
        certainty: Certainty | None = None,
        limits: Limits | None = None,
        on_lost: Any = lambda reason: None,
    ) -> None:
        if pace not in ("real", "none"):
            raise UsageError(f"pace is {pace!r}", "it can be real or none")
        opened = source if isinstance(source, LiveSource) else LiveSource.of(source)
        People.parse(people, faces)
        task = LiveTask(opened, Rolling(window, hop), pace == "real", max_lag, people)
        self.name = opened.name
        self.bundle = media_bundle(bundle)
        self.network = Network.open(
            self.bundle,
            backend,
            precision,
            threads=threads,
            on_mismatch=on_mismatch,
            device=device,
            certainty=certainty,
        )
        self.backend = self.network.backend
        zeros = np.zeros((1, *FACE_SHAPE), np.float32), np.zeros((1, *PIECE_SHAPE), np.float32)
        self.network.outputs([Sample(None, *zeros)])  # the first window does not pay for it
        settings = WorkerSettings(self.bundle, faces, 1, limits or Limits())
        self._session = Session(settings, task, self._predict, reconnect_s=reconnect_s, on_lost=on_lost)
        self._loop = asyncio.new_event_loop()
        # The worker's parent in the kernel's eyes is this thread: when it ends, the worker does.
        self._thread = threading.Thread(target=self._loop.run_forever, name="mmx-live", daemon=True)
        self._thread.start()
        self._predictions = self._session.predictions()
        self._step: Future[LivePrediction | None] | None = None

    @property
    def counts(self) -> LiveCounts:
        """What was done so far."""
        return self._session.counts

    def __iter__(self) -> Iterator[LivePrediction]:
        """The predictions as they come. Raises what ``Session.predictions`` does."""
        while True:
            self._step = self._submit(self._next())
            prediction = self._step.result()
            if prediction is None:
                return
            yield prediction

    def close(self) -> None:
        """End the worker and free the memory of the network; twice is fine."""
        if self._loop.is_closed():
            return
        if self._step is not None:
            self._step.cancel()
        with suppress(MmxError):
            self._submit(close_generator(self._predictions)).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self.network.close()

    def _submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _next(self) -> LivePrediction | None:
        return await anext(self._predictions, None)

    async def _predict(self, segment: Segment) -> Prediction:
        answer = (await asyncio.to_thread(self.network.predict, [segment]))[0]
        if isinstance(answer, MmxError):
            raise answer
        return answer
