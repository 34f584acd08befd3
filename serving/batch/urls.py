"""URLs: which are followed, and how they are read."""

from __future__ import annotations

import base64
import re
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from mmx.runtime.errors import BadDataError, EnvironmentMissing, MmxError, UsageError, missing_extra
from mmx.runtime.urls import shown

PROTOCOLS = ("file", "http", "https", "s3", "gs", "abfs", "hf")  # the rest only if asked for
MAX_REDIRECTS = 5
CONNECT_S = 30.0  # for a connection, and between two pieces of an answer
DOWNLOAD_S = 3600.0  # for one file
_BLOCK = 2**18
_CHAIN = re.compile(r"::(?=[A-Za-z][\w+.-]*(?:://|$))")  # as fsspec chains URLs; an IPv6 address has :: too


def _chained(url: str) -> list[str]:
    return [part.partition("://")[0] for part in _CHAIN.split(url)]


def check_url(url: str, allowed: Collection[str]) -> None:
    """Reject what is no URL, and protocols that are not allowed.

    Raises:
        UsageError: and why. EnvironmentMissing: what reads the protocol is not installed.
    """
    chained = _chained(url)
    if unwelcome := next((protocol for protocol in chained if protocol not in allowed), None):
        raise UsageError(
            f"{shown(url)}: {unwelcome}:// URLs are not followed",
            f"--allow-protocol {unwelcome}, if you trust the inputs",
        )
    try:
        urlsplit(url).port  # noqa: B018 (it is parsed when it is asked for)
    except ValueError as e:
        raise UsageError(f"{shown(url)} is no URL: {e}", "check it") from e
    for protocol in chained:
        if protocol not in ("http", "https", "file"):
            _check_installed(protocol)


def _check_installed(protocol: str) -> None:
    try:
        import_fsspec().get_filesystem_class(protocol)
    except ImportError as e:
        raise EnvironmentMissing(f"{protocol}:// URLs cannot be read: {e}", f"pip install 'fsspec[{protocol}]'") from e
    except ValueError as e:
        raise UsageError(f"there is no protocol {protocol}://", "check the URL") from e


def download(url: str, out: BinaryIO, max_bytes: int, max_s: float = DOWNLOAD_S) -> None:
    """Read all of a URL into ``out``.

    Raises:
        BadDataError: it cannot be read, is too large, or takes too long. EnvironmentMissing: the disk is full.
    """
    ends = time.monotonic() + max_s
    size = 0
    blocks = read_blocks(url)
    while True:
        try:
            block = next(blocks, b"")
        except MmxError:
            raise
        except Exception as e:  # each protocol has exceptions of its own
            raise BadDataError(
                f"{shown(url)} cannot be read: {type(e).__name__}: {shown(str(e))}", "check the URL and its credentials"
            ) from e
        if not block:
            return
        size += len(block)
        if size > max_bytes:
            raise BadDataError(f"{shown(url)} is larger than {max_bytes >> 20} MB", "cut it first")
        if time.monotonic() > ends:
            raise BadDataError(f"{shown(url)} takes more than {max_s:g} s to download", "download it first")
        try:
            out.write(block)
        except OSError as e:
            raise EnvironmentMissing(f"no room for a download: {e.strerror}", "free some space, or set TMPDIR") from e


def read_blocks(url: str) -> Iterator[bytes]:
    """The content of a URL, piece by piece; the errors are the protocol's."""
    if url.startswith(("http://", "https://")):
        with _open_http(url) as response:
            while block := response.read1(_BLOCK):
                yield block
    else:
        with import_fsspec().open(url, "rb") as source:
            while block := source.read(_BLOCK):
                yield block


def import_fsspec() -> Any:
    """The package that opens other URLs. Raises EnvironmentMissing where it is not installed."""
    try:
        import fsspec
    except ModuleNotFoundError as e:
        raise missing_extra("fsspec", "batch") from e
    return fsspec


class _Redirects(urllib.request.HTTPRedirectHandler):
    """To HTTP only, and not for ever."""

    max_redirections = MAX_REDIRECTS
    max_repeats = 1

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.startswith(("http://", "https://")):  # urllib itself would follow ftp
            raise urllib.error.HTTPError(req.full_url, code, "a redirect that is not followed", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def _open_http(url: str) -> Iterator[Any]:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    request = urllib.request.Request(parts._replace(netloc=host, fragment="").geturl(), headers={"User-Agent": "mmx"})
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        # "unredirected": it is not for another host
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
    opener = urllib.request.build_opener(_Redirects)
    try:
        with opener.open(request, timeout=CONNECT_S) as response:
            yield response
    except urllib.error.HTTPError as e:
        what = "it leads to other places for ever, or to no HTTP" if 300 <= e.code < 400 else e.reason
        raise BadDataError(f"{shown(url)} cannot be read: HTTP {e.code}: {what}", "check the URL") from e
    except (urllib.error.URLError, HTTPException, OSError, UnicodeError) as e:
        reason = getattr(e, "reason", e)
        raise BadDataError(f"{shown(url)} cannot be read: {shown(str(reason))}", "check the URL") from e
