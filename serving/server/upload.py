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

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from mmx.runtime.errors import BadDataError, UsageError
from mmx.runtime.from_json import from_plain, parse_list
from mmx.runtime.people.choice import People
from mmx.runtime.types import Span
from mmx.runtime.workers.task import Task
from mmx.serving.server.off_loop import on_disk
from mmx.serving.server.rejection import Rejection
from mmx.serving.server.settings import Limits, Settings
from mmx.serving.server.uploads import Upload

MULTIPART = "multipart/form-data"
PARTS = ("video", "text", "transcript", "segments", "window", "people")
DISCARD_S = 5.0  # how long the rest of a rejected body is read, so that the client gets to read the rejection
SAID = ("text", "transcript", "segments")  # at most one of these
WINDOW_BYTES, PEOPLE_BYTES = 32, 128
WRITE_BYTES = 256 * 1024  # of a video, before they go to the disk


def declared_length(request: Request) -> int:
    """The length that the body is said to have; 0 where nothing is said."""
    declared = request.headers.get("content-length", "")
    return int(declared) if declared.isdecimal() and len(declared) < 20 else 0


async def body(request: Request, upload: Upload, limit: int, limits: Limits) -> AsyncIterator[bytes]:
    """The body's chunks.

    It may keep the server waiting for ``idle_s`` in all, and for as long as its bytes take at the least rate.

    Raises:
        Rejection: 413 when there are more than ``limit`` bytes, 408 when they come too slowly, 429 when all uploads
            together hold too much.
    """
    if declared_length(request) > limit:
        raise _too_large(limit)
    waited = 0.0
    ends = time.monotonic() + limits.upload_s
    chunks = request.stream()
    while True:
        began = time.monotonic()
        patience = limits.idle_s + upload.taken / limits.upload_rate - waited
        try:
            if upload.pushed_out or patience <= 0:
                raise TimeoutError
            async with asyncio.timeout(min(limits.idle_s, patience, ends - began)) as timer:
                with upload.waiting(timer):
                    chunk = await anext(chunks, None)
        except TimeoutError as e:
            raise Rejection(408, "slow_upload", "the body came too slowly", "send it again, or send less") from e
        waited += time.monotonic() - began
        if chunk is None:
            return
        if upload.taken + len(chunk) > limit:
            raise _too_large(limit)
        upload.take(len(chunk))
        yield chunk


async def discard(request: Request, limit: int) -> None:
    """Read on for a while after a rejection: a client that is still sending would otherwise only see a reset."""
    with suppress(Exception):  # the request is rejected already, whatever comes
        async with asyncio.timeout(DISCARD_S):
            taken = 0
            while taken < limit:
                message = await request.receive()
                if message["type"] != "http.request" or not message.get("more_body"):
                    return
                taken += len(message.get("body", b""))


async def read_bytes(request: Request, upload: Upload, limit: int, limits: Limits) -> bytes:
    """The whole body, in memory."""
    return b"".join([chunk async for chunk in body(request, upload, limit, limits)])


async def read_form(request: Request, upload: Upload, folder: Path, settings: Settings) -> Task:
    """A multipart form into ``folder``: the task it asks for.

    Raises:
        Rejection: see ``body``; 400 for a broken form, 413 for a part that is too large, 507 for a full disk.
    """
    _, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise _broken("there is no boundary")
    limits = settings.limits
    form = _Form(folder, settings)
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
        async for chunk in body(request, upload, limits.upload_bytes, limits):
            parser.write(chunk)
            if form.pending_bytes >= WRITE_BYTES:
                await on_disk(form.write)
        parser.finalize()
        task = form.task()
        await on_disk(form.write)
        return task
    except FormParserError as e:
        raise _broken("a part is not as multipart/form-data has it") from e


class _Form:
    """The parts of one form as the parser finds them. The video goes to disk, the rest is short.

    ``pending_bytes``: of the video, not written yet.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._folder = folder
        self._settings = settings
        limits = settings.limits
        self._most = {
            "text": limits.text_bytes,
            "transcript": limits.transcript_bytes,
            "segments": limits.transcript_bytes,
            "window": WINDOW_BYTES,
            "people": PEOPLE_BYTES,
        }
        self._name = ""
        self._header = (b"", b"")
        self._disposition = b""
        self._short: dict[str, bytearray] = {}
        self._files: dict[str, list[bytes]] = {}  # what is to be written, by name
        self._video_bytes = 0
        self.pending_bytes = 0
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
        if name in self._short or name in self._files:
            raise _broken(f"there are two parts {name}")
        self._name = name
        if name == "video":
            self._files[name] = []
        else:
            self._short[name] = bytearray()

    def data(self, data: bytes, start: int, end: int) -> None:
        if self._name == "video":
            self._files["video"].append(data[start:end])
            self._video_bytes += end - start
            self.pending_bytes += end - start
        elif self._name:
            part = self._short[self._name]
            part += data[start:end]
            if len(part) > self._most[self._name]:
                most = self._most[self._name]
                raise Rejection(413, "too_large", f"the part {self._name} has more than {most} bytes", "send less")

    def part_ends(self) -> None:
        self._name = ""

    def end(self) -> None:
        self._whole = True

    def write(self) -> None:
        """What is pending goes to the disk."""
        for name, pieces in self._files.items():
            with (self._folder / name).open("ab", buffering=0) as file:
                for piece in pieces:
                    left = memoryview(piece)
                    while left:
                        left = left[file.write(left) :]
            pieces.clear()
        self.pending_bytes = 0

    def task(self) -> Task:
        """What the whole form asks for."""
        if not self._whole:
            raise _broken("it ends early")
        if not self._video_bytes:
            raise _broken("there is no part video, or it is empty")
        text, transcript, segments = (self._short.get(name) for name in SAID)
        if sum(part is not None for part in (text, transcript, segments)) > 1:
            raise _broken(f"more than one of {', '.join(SAID)} was given")
        window = _window(self._short.get("window"))
        if segments is not None and window is not None:
            raise _broken("segments and a window were both given")
        name = None
        if transcript is not None:
            name = f"transcript.{transcript_kind(bytes(transcript))}"
            self._files[name] = [bytes(transcript)]
        said = text.decode("utf-8", "replace") if text is not None else None
        spans = _spans(bytes(segments)) if segments is not None else None
        return Task(
            self._folder / "video",
            said,
            self._folder / name if name else spans,
            window,
            name="video",
            transcript_name=name,
            people=self._people(),
        )

    def _people(self) -> str:
        given = self._short.get("people")
        if not given:
            return self._settings.people
        people = given.decode("utf-8", "replace")
        try:
            People.parse(people, self._settings.faces)
        except UsageError as e:
            raise _broken(f"{e.message} ({e.hint})") from e
        return people


def transcript_kind(data: bytes) -> str:
    """vtt, srt or txt, from what is in it; its name is the client's and is not looked at."""
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    words = data.decode("utf-16" if wide else "utf-8-sig", "replace").lstrip()
    if words.startswith("WEBVTT"):
        return "vtt"
    return "srt" if "-->" in words else "txt"


def _spans(data: bytes) -> list[Span]:
    """The part ``segments``: stretches of the file, each with what is said in it."""
    try:
        given = parse_list(data, "segments")
        spans = [from_plain(Span, each, f"segment {number}") for number, each in enumerate(given, 1)]
    except BadDataError as e:
        raise _broken(e.message) from e
    if not spans:
        raise _broken("segments is empty")
    for number, span in enumerate(spans, 1):
        if not 0 <= span.start < span.end:
            raise _broken(f"segment {number} does not end after it starts, at 0 or later")
    return spans


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


def _broken(why: str) -> Rejection:
    return Rejection(400, "bad_form", f"the form cannot be read: {why}", "curl -F video=@talk.mp4 -F text='...'")


def _too_large(limit: int) -> Rejection:
    return Rejection(413, "too_large", f"the body has more than {limit} bytes", "send a shorter or a smaller file")
