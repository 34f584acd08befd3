"""The server's machinery without HTTP: workers, the batcher and the network, and how a task goes through."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import suppress

import numpy as np

from mmx.runtime.backends.choice import chosen_batch_size
from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import EnvironmentMissing, MmxError
from mmx.runtime.network import Network, require_media
from mmx.runtime.packing import FACE_SHAPE, PIECE_SHAPE
from mmx.runtime.prediction import Prediction
from mmx.runtime.preprocess import Segment
from mmx.runtime.speech.find import resolve
from mmx.runtime.speech.recogniser import model_name
from mmx.runtime.types import Sample, Span
from mmx.runtime.workers.pool import Pool
from mmx.runtime.workers.task import Limits, Task
from mmx.runtime.workers.worker import WorkerSettings
from mmx.serving.server.batcher import Batcher, Row
from mmx.serving.server.metrics import Metrics
from mmx.serving.server.rejection import Rejection, rejection_of
from mmx.serving.server.settings import Settings

log = logging.getLogger(__name__)
BATCH_SIZE = 4  # unless asked otherwise
AHEAD = 8  # segments of one request that are decoded before the first of them is answered

Step = tuple[Segment, asyncio.Future[Row] | None] | Exception | None


class Engine:
    """A bundle that answers many requests at once.

    Attributes: ``network``, ``bundle``, ``backend``, ``workers``, ``batcher``; ``recogniser``: the name of the speech
    model, None where there is none.

    Raises:
        MmxError: see ``Network``.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.bundle = Bundle.open(settings.bundle)
        require_media(self.bundle)
        self.network = Network.open(
            self.bundle,
            settings.backend,
            settings.precision,
            threads=settings.threads,
            on_mismatch=settings.on_mismatch,
            streams=settings.streams,
            device=settings.device,
            certainty=settings.certainty,
            goal="throughput",
        )
        self.backend = self.network.backend
        self._metrics = metrics
        asr = resolve(settings.asr)
        self.recogniser = None if asr in ("auto", "none") else model_name(asr)
        self.worker_settings = _worker_settings(settings, self.bundle, asr)
        self.workers = Pool(self.worker_settings, settings.workers, metrics.replaced)
        self.batcher = Batcher(
            self.network,
            self.backend.streams,
            metrics,
            max_batch=settings.max_batch or self._batch_size(),
            max_wait_s=settings.max_wait_ms / 1000,
        )

    def _batch_size(self) -> int:
        backend = self.backend
        return chosen_batch_size(self.bundle, "throughput", backend.name, backend.precision, BATCH_SIZE)

    async def open(self) -> None:
        """Start the processes and run the network once in each stream: the first request does not pay for it."""
        await self.workers.open()
        self.batcher.open()
        faces, pieces = np.zeros((1, *FACE_SHAPE), np.float32), np.zeros((1, *PIECE_SHAPE), np.float32)
        warm_up = Sample(None, faces, pieces)
        await asyncio.gather(*(self.batcher.submit(warm_up) for _ in range(self.backend.streams)))

    async def close(self) -> None:
        """End the processes and give the network's memory back."""
        await self.workers.close()
        await self.batcher.close()
        self.network.close()

    async def predict_file(self, task: Task) -> AsyncGenerator[Prediction, None]:
        """Decode an upload and yield its predictions in order, as they come.

        Decoding goes on while earlier segments are in the network. What was decoded before a fault is still answered.

        Raises:
            Rejection: see ``Pool.segments``.
        """
        steps: asyncio.Queue[Step] = asyncio.Queue(AHEAD)
        producer = asyncio.create_task(self._decode(task, steps))
        try:
            while (step := await steps.get()) is not None:
                if isinstance(step, Exception):
                    raise step
                segment, answer = step
                yield await self._prediction(segment, answer)
        finally:
            producer.cancel()
            with suppress(asyncio.CancelledError):
                await producer
            while not steps.empty():
                step = steps.get_nowait()
                if isinstance(step, tuple) and step[1] is not None:
                    step[1].cancel()

    async def predict_sample(self, sample: Sample) -> AsyncGenerator[Prediction, None]:
        """Yield the prediction of one sample that was sent as tensors."""
        present = sample.modalities
        absent = {name: "not sent" for name in self.bundle.manifest.modalities if name not in present}
        segment = Segment("", Span(0.0, 0.0), sample, absent, (), 0, (), {})
        yield await self._prediction(segment, self.batcher.submit(sample))

    async def predict_segment(self, segment: Segment) -> Prediction:
        """The prediction of one segment that was read elsewhere. Raises Rejection."""
        for stage, ms in segment.timings_ms.items():
            self._metrics.stage(stage, ms / 1000)
        answer = self.batcher.submit(segment.sample) if segment.sample.modalities else None
        return await self._prediction(segment, answer)

    async def _decode(self, task: Task, steps: asyncio.Queue[Step]) -> None:
        """Put every segment in the queue, with the answer it will get; then None, or what went wrong."""
        segments = self.workers.segments(task)
        try:
            async for segment in segments:
                for stage, ms in segment.timings_ms.items():
                    self._metrics.stage(stage, ms / 1000)
                answer = self.batcher.submit(segment.sample) if segment.sample.modalities else None
                try:
                    await steps.put((segment, answer))
                except asyncio.CancelledError:
                    if answer is not None:
                        answer.cancel()
                    raise
            await steps.put(None)
        except EnvironmentMissing as e:  # its words name the server's folders
            log.error("%s", e)
            await steps.put(Rejection(503, "not_ready", "no worker can be started", "try again later", retry_after=1))
        except MmxError as e:
            await steps.put(rejection_of(e))
        except Exception as e:
            await steps.put(e)
        finally:
            await segments.aclose()

    async def _prediction(self, segment: Segment, answer: asyncio.Future[Row] | None) -> Prediction:
        try:
            row = None if answer is None else await answer
        except MmxError as e:
            raise rejection_of(e) from e
        if row is None:
            return self.network.prediction(segment, None, 0.0)
        return self.network.prediction(segment, row.outputs, row.network_ms)


def _worker_settings(settings: Settings, bundle: Bundle, asr: str) -> WorkerSettings:
    limits = settings.limits
    own = Limits(
        memory=limits.worker_bytes,
        seconds=limits.worker_s,
        stall_s=limits.worker_s,
        media_s=limits.media_s,
        pixels=limits.media_pixels,
    )
    return WorkerSettings(bundle, settings.faces, settings.worker_threads, own, asr, settings.language)
