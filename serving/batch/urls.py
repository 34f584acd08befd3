"""URLs: which are followed, and how they are read."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from mmx.runtime.download import copy, read_http
from mmx.runtime.errors import BadDataError, EnvironmentMissing, MmxError, UsageError, missing_extra
from mmx.runtime.urls import shown

PROTOCOLS = ("file", "http", "https", "s3", "gs", "abfs", "hf")  # the rest only if asked for
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


def download(url: str, out: BinaryIO, max_bytes: int, *, private: bool = False) -> None:
    """Read all of a URL into ``out``.

    Args:
        private: whether an HTTP URL may lead to this machine and its network.

    Raises:
        BadDataError: it cannot be read, is too large, or takes too long. EnvironmentMissing: the disk is full.
    """
    if url.startswith(("http://", "https://")):
        copy(read_http(url, private=private), url, out, max_bytes)
    else:
        copy(_read_other(url), url, out, max_bytes)


def _read_other(url: str) -> Iterator[bytes]:
    try:
        with import_fsspec().open(url, "rb") as source:
            while block := source.read(_BLOCK):
                yield block
    except MmxError:
        raise
    except Exception as e:  # each protocol has exceptions of its own
        raise BadDataError(
            f"{shown(url)} cannot be read: {type(e).__name__}: {shown(str(e))}", "check the URL and its credentials"
        ) from e


def import_fsspec() -> Any:
    """The package that opens other URLs. Raises EnvironmentMissing where it is not installed."""
    try:
        import fsspec
    except ModuleNotFoundError as e:
        raise missing_extra("fsspec", "batch") from e
    return fsspec
