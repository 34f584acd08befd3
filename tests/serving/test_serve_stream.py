"""A stream goes out segment by segment, not when the file is done: with a file that ends only when the test says so."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from mmx.runtime import Prediction, Predictor
from mmx.runtime.workers.task import Task
from mmx.serving.server.answering import Answering
from mmx.serving.server.rejection import Rejection
from mmx.serving.server.service import Service
from mmx.serving.server.settings import Settings

BODY = b'--a\r\ncontent-disposition: form-data; name="video"\r\n\r\nx\r\n--a--\r\n'
SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/v1/predict",
    "query_string": b"",
    "headers": [
        (b"content-type", b"multipart/form-data; boundary=a"),
        (b"accept", b"application/x-ndjson"),
    ],
}


@pytest.fixture(scope="module")
def prediction(tiny_bundle: Path, tone: Path) -> Prediction:
    with Predictor(tiny_bundle, backend="onnxruntime", threads=1) as predictor:
        (only,) = predictor.predict(tone)
    return only


@pytest.mark.parametrize("ending", ["whole", "fault", "deadline", "cut off"])
def test_segments_go_out_before_the_file_ends(
    tiny_bundle: Path, prediction: Prediction, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> list[dict[str, Any]]:
        service = Service(Settings(tiny_bundle, backend="onnxruntime", threads=1))
        first_is_out, go_on, forever = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def predict_file(_: Task) -> AsyncGenerator[Prediction, None]:
            yield prediction
            await go_on.wait()
            if ending == "fault":
                raise Rejection(422, "decoder_crashed", "it crashed")
            if ending != "whole":
                await forever.wait()
            yield prediction

        monkeypatch.setattr(service, "check_ready", lambda: None)
        monkeypatch.setattr(service.engine, "predict_file", predict_file)
        sent: list[dict[str, Any]] = []
        incoming = [{"type": "http.request", "body": BODY, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if not incoming:
                await forever.wait()
            return incoming.pop()

        async def send(message: Any) -> None:
            sent.append(message)
            if message["type"] == "http.response.body":
                first_is_out.set()

        loop, late = asyncio.get_running_loop(), 0.0
        monkeypatch.setattr(loop, "time", lambda: time.monotonic() + late)
        answering = Answering(service, deadline_s=1000)
        task = asyncio.create_task(answering(dict(SCOPE), receive, send))
        await first_is_out.wait()
        assert len(sent) == 2 and json.loads(sent[1]["body"])["logits"] == prediction.logits
        go_on.set()
        if ending == "deadline":
            late = 1000.0
        if ending == "cut off":
            service.cut_off.set()
        await task
        assert service.work.inside == 0 and not sent[-1].get("more_body")
        await service.close()
        return [json.loads(line) for message in sent[1:] for line in message["body"].splitlines()]

    *segments, last = asyncio.run(run())
    assert len(segments) == (2 if ending == "whole" else 1)
    if ending == "whole":
        assert last == {"end": {"segments": 2}}
    else:
        codes = {"fault": "decoder_crashed", "deadline": "deadline", "cut off": "shutting_down"}
        assert last["error"]["code"] == codes[ending]
