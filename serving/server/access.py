"""Who may call the server by which name, and a line in the log for each request."""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmx.serving.server.answering import reject
from mmx.serving.server.rejection import Rejection
from mmx.serving.server.settings import is_loopback

log = logging.getLogger("mmx.serving.access")
ANY = "*"
WITHOUT_HOST = ("/healthz", "/readyz")  # probes call by any name, and learn nothing


class AccessLog:
    """Logs method, path, status and duration of each request at INFO; never a query, a header, a body or an address.

    A path that the application does not have is content, too: it is not logged.
    """

    def __init__(self, app: ASGIApp, paths: Collection[str]) -> None:
        self._app, self._paths = app, frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        began = time.monotonic()
        status = "-"  # the client went away before there was one

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            elif message["type"] == "websocket.accept":
                status = "101"
            elif message["type"] == "websocket.close" and status == "-":
                status = "403"
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception:
            status = "500"
            raise
        finally:
            path = scope["path"] if scope["path"] in self._paths else "(unknown path)"
            method = scope.get("method", "WEBSOCKET")[:16]
            log.info("%s %s %s %.3f s", method, path, status, time.monotonic() - began)


class HostCheck:
    """Rejects (403) requests by a foreign name: a page elsewhere whose name was pointed at this server (DNS rebinding).

    Taken are addresses, names of this machine alone (localhost), and ``names``; ``*`` takes any. A browser lets any
    page open a WebSocket: only this server's own page, those of ``origins``, and programs that are no browser may.
    """

    def __init__(self, app: ASGIApp, names: Collection[str], origins: Collection[str] = ()) -> None:
        self._app = app
        self._origins = frozenset(origins)
        self._names = {name.lower().rstrip(".") for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and scope["path"] not in WITHOUT_HOST:
            hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
            if scope["type"] == "websocket":
                if not all(map(self._is_known, hosts)) or not self._is_own(scope, hosts):
                    await receive()
                    return await send({"type": "websocket.close", "code": 1008})
            elif not all(map(self._is_known, hosts)):
                rejection = Rejection(
                    403, "foreign_host", "this server is not called by that name", "start it with --allow-host NAME"
                )
                return await reject(rejection)(scope, receive, send)
        return await self._app(scope, receive, send)

    def _is_own(self, scope: Scope, hosts: list[str]) -> bool:
        """Whether the page that opens a WebSocket, if it is one, may do so."""
        origins = [value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"]
        own = {host.lower() for host in hosts}
        return all(each in self._origins or each.partition("://")[2].lower() in own for each in origins)

    def _is_known(self, host: str) -> bool:
        name = host_name(host)
        return ANY in self._names or name in self._names or is_loopback(name) or _is_address(name)


def host_name(host: str) -> str:
    """The name or address in a Host header: without port, brackets and a last dot, in lower case."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0].rstrip(".") if host.rpartition(":")[2].isdigit() else host.rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
