"""What ``mmx live`` can look at, and how it is opened: with time-outs, and trusting nothing.

A live source may hold no pointers: playlists (HLS, DASH) and concat lists are not taken, and no URL leads to a local
file.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import av
from av.container import InputContainer
from av.error import FFmpegError

from mmx.runtime.errors import BadDataError, ConnectionLost, MissingPath, UsageError
from mmx.runtime.media import container
from mmx.runtime.media.container import FORMATS, LENIENT, open_media
from mmx.runtime.streaming.raw import RawFormat
from mmx.runtime.urls import is_url, shown

SCHEMES = {
    "http": "http,https,tls,tcp",
    "https": "http,https,tls,tcp",
    "rtsp": "rtp,rtcp,srtp,udp,tcp,tls",
    "rtsps": "rtp,rtcp,srtp,udp,tcp,tls",
    "rtmp": "rtmp,rtmpt,rtmpe,tcp,http",
    "rtmps": "rtmp,rtmps,rtmpts,tls,tcp,https",
}
"""The schemes that are taken, and FFmpeg's protocols that each may use."""

STREAM_FORMATS = f"{FORMATS},rtsp,rtp,sdp,mpjpeg"
CAMERAS = {"linux": "video4linux2", "darwin": "avfoundation"}
OPEN_S = 10.0
SILENT_S = 10.0
PROBE_US = 2_000_000  # of a stream without a header, before its tracks are taken as known


@dataclass(frozen=True)
class LiveSource:
    """A source by its kind: file, url, camera, pipe; fed: a named pipe that its writer has open.

    Attributes:
        address: a path, a URL, a device. name: what predictions and messages call it; no password is in it.
        open_s: seconds for it to open. silent_s: without anything from it, before it counts as lost.
        raw: what is sent (``fed``), where that is frames and samples as they are.
    """

    kind: str
    address: str
    name: str
    open_s: float = OPEN_S
    silent_s: float = SILENT_S
    raw: RawFormat | None = None

    @classmethod
    def of(cls, given: str, *, open_s: float = OPEN_S, silent_s: float = SILENT_S) -> LiveSource:
        """What a user's word means: a URL, the number of a camera, a device, a pipe ("-": stdin), or a file.

        Raises:
            UsageError: a URL of another protocol. MissingPath: no such file or device. BadDataError: neither.
        """
        if is_url(given):
            scheme = given.partition("://")[0].lower()
            if scheme not in SCHEMES:
                raise UsageError(f"{shown(given)}: {scheme}:// is not taken", f"one of {', '.join(SCHEMES)}")
            return cls("url", given, shown(given), open_s, silent_s)
        if re.fullmatch(r"\d{1,3}", given) and not Path(given).exists():
            device = f"/dev/video{given}" if sys.platform == "linux" else given
            return cls("camera", device, f"camera {given}", open_s, silent_s)
        if given == "-":
            return cls("pipe", f"/proc/{os.getpid()}/fd/0", "stdin", open_s, silent_s)
        try:
            mode = Path(given).stat().st_mode
        except (OSError, ValueError) as e:
            kind = MissingPath if isinstance(e, FileNotFoundError) else BadDataError
            hint = "a file, a URL, or the number of a camera"
            raise kind(f"{given} cannot be read: {getattr(e, 'strerror', None) or e}", hint) from e
        if stat.S_ISFIFO(mode):
            return cls("pipe", str(Path(given).absolute()), given, open_s, silent_s)
        if stat.S_ISCHR(mode):
            return cls("camera", given, given, open_s, silent_s)
        return cls("file", str(Path(given).absolute()), given, open_s, silent_s)

    @property
    def comes_back(self) -> bool:
        """Whether it makes sense to open it again after it was lost."""
        return self.kind in ("url", "camera")

    def open(self) -> InputContainer:
        """Open it.

        Raises:
            BadDataError: it holds no media that can be decoded. ConnectionLost: it cannot be reached.
        """
        if self.kind == "file":
            return open_media(self.address)
        arguments, container_options = self._arguments()
        try:
            media_open: Any = av.open
            opened: InputContainer = media_open(
                options={"max_pixels": str(container.MAX_PIXELS)},
                container_options={"max_streams": "100", "analyzeduration": str(PROBE_US), **container_options},
                **arguments,
                **LENIENT,
            )
        except (FFmpegError, OSError, ValueError) as e:
            reason = getattr(e, "strerror", None) or str(e)
            if isinstance(e, av.error.ExitError):
                reason = f"nothing came within {self.open_s:g} s"
            if isinstance(e, (av.error.InvalidDataError, av.error.ArgumentError, ValueError)):
                raise BadDataError(
                    f"{self.name} cannot be read as media: {reason}", "playlists (HLS, DASH) are not taken"
                ) from e
            raise ConnectionLost(f"{self.name} cannot be opened: {reason}", "check that it is there, and free") from e
        return opened

    def _arguments(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Arguments and container options of ``av.open``."""
        timeout = (self.open_s, self.silent_s)
        if self.kind == "url":
            scheme = self.address.partition("://")[0].lower()
            options = {"protocol_whitelist": SCHEMES[scheme], "format_whitelist": STREAM_FORMATS}
            if scheme.startswith("rtsp"):
                options["rtsp_transport"] = "tcp"  # UDP loses packets, and does not pass most routers
            return {"file": self.address, "timeout": timeout}, options
        if self.kind == "camera":
            form = CAMERAS.get(sys.platform)
            if form is None:
                raise BadDataError(f"cameras cannot be opened on {sys.platform}", "mmx serve, and its page's camera")
            return {"file": self.address, "format": form, "timeout": timeout}, {}
        options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
        if self.kind == "fed":
            return {"file": fed(self.address)}, options
        return {"file": f"file:{self.address}", "timeout": timeout}, options


def fed(pipe: str) -> BinaryIO:
    """A named pipe open for reading, even where its writer has written all and closed it already."""
    descriptor = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    return os.fdopen(descriptor, "rb", buffering=0)
