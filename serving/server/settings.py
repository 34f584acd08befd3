"""What ``mmx serve`` was asked for: one frozen value that every part of the server reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mmx.runtime.errors import UsageError


@dataclass(frozen=True)
class Limits:
    """What one request may cost.

    Attributes:
        upload_bytes: of the whole body, counted while it streams in. text_bytes, transcript_bytes: of those parts.
        upload_s: for the whole body to arrive. idle_s: without a byte of it. header_s: for a request's head.
        media_s, media_pixels: length of the media, and width x height of the picture.
        worker_bytes: address space of a worker. worker_s: what it may spend on one file.
        deadline_s: from the complete upload to the whole answer; a request may ask for less.
    """

    upload_bytes: int = 200 * 2**20
    text_bytes: int = 2**20
    transcript_bytes: int = 2 * 2**20
    upload_s: float = 120.0
    idle_s: float = 15.0
    header_s: float = 15.0
    media_s: float = 600.0
    media_pixels: int = 3840 * 2160
    worker_bytes: int = 3 * 2**30
    worker_s: float = 120.0
    deadline_s: float = 120.0


@dataclass(frozen=True)
class Settings:
    """A server.

    Attributes:
        bundle: the bundle's folder. backend, precision, on_mismatch, faces, asr, language: as
            ``mmx predict`` has them.
        streams: batches that run side by side; threads: CPU threads of each. None, device: see ``open_backend``.
        host, port: where it listens; port 0 lets the system choose one.
        workers: processes that decode uploads. worker_threads: CPU threads of each.
        max_batch: segments that the network takes at once, at most. max_wait_ms: how long the first of a batch waits
            for others while the network is idle.
        queue: requests that are being answered or wait for it; another one gets 429. uploads: bodies that may be
            arriving at the same time.
        api_key: what /v1 and /metrics ask for; None: nothing.
        cors_origins: pages of other origins that may call the server; none by default.
        drain_s: how long requests may go on after SIGTERM. notice_s: how long the port then stays open to say so.
        limits: what one request may cost.
    """

    bundle: Path
    backend: str = "auto"
    precision: str = "fp32"
    streams: int | None = None
    threads: int | None = None
    device: str | None = None
    on_mismatch: str = "error"
    faces: str = "exact"
    asr: str = "none"
    language: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 2
    worker_threads: int = 1
    max_batch: int = 4
    max_wait_ms: float = 5.0
    queue: int = 64
    uploads: int = 64
    api_key: str | None = field(default=None, repr=False)
    cors_origins: tuple[str, ...] = ()
    drain_s: float = 30.0
    notice_s: float = 0.5
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        counts = {"workers": self.workers, "max_batch": self.max_batch, "queue": self.queue, "uploads": self.uploads}
        for name, count in counts.items():
            if count < 1:
                raise UsageError(f"{name} is {count}; it must be 1 or more")
        if self.api_key is not None and (len(self.api_key) < 16 or not self.api_key.isascii()):
            raise UsageError(
                "the API key is shorter than 16 characters, or not ASCII", "head -c 24 /dev/urandom | base64"
            )
