"""One request to /v1/predict, from its first byte to the last of its answer."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from typing import Any

from fastapi import Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from mmx.runtime.prediction import Prediction
from mmx.serving.server.formats import JSON, Form, form_for
from mmx.serving.server.rejection import Rejection, deadline_passed
from mmx.serving.server.service import DRAINING_RETRY_S, Service
from mmx.serving.server.tensors import CONTENT_TYPE, read_sample
from mmx.serving.server.upload import MULTIPART, declared_length, discard, read_bytes, read_form

log = logging.getLogger("mmx.serving")
LAST_WORD_S = 2.0  # for the reason to reach a client that may have stopped reading


class Answering(Response):
    """Takes the request in, answers it, and sees to it that it ends in one of four ways: answered, rejected with a
    reason, broken off with a reason, or given up because the client went away.

    Args:
        deadline_s: from the complete upload to the whole answer.
    """

    def __init__(self, service: Service, deadline_s: float) -> None:
        super().__init__()
        self._service = service
        self._deadline_s = deadline_s
        self._started = False
        self._arrived = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        metrics = self._service.metrics

        async def tracked_receive() -> Message:
            message = await receive()
            self._arrived = self._arrived or not message.get("more_body", False)
            return message

        async def tracked(message: Message) -> None:
            self._started = self._started or message["type"] == "http.response.start"
            await send(message)

        request = Request(scope, tracked_receive)

        form: Form | None = None
        try:
            self._service.check_key(request.headers.get("authorization", ""))
            self._service.check_ready()
            form = form_for(",".join(request.headers.getlist("accept")))
            await self._answer(request, form, tracked)
            metrics.ended("ok")
        except (ClientDisconnect, Disconnected):
            metrics.ended("disconnected")
        except Exception as e:
            if not isinstance(e, Rejection):
                log.exception("a request failed")
            rejection = (
                e if isinstance(e, Rejection) else Rejection(500, "server_error", "the server failed on this request")
            )
            metrics.ended(rejection.code)
            if self._started:
                await self._break_off(form, rejection, tracked)
            else:
                if not self._arrived:
                    await discard(request, self._service.settings.limits.upload_bytes)
                await reject(rejection)(scope, receive, tracked)

    async def _answer(self, request: Request, form: Form, send: Send) -> None:
        service, limits = self._service, self._service.settings.limits
        service.work.check()  # before the body is read; the place is taken when it is there
        loop = asyncio.get_running_loop()
        began = loop.time()
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        client = request.client.host if request.client else ""
        async with AsyncExitStack() as kept:
            declared = min(declared_length(request), limits.upload_bytes)  # more is a 413, not a 429
            upload = kept.enter_context(service.uploads.upload(client, declared))
            if kind == MULTIPART:
                folder = await kept.enter_async_context(service.folder())
                task = await read_form(request, upload, folder, service.settings)
            elif kind == CONTENT_TYPE:
                data = await read_bytes(request, upload, service.tensor_limits.max_bytes, limits)
                sample = await asyncio.to_thread(read_sample, data, service.tensor_limits)
                del data
            else:
                raise Rejection(415, "bad_content_type", f"a body is {MULTIPART} or {CONTENT_TYPE}")
            upload.complete()
            arrived = loop.time()
            service.metrics.stage("upload", arrived - began)
            with service.work.slot():
                if kind == MULTIPART:
                    predictions = service.engine.predict_file(task)
                else:
                    predictions = service.engine.predict_sample(sample)
                async with aclosing(predictions), self._in_time():
                    await self._while_wanted(request, self._send(predictions, form, send))
            service.metrics.answered("media" if kind == MULTIPART else "tensors", loop.time() - arrived)

    async def _send(self, predictions: AsyncGenerator[Prediction, None], form: Form, send: Send) -> None:
        """The predictions as they come; the response starts with the first, so that a fault before it has a status."""
        async for prediction in predictions:
            chunk = form.segment(prediction)
            if form.streams:
                await self._start(form, send)
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await self._start(form, send)
        await send({"type": "http.response.body", "body": form.end()})

    async def _start(self, form: Form, send: Send) -> None:
        if not self._started:
            headers = {"content-type": form.content_type, "cache-control": "no-store", "x-accel-buffering": "no"}
            raw = [(name.encode(), value.encode()) for name, value in headers.items()]
            await send({"type": "http.response.start", "status": 200, "headers": raw})

    async def _break_off(self, form: Form | None, rejection: Rejection, send: Send) -> None:
        """Say why the stream ends here, if the client still reads."""
        last = form.broken_off(rejection) if form else b""
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORD_S):
                await send({"type": "http.response.body", "body": last})

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        """Give up at the deadline."""
        try:
            async with asyncio.timeout(self._deadline_s) as timeout:
                yield
        except TimeoutError as e:
            if not timeout.expired():
                raise
            raise deadline_passed(self._deadline_s, self._service.settings.limits.deadline_s) from e

    async def _while_wanted(self, request: Request, work: Awaitable[None]) -> None:
        """Do the work, but give it up when the client goes away or the server is cut off."""
        task = asyncio.ensure_future(work)
        gone = asyncio.create_task(_gone(request))
        cut = asyncio.create_task(self._service.cut_off.wait())
        try:
            await asyncio.wait({task, gone, cut}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
            elif gone.done():
                raise Disconnected
            else:
                raise Rejection(
                    503, "shutting_down", "the server had to stop before the answer", retry_after=DRAINING_RETRY_S
                )
        finally:
            for each in (task, gone, cut):
                each.cancel()
            await asyncio.gather(task, gone, cut, return_exceptions=True)


class Disconnected(Exception):
    """The client went away."""


def reject(rejection: Rejection) -> Response:
    """The response of a rejection."""
    headers = {}
    if rejection.retry_after is not None:
        headers["retry-after"] = str(rejection.retry_after)
    if rejection.status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(json.dumps(rejection.body()), rejection.status, headers, JSON)


async def _gone(request: Request) -> None:
    """Wait for the client to go away."""
    message: dict[str, Any] = {}
    while message.get("type") != "http.disconnect":
        message = dict(await request.receive())
