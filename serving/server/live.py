"""A camera over a WebSocket: what a browser records goes in, the answers of rolling windows come out as they are known.

The client first sends ``{"type": "start", "window": 3, "hop": 0.5, "key": ...}``, then binary messages (the chunks of a
MediaRecorder, one after another; with ``"raw": {"width", "height", "sample_rate"}`` frames and samples as
``streaming.raw`` has them, a message each), at last ``{"type": "end"}``. The server sends ``ready``, a ``prediction``
for each window, and ``end``, or an ``error``. Each connection has a worker process of its own.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from mmx.runtime.errors import EnvironmentMissing, MmxError
from mmx.runtime.live.session import LivePrediction, Session
from mmx.runtime.streaming.raw import RawFormat
from mmx.runtime.streaming.reading import MAX_LAG_S
from mmx.runtime.streaming.segments import LiveTask
from mmx.runtime.streaming.sources import LiveSource
from mmx.runtime.streaming.windows import Rolling
from mmx.serving.server.rejection import Rejection, rejection_of
from mmx.serving.server.service import DRAINING_RETRY_S, Service

log = logging.getLogger("mmx.serving")
PATH = "/v1/live"
MESSAGE_BYTES = 4 * 2**20  # of one message
WAITING_BYTES = 2**18  # that wait for the worker before the client is made to wait
LAST_WORD_S = 2.0  # for the end to reach a client that may have stopped reading
DEFAULTS = {"window": 3.0, "hop": 0.5, "max_lag": MAX_LAG_S}


class LiveConnection:
    """One client's camera, from the handshake to the last answer."""

    def __init__(self, service: Service, socket: WebSocket) -> None:
        self._service, self._socket = service, socket
        self._limits = service.settings.limits

    async def run(self) -> None:
        """Until the client ends it, goes away, or exceeds a limit."""
        metrics = self._service.metrics
        await self._socket.accept()
        try:
            async with asyncio.timeout(self._limits.header_s):
                asked = self._asked(await self._socket.receive())
            self._service.check_ready()
            with self._service.live.slot():
                await self._answer(*asked)
            metrics.ended("ok")
        except Exception as e:
            error = _first(e)
            if isinstance(error, WebSocketDisconnect):
                return metrics.ended("disconnected")
            rejection = _rejection(error)
            metrics.ended(rejection.code)
            return await self._last({"type": "error", **rejection.body()})
        await self._last(None)

    def _asked(self, message: Any) -> tuple[Rolling, float, RawFormat | None]:
        """What the first message asks for: windows, the largest lag, and the raw format that will be sent."""
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect
        try:
            start = json.loads(message.get("text") or "")
            if start["type"] != "start":
                raise ValueError
            numbers = [start.get(name, default) for name, default in DEFAULTS.items()]
            if any(isinstance(each, bool) or not isinstance(each, (int, float)) for each in numbers):
                raise ValueError
            key, raw = start.get("key") or "", start.get("raw")
            if not isinstance(raw, dict | None):
                raise ValueError
            form = None if raw is None else RawFormat(**raw)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            hint = 'send {"type": "start", "window": 3, "hop": 0.5} first'
            raise Rejection(400, "bad_request", "the first message is not a start", hint) from e
        self._service.check_key(self._socket.headers.get("authorization") or f"Bearer {key}")
        window, hop, max_lag = map(float, numbers)
        return Rolling(window, hop), max_lag, form

    async def _answer(self, rolling: Rolling, max_lag: float, form: RawFormat | None) -> None:
        service, engine = self._service, self._service.engine
        async with service.folder() as folder:
            pipe = folder / "camera"
            os.mkfifo(pipe, 0o600)
            source = LiveSource("fed", str(pipe), "camera", silent_s=self._limits.idle_s, raw=form)
            task = LiveTask(source, rolling, max_lag=max_lag)
            session = Session(engine.worker_settings, task, engine.predict_segment)
            async with _writer(pipe) as writer, asyncio.TaskGroup() as group:
                beside = [
                    group.create_task(self._until_cut_off()),
                    group.create_task(self._feed(writer, framed=form is not None)),
                ]
                async with aclosing(session.predictions()) as predictions:
                    await self._send({"type": "ready"})
                    async for each in predictions:
                        await self._send(_message(each))
                for each_task in beside:
                    each_task.cancel()
            counts = session.counts
            end = {"predictions": counts.answered, "dropped": counts.dropped, "skipped": counts.skipped}
            await self._send({"type": "end", **end})

    async def _feed(self, writer: asyncio.StreamWriter, *, framed: bool) -> None:
        """What the client sends, into the pipe; a client that is faster than the worker waits."""
        idle_s = self._limits.idle_s
        try:
            while True:
                try:
                    async with asyncio.timeout(idle_s):
                        message = await self._socket.receive()
                except TimeoutError as e:
                    raise Rejection(408, "slow_upload", f"nothing came for {idle_s:g} s") from e
                if message["type"] == "websocket.disconnect":
                    raise WebSocketDisconnect(message.get("code", 1006))
                if chunk := message.get("bytes"):
                    writer.write(len(chunk).to_bytes(4, "big") + chunk if framed else chunk)
                    try:
                        async with asyncio.timeout(idle_s):
                            await writer.drain()
                    except TimeoutError as e:
                        raise Rejection(422, "too_slow", f"the worker took nothing for {idle_s:g} s") from e
                elif message.get("text") is not None:
                    return  # the end, or nothing that is known
        finally:
            writer.close()

    async def _until_cut_off(self) -> None:
        """Raise where the server ends, or the client has had its time."""
        longest = self._service.settings.live_s
        try:
            async with asyncio.timeout(longest):
                await self._service.draining.wait()
        except TimeoutError as e:
            raise Rejection(413, "too_long", f"a camera may be answered for {longest:g} s", "connect again") from e
        raise Rejection(503, "shutting_down", "the server is shutting down", retry_after=DRAINING_RETRY_S)

    async def _send(self, message: dict[str, Any]) -> None:
        await self._socket.send_text(json.dumps(message, allow_nan=False))

    async def _last(self, message: dict[str, Any] | None) -> None:
        """Say why it ends, if the client still reads, and close."""
        with suppress(Exception):
            async with asyncio.timeout(LAST_WORD_S):
                if message is not None:
                    await self._send(message)
                await self._socket.close()


def _message(each: LivePrediction) -> dict[str, Any]:
    lag = None if each.lag_s is None else round(each.lag_s, 4)
    return {"type": "prediction", "prediction": each.prediction.to_dict(),
            "live": {"lag_s": lag, "dropped": each.dropped, "skipped": each.skipped}}  # fmt: skip


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _rejection(error: Exception) -> Rejection:
    if isinstance(error, Rejection):
        return error
    if isinstance(error, TimeoutError):
        return Rejection(408, "slow_upload", "there was no start message")
    if isinstance(error, EnvironmentMissing):  # its words name the server's folders
        log.error("%s", error)
        return Rejection(503, "not_ready", "no worker can be started", "try again later", retry_after=1)
    if isinstance(error, MmxError):
        return rejection_of(error)
    log.error("a camera failed", exc_info=error)
    return Rejection(500, "server_error", "the server failed on this camera")


@asynccontextmanager
async def _writer(pipe: Path) -> AsyncIterator[asyncio.StreamWriter]:
    """A named pipe to write to, whether or not its reader is there yet; closing the writer is the end of it."""
    loop = asyncio.get_running_loop()
    kept = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # as its reader, until the worker is there
    try:
        file = os.fdopen(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK), "wb", buffering=0)
        transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, file)
        transport.set_write_buffer_limits(WAITING_BYTES)
        try:
            yield asyncio.StreamWriter(transport, protocol, None, loop)
        finally:
            if transport.get_write_buffer_size() or not transport.is_closing():
                transport.abort()
    finally:
        os.close(kept)
