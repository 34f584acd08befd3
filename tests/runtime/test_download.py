"""URLs that are read: from no private address unless that is allowed, within limits, as media from anywhere."""

from __future__ import annotations

import http.server
import io
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from mmx.cli.main import main
from mmx.runtime import download
from mmx.runtime.download import copy, is_public, read_http
from mmx.runtime.errors import BadDataError, UsageError
from mmx.runtime.media.container import probe
from mmx.runtime.predictor import Predictor


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "8.8.8.8"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "198.18.0.1", "::1", "::", "fe80::1%eth0", "fd00::1", "ff02::1", "::ffff:10.0.0.1",
        "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:5ef5:79fd::1", "fd00:ec2::254",
    ],
)  # fmt: skip
def test_addresses_that_are_not_the_open_internet(address: str) -> None:
    assert not is_public(address)


@contextmanager
def server(content: bytes = b"", redirect: str = "", host: str = "127.0.0.1") -> Iterator[tuple[int, list[str]]]:
    """A server's port, and the Host headers of what it was asked."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers["Host"])
            self.send_response(302 if redirect else 200)
            if redirect:
                self.send_header("Location", redirect)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer((host, 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running.server_port, asked
        running.shutdown()


def read(url: str, *, private: bool = False) -> bytes:
    return b"".join(read_http(url, private=private))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "127.1", "0.0.0.0"])
def test_no_spelling_of_a_private_address_is_reached(host: str) -> None:
    with server(b"secret") as (port, asked):
        with pytest.raises(BadDataError, match="private address"):
            read(f"http://{host}:{port}/")
        assert not asked
        assert read(f"http://127.0.0.1:{port}/", private=True) == b"secret"


def test_a_redirect_to_a_private_address_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 stands for a public address here, 127.0.0.2 for a private one."""
    monkeypatch.setattr(download, "is_public", lambda address: address == "127.0.0.1")
    with ExitStack() as running:
        inside, asked = running.enter_context(server(b"secret", host="127.0.0.2"))
        outside, _ = running.enter_context(server(redirect=f"http://127.0.0.2:{inside}/"))
        with pytest.raises(BadDataError, match="private address"):
            read(f"http://127.0.0.1:{outside}/")
        assert not asked
        assert read(f"http://127.0.0.1:{outside}/", private=True) == b"secret"


def test_a_name_is_looked_up_once_and_what_was_found_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that stands for a public address when it is checked, and for a private one from then on."""
    monkeypatch.setattr(download, "is_public", lambda address: address == "127.0.0.1")
    looked_up: list[str] = []

    def rebinding(host: str, port: int, **_: Any) -> list[Any]:
        looked_up.append(host)
        address = "127.0.0.1" if len(looked_up) == 1 else "127.0.0.2"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    with server(b"public") as (port, asked):
        monkeypatch.setattr(socket, "getaddrinfo", rebinding)
        assert read(f"http://films.example:{port}/") == b"public"
        assert looked_up == ["films.example"] and asked == [f"films.example:{port}"]
        with pytest.raises(BadDataError, match="private address"):
            read(f"http://films.example:{port}/")


def test_of_several_addresses_only_the_public_ones_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "is_public", lambda address: address == "127.0.0.1")
    with server(b"public") as (port, _):
        both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in ("127.0.0.2", "127.0.0.1")]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
        assert read(f"http://films.example:{port}/") == b"public"


def test_a_proxy_is_not_asked_for_what_cannot_be_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(b"proxied") as (port, asked):
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        monkeypatch.delenv("no_proxy", raising=False)
        with pytest.raises(BadDataError, match="private address"):
            read("http://127.0.0.9/")
        assert not asked
        assert read("http://films.example/", private=True) == b"proxied"


def test_limits_of_size_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadDataError, match="larger than"):
        copy(iter([b"x" * 60] * 2), "http://h/x", io.BytesIO(), max_bytes=100)
    times = iter([0.0, 1.0, 9.0, 11.0])
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    with pytest.raises(BadDataError, match="more than 10 s"):
        copy(iter([b"x"] * 9), "http://h/x", io.BytesIO(), max_s=10.0)


def test_a_url_is_media_as_a_path_is(tiny_bundle: Path, tone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with server(tone.read_bytes()) as (port, _):
        url = f"http://me:hunter2@127.0.0.1:{port}/tone.wav"
        assert probe(url).sample_rate == 16000
        with Predictor(tiny_bundle, backend="onnxruntime", asr="none") as predictor:
            (there,), (here,) = predictor.predict(url), predictor.predict(tone)
        assert there.logits == here.logits and there.file == f"http://***@127.0.0.1:{port}/tone.wav"
        assert main(["predict", str(tiny_bundle), url, "--backend", "onnxruntime"]) == 0
        assert "hunter2" not in "".join(capsys.readouterr())
        assert main(["predict", str(tiny_bundle), url, "--html", "x.html"]) == UsageError.exit_code
    assert main(["predict", str(tiny_bundle), url, "--backend", "onnxruntime"]) == BadDataError.exit_code
    error = capsys.readouterr().err
    assert "cannot be read" in error and "hunter2" not in error
    with pytest.raises(UsageError, match="mmx live"):
        probe("rtsp://camera.local/main")
    with pytest.raises(UsageError, match="not read here"):
        probe("ftp://host/a.mp4")
