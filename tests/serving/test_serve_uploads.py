"""Bodies that arrive: places, shares, rates and the budget, without a clock; and trickling clients against a server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from waiting import until

from mmx.serving.server import upload as upload_module
from mmx.serving.server import uploads as uploads_module
from mmx.serving.server.rejection import Rejection
from mmx.serving.server.settings import Limits
from mmx.serving.server.upload import body
from mmx.serving.server.uploads import Upload, Uploads

RATE = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time that uploads see."""
    made = SimpleNamespace(now=100.0)
    monkeypatch.setattr(uploads_module, "time", SimpleNamespace(monotonic=lambda: made.now))
    monkeypatch.setattr(upload_module, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


def test_the_slowest_of_many_trickling_bodies_gives_way(clock: SimpleNamespace) -> None:
    uploads = Uploads(places=16, budget=2**20, rate=RATE)
    with ExitStack() as all_:
        arriving = [all_.enter_context(uploads.upload(f"client {n}", 0)) for n in range(16)]
        with pytest.raises(Rejection, match="16 uploads"):  # none is old enough to be called slow
            all_.enter_context(uploads.upload("honest", 0))
        clock.now += 2
        for number, each in enumerate(arriving):
            each.take(2500 if number % 2 else 10 + number)
        all_.enter_context(uploads.upload("honest", 0))
        assert [each.pushed_out for each in arriving] == [number == 0 for number in range(16)]
        for _ in range(7):
            all_.enter_context(uploads.upload("honest", 0))
        assert [each.pushed_out for each in arriving] == [number % 2 == 0 for number in range(16)]
        clock.now += 0.4
        with pytest.raises(Rejection, match="uploads"):  # the others are fast enough
            all_.enter_context(uploads.upload("another", 0))
        assert uploads.inside == 16
    assert (uploads.inside, uploads.held) == (0, 0)


def test_one_address_has_half_of_the_places(clock: SimpleNamespace) -> None:
    uploads = Uploads(places=20, budget=2**20, rate=RATE)
    with ExitStack() as all_:
        own = [all_.enter_context(uploads.upload("greedy", 0)) for _ in range(10)]
        with pytest.raises(Rejection, match="of this address"):
            all_.enter_context(uploads.upload("greedy", 0))
        all_.enter_context(uploads.upload("honest", 0))
        own[0].complete()  # what has arrived is no longer arriving
        all_.enter_context(uploads.upload("greedy", 0))


def test_the_budget_is_of_all_uploads_until_their_requests_have_ended(clock: SimpleNamespace) -> None:
    uploads = Uploads(places=8, budget=1000, rate=RATE)
    with ExitStack() as first:
        one = first.enter_context(uploads.upload("a", 600))
        one.take(600)
        one.complete()  # it is being answered
        with pytest.raises(Rejection, match="together"), uploads.upload("b", 401):
            pass
        with uploads.upload("b", 0) as undeclared, pytest.raises(Rejection, match="together"):
            undeclared.take(300)
            undeclared.take(101)
        assert uploads.held == 600
    assert uploads.held == 0
    with uploads.upload("b", 1000) as two:
        two.take(1000)


class Sender:
    """A request whose chunks come after so many seconds of the clock each, or never."""

    def __init__(self, clock: SimpleNamespace, chunks: list[tuple[float, bytes]], never_ends: bool = False) -> None:
        self.headers: dict[str, str] = {}
        self._clock, self._chunks, self._never_ends = clock, chunks, never_ends

    async def stream(self) -> AsyncIterator[bytes]:
        for seconds, chunk in self._chunks:
            self._clock.now += seconds
            yield chunk
        if self._never_ends:
            await asyncio.Event().wait()


def read(clock: SimpleNamespace, sender: Sender, meanwhile: Any = None) -> int:
    async def run() -> int:
        with Uploads(4, 2**30, RATE).upload("a", 0) as upload:
            if meanwhile:
                asyncio.get_running_loop().call_later(0.01, meanwhile, upload)
            limits = Limits(upload_rate=RATE, idle_s=10, upload_s=1000)
            return sum([len(chunk) async for chunk in body(sender, upload, 2**20, limits)])  # type: ignore[arg-type]

    return asyncio.run(run())


def test_a_body_below_the_least_rate_is_given_up_and_a_slow_one_above_it_is_not(clock: SimpleNamespace) -> None:
    steady = [(1.0, bytes(1100))] * 200
    assert read(clock, Sender(clock, steady)) == 220_000
    paused = [(1.0, bytes(1000)), (8.0, bytes(10)), *steady]
    assert read(clock, Sender(clock, paused)) == 221_010
    trickling = [(1.0, b"x")] * 200
    with pytest.raises(Rejection) as error:
        read(clock, Sender(clock, trickling))
    assert (error.value.status, error.value.code) == (408, "slow_upload")


def test_a_body_that_has_to_make_room_ends_at_once(clock: SimpleNamespace) -> None:
    with pytest.raises(Rejection, match="too slowly"):
        read(clock, Sender(clock, [(0.0, b"x")], never_ends=True), Upload.push_out)


def test_trickling_clients_lock_nobody_out(start: Any, tone: Path) -> None:
    """All places of the address are taken by bodies of which a byte comes now and then, on the same address."""
    with start("--workers", "1", "--queue", "8", "--idle", "300") as server:
        host, port = server.url.removeprefix("http://").split(":")
        head = f"POST /v1/predict HTTP/1.1\r\nhost: {host}\r\ncontent-length: 1000\r\n"
        head += "content-type: multipart/form-data; boundary=a\r\n\r\n--a\r\n"
        with ExitStack() as open_:
            for _ in range(8):
                client = open_.enter_context(socket.create_connection((host, int(port))))
                client.sendall(head.encode())
            until(lambda: server.metric('mmx_queue{queue="uploads"}') == 8, "all places to be taken")
            upload = {"video": tone.read_bytes()}
            until(lambda: server.post(files=upload).status_code == 200, "an answer amid them")
            assert server.metric('mmx_queue{queue="uploads"}') == 7


def test_uploads_beyond_the_budget_are_rejected_and_leave_nothing(start: Any, tmp_path: Path) -> None:
    with start("--workers", "1", "--max-upload", "1", "--upload-budget", "1", scratch=tmp_path) as server:
        host, port = server.url.removeprefix("http://").split(":")
        part = b'--a\r\ncontent-disposition: form-data; name="video"\r\n\r\n' + bytes(700_000)
        head = f"POST /v1/predict HTTP/1.1\r\nhost: {host}\r\ncontent-length: 1000000\r\n"
        head += "content-type: multipart/form-data; boundary=a\r\n\r\n"
        with socket.create_connection((host, int(port))) as client:
            client.sendall(head.encode() + part)
            until(lambda: server.metric("mmx_upload_bytes") == len(part), "its bytes to be held")
            (video,) = tmp_path.glob("mmx-serve-*/*/video")
            assert video.stat().st_size <= len(part)
            response = server.post(files={"video": bytes(500_000)})
            assert (response.status_code, response.json()["error"]["code"]) == (429, "busy")
        until(lambda: server.metric("mmx_upload_bytes") == 0, "them to be given back")
        until(lambda: not list(tmp_path.glob("mmx-serve-*/*/video")), "its file to go")
        assert server.post(files={"video": bytes(500_000)}).status_code == 422
