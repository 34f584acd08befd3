"""HTTP(S) URLs -> bytes, with limits of size and time. Names are looked up once, and what was found is connected to.

Where private addresses are not allowed, none is connected to: not by a name that stands for one, not after a
redirect, and not because a name stands for something else when it is looked up again (DNS rebinding).
"""

from __future__ import annotations

import base64
import http.client
import ipaddress
import socket
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from mmx.runtime.errors import BadDataError, EnvironmentMissing
from mmx.runtime.urls import shown

MAX_REDIRECTS = 5
CONNECT_S = 30.0  # for a connection, and between two pieces of an answer
DOWNLOAD_S = 3600.0  # for one file
MAX_BYTES = 4 * 2**30  # of one file
_BLOCK = 2**18
# Addresses with an IPv4 address inside: NAT64, 6to4 and Teredo lead to what that one says.
_CARRIERS = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")))


class PrivateAddress(OSError):
    """A name stands for nothing but addresses that are not allowed."""


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the open internet: not to this machine, its network, or a cloud's services."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    carried = any(ip in network for network in _CARRIERS if network.version == ip.version)
    return ip.is_global and not ip.is_multicast and not carried


def read_http(url: str, *, private: bool, connect_s: float = CONNECT_S) -> Iterator[bytes]:
    """The content of an HTTP(S) URL, piece by piece.

    Args:
        private: whether addresses of this machine and its network may be reached, and proxies be used (nobody can say
            what those reach).
        connect_s: for a connection, and between two pieces.

    Raises:
        BadDataError: it cannot be read, or must not be.
    """
    with _opened(url, private, connect_s) as response:
        while block := response.read1(_BLOCK):
            yield block


def copy(
    blocks: Iterator[bytes], url: str, out: BinaryIO, max_bytes: int = MAX_BYTES, max_s: float = DOWNLOAD_S
) -> None:
    """Write all blocks of a URL's content.

    Raises:
        BadDataError: it is too large, or takes too long. EnvironmentMissing: the disk is full.
    """
    ends = time.monotonic() + max_s
    size = 0
    for block in blocks:
        size += len(block)
        if size > max_bytes:
            raise BadDataError(f"{shown(url)} is larger than {max_bytes >> 20} MB", "cut it first")
        if time.monotonic() > ends:
            raise BadDataError(f"{shown(url)} takes more than {max_s:g} s to download", "download it first")
        try:
            out.write(block)
        except OSError as e:
            raise EnvironmentMissing(f"no room for a download: {e.strerror}", "free some space, or set TMPDIR") from e


def fetched(url: str) -> BinaryIO:
    """An HTTP(S) URL's content in a temporary file that has no name, at its start. See ``read_http`` and ``copy``."""
    file: Any = tempfile.TemporaryFile()  # noqa: SIM115 (the caller's to close)
    try:
        copy(read_http(url, private=True), url, file)
    except BaseException:
        file.close()
        raise
    file.seek(0)
    opened: BinaryIO = file
    return opened


def _connected(
    private: bool, place: tuple[str, int], timeout: float | None = None, source: tuple[str, int] | None = None
) -> socket.socket:
    """As ``socket.create_connection``, to the addresses that are allowed."""
    host, port = place
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    allowed = [each for each in found if private or is_public(str(each[4][0]))]
    if not allowed:
        raise PrivateAddress("it leads to a private address (--allow-private, if the inputs may do that)")
    error: OSError | None = None
    for family, kind, protocol, _, address in allowed:
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(timeout)
            connection.connect(address)
            return connection
        except OSError as e:
            connection.close()
            error = e
    raise error or OSError("there is no address")


class _Http(http.client.HTTPConnection):
    def __init__(self, *args: Any, private: bool, **options: Any) -> None:
        super().__init__(*args, **options)
        self._create_connection = partial(_connected, private)


class _Https(http.client.HTTPSConnection):
    def __init__(self, *args: Any, private: bool, **options: Any) -> None:
        super().__init__(*args, **options)
        self._create_connection = partial(_connected, private)


class _Handler(urllib.request.HTTPHandler):
    def __init__(self, private: bool) -> None:
        super().__init__()
        self._private = private

    def http_open(self, req: Any) -> Any:
        return self.do_open(partial(_Http, private=self._private), req)


class _SecureHandler(urllib.request.HTTPSHandler):
    def __init__(self, private: bool) -> None:
        super().__init__()
        self._private = private

    def https_open(self, req: Any) -> Any:
        return self.do_open(partial(_Https, private=self._private), req)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """To HTTP only, and not for ever."""

    max_redirections = MAX_REDIRECTS
    max_repeats = 1

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.startswith(("http://", "https://")):  # urllib itself would follow ftp
            raise urllib.error.HTTPError(req.full_url, code, "a redirect that is not followed", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def _opened(url: str, private: bool, connect_s: float) -> Iterator[Any]:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    request = urllib.request.Request(parts._replace(netloc=host, fragment="").geturl(), headers={"User-Agent": "mmx"})
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        # "unredirected": it is not for another host
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
    proxies = urllib.request.ProxyHandler(None if private else {})
    opener = urllib.request.build_opener(proxies, _Redirects, _Handler(private), _SecureHandler(private))
    try:
        with opener.open(request, timeout=connect_s) as response:
            yield response
    except urllib.error.HTTPError as e:
        what = "it leads to other places for ever, or to no HTTP" if 300 <= e.code < 400 else e.reason
        raise BadDataError(f"{shown(url)} cannot be read: HTTP {e.code}: {what}", "check the URL") from e
    except (urllib.error.URLError, http.client.HTTPException, OSError, UnicodeError, ValueError) as e:
        reason = getattr(e, "reason", e)
        raise BadDataError(f"{shown(url)} cannot be read: {shown(str(reason))}", "check the URL") from e
