"""A request's body as it streams in: counted, timed, and put where the server chooses. Nothing a client calls its
files reaches the file system; they are not even looked at.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from mmx.runtime.workers.task import Task
from mmx.serving.server.refusal import Refusal
from mmx.serving.server.settings import Limits

MULTIPART = "multipart/form-data"
PARTS = ("video", "text", "transcript", "window")
DISCARD_S = 5.0  # how long the rest of a refused body is read, so that the client gets to read the refusal
WINDOW_BYTES = 32


async def body(request: Request, limit: int, limits: Limits) -> AsyncIterator[bytes]:
    """The body's chunks.

    Raises:
        Refusal: 413 when there are more than ``limit`` bytes, 408 when they come too slowly.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    taken = 0
    ends = time.monotonic() + limits.upload_s
    chunks = request.stream()
    while True:
        left = min(limits.idle_s, ends - time.monotonic())
        try:
            async with asyncio.timeout(left):
                chunk = await anext(chunks, None)
        except TimeoutError as e:
            raise Refusal(408, "slow_upload", "the body came too slowly", "send it again, or send less") from e
        if chunk is None:
            return
        taken += len(chunk)
        if taken > limit:
            raise _too_large(limit)
        yield chunk


async def discard(request: Request, limit: int) -> None:
    """Read on for a while after a refusal: a client that is still sending would otherwise only see a reset."""
    with suppress(Exception):  # the request is refused already, whatever comes
        async with asyncio.timeout(DISCARD_S):
            taken = 0
            while taken < limit:
                message = await request.receive()
                if message["type"] != "http.request" or not message.get("more_body"):
                    return
                taken += len(message.get("body", b""))


async def read_bytes(request: Request, limit: int, limits: Limits) -> bytes:
    """The whole body, in memory."""
    return b"".join([chunk async for chunk in body(request, limit, limits)])


async def read_form(request: Request, folder: Path, limits: Limits) -> Task:
    """A multipart form into ``folder``: the task it asks for.

    Raises:
        Refusal: see ``body``; 400 for a broken form, 413 for a part that is too large.
    """
    _, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise _broken("there is no boundary")
    form = _Form(folder, limits)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_header_field": form.header_name,
                "on_header_value": form.header_value,
                "on_header_end": form.header_end,
                "on_headers_finished": form.part_begins,
                "on_part_data": form.data,
                "on_part_end": form.part_ends,
                "on_end": form.end,
            },
        )
        async for chunk in body(request, limits.upload_bytes, limits):
            parser.write(chunk)
        parser.finalize()
        return form.task()
    except FormParserError as e:
        raise _broken("a part is not as multipart/form-data has it") from e
    finally:
        form.close()


class _Form:
    """The parts of one form as the parser finds them. The video goes to disk, the rest is short."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._folder = folder
        self._most = {"text": limits.text_bytes, "transcript": limits.transcript_bytes, "window": WINDOW_BYTES}
        self._name = ""
        self._header = (b"", b"")
        self._disposition = b""
        self._short: dict[str, bytearray] = {}
        self._video: BinaryIO | None = None
        self._video_bytes = 0
        self._whole = False

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._header = (self._header[0] + data[start:end], b"")

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._header = (self._header[0], self._header[1] + data[start:end])

    def header_end(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._disposition = value
        self._header = (b"", b"")

    def part_begins(self) -> None:
        _, options = parse_options_header(self._disposition.decode("latin-1"))
        name = options.get(b"name", b"").decode("latin-1")
        self._disposition = b""
        if name not in PARTS:
            raise _broken(f"a part is none of {', '.join(PARTS)}")
        if name in self._short or (name == "video" and self._video is not None):
            raise _broken(f"there are two parts {name}")
        self._name = name
        if name == "video":
            self._video = (self._folder / "video").open("xb")
        else:
            self._short[name] = bytearray()

    def data(self, data: bytes, start: int, end: int) -> None:
        if self._name == "video" and self._video is not None:
            self._video.write(memoryview(data)[start:end])
            self._video_bytes += end - start
        elif self._name:
            part = self._short[self._name]
            part += data[start:end]
            if len(part) > self._most[self._name]:
                most = self._most[self._name]
                raise Refusal(413, "too_large", f"the part {self._name} has more than {most} bytes", "send less")

    def part_ends(self) -> None:
        self._name = ""

    def end(self) -> None:
        self._whole = True

    def close(self) -> None:
        if self._video is not None:
            self._video.close()

    def task(self) -> Task:
        """What the whole form asks for."""
        if not self._whole:
            raise _broken("it ends early")
        if not self._video_bytes:
            raise _broken("there is no part video, or it is empty")
        assert self._video is not None
        self._video.flush()
        text = self._short.get("text")
        transcript = self._short.get("transcript")
        if text is not None and transcript is not None:
            raise _broken("text and a transcript were both given")
        name = None
        if transcript is not None:
            name = f"transcript.{transcript_kind(bytes(transcript))}"
            (self._folder / name).write_bytes(transcript)
        said = text.decode("utf-8", "replace") if text is not None else None
        return Task(
            self._folder / "video",
            said,
            self._folder / name if name else None,
            _window(self._short.get("window")),
            name="video",
            transcript_name=name,
        )


def transcript_kind(data: bytes) -> str:
    """vtt, srt or txt, from what is in it; its name is the client's and is not looked at."""
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    words = data.decode("utf-16" if wide else "utf-8-sig", "replace").lstrip()
    if words.startswith("WEBVTT"):
        return "vtt"
    return "srt" if "-->" in words else "txt"


def _window(value: bytearray | None) -> float | None:
    """Seconds; None for "utterance" or nothing."""
    if value is None or bytes(value) in (b"", b"utterance"):
        return None
    try:
        seconds = float(value.decode("ascii"))
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise _broken("window is neither 'utterance' nor a number of seconds over 0")
    return seconds


def _broken(why: str) -> Refusal:
    return Refusal(400, "bad_form", f"the form cannot be read: {why}", "curl -F video=@talk.mp4 -F text='...'")


def _too_large(limit: int) -> Refusal:
    return Refusal(413, "too_large", f"the body has more than {limit} bytes", "send a shorter or a smaller file")
