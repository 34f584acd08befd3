"""A server from its first signal of life to its last: starting, listening, draining on SIGTERM, ending."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from mmx.runtime.errors import UsageError
from mmx.serving.server.app import make_app
from mmx.serving.server.live import MESSAGE_BYTES
from mmx.serving.server.service import Service
from mmx.serving.server.settings import Settings

log = logging.getLogger("mmx.serving.access")
BACKLOG = 1024
KEEP_ALIVE_S = 30
# Of every response. The page is its own scripts and styles, this server's answers and the chosen video (blob:);
# nobody may frame it.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; media-src blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = [
    ("content-security-policy", CONTENT_SECURITY_POLICY),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
]
LAST_ANSWERS_S = 10.0  # after the cut-off, for the reasons to be sent: each follows the end of its decoding


def serve(settings: Settings, on_listening: Callable[[Service, str], None]) -> None:
    """Serve until SIGTERM, SIGHUP or SIGINT, then drain and return.

    Args:
        on_listening: called with the service and its URL once requests are taken.

    Raises:
        MmxError: the bundle or backend can't be opened, a worker can't start, or the address can't be had.
    """
    try:
        asyncio.run(_serve(settings, on_listening))
    except asyncio.CancelledError as e:  # stopped before it had begun to serve
        raise SystemExit(128 + signal.SIGTERM) from e


async def _serve(settings: Settings, on_listening: Callable[[Service, str], None]) -> None:
    loop, this = asyncio.get_running_loop(), asyncio.current_task()
    assert this is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            loop.add_signal_handler(number, this.cancel)
    listener = _listen(settings.host, settings.port)
    try:
        service = Service(settings)
        try:
            await service.open()
            server = DrainingServer(service)
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    loop.add_signal_handler(number, server.leave)  # without a moment in which none is there
            listener.listen(BACKLOG)  # from here on nobody is turned away, though uvicorn has yet to begin
            host, port = listener.getsockname()[:2]
            on_listening(service, f"http://{f'[{host}]' if ':' in host else host}:{port}")
            await server.serve([listener])
        finally:
            await service.close()
    finally:
        listener.close()


def _listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address, before anything slow begins."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as e:
        listener.close()
        raise UsageError(f"cannot listen on {host} port {port}: {e.strerror}", "choose another --port or --host") from e
    return listener


class DrainingServer(uvicorn.Server):
    """uvicorn with a way out that loses nobody.

    On the first signal new requests get 503 and those at hand go on; after ``notice_s`` the port closes; after
    ``drain_s`` the requests that are left get an error. A second signal cuts them off at once. The exit code is 0.

    Signals are the event loop's: a handler of uvicorn's kind runs in the middle of whatever is under way.
    """

    def __init__(self, service: Service) -> None:
        settings = service.settings

        def protocol(*args: Any, **options: Any) -> Protocol:
            return Protocol(*args, head_s=settings.limits.header_s, **options)

        super().__init__(
            uvicorn.Config(
                make_app(service),
                http=protocol,  # type: ignore[arg-type]
                ws="wsproto",
                ws_max_size=MESSAGE_BYTES,
                ws_ping_interval=settings.limits.idle_s,
                ws_ping_timeout=settings.limits.idle_s,
                ws_per_message_deflate=False,  # video does not get smaller; a client could make it much larger
                lifespan="off",
                log_level="warning",
                access_log=False,
                server_header=False,
                headers=HEADERS,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=settings.drain_s + LAST_ANSWERS_S,  # type: ignore[arg-type]
            )
        )
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._asked = False

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn takes no signals."""
        yield

    def leave(self) -> None:
        """A signal came."""
        if self._asked:
            self._service.cut_off.set()
            return
        self._asked = True
        settings = self._service.settings
        self._service.drain()
        self._loop.call_later(settings.notice_s, setattr, self, "should_exit", True)
        self._loop.call_later(settings.drain_s, self._service.cut_off.set)


class Protocol(H11Protocol):
    """HTTP/1.1 that does not wait forever for the head of a request. ``head_s``: how long it waits."""

    def __init__(self, *args: Any, head_s: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head_s = head_s
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_head()
        super().connection_lost(exc)

    def _watch_head(self) -> None:
        """The clock runs from the first byte of a head (or the connection) until it is whole."""
        if self.conn.their_state is not h11.IDLE:
            self._forget_head()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self._head_s, self._no_head)

    def _forget_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _no_head(self) -> None:
        log.info("(no request) 408 %.3f s", self._head_s)
        self.transport.write(b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        self.transport.close()
