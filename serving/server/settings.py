"""What ``mmx serve`` was asked for: one frozen value that every part of the server reads."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from mmx.runtime.errors import UsageError
from mmx.runtime.people.choice import People
from mmx.runtime.probabilities import Certainty


@dataclass(frozen=True)
class Limits:
    """What one request may cost.

    Attributes:
        upload_bytes: of the whole body, counted while it streams in. text_bytes, transcript_bytes: of those parts.
        upload_s: for the whole body to arrive. idle_s: without a byte of it. header_s: for a request's head.
        upload_rate: bytes a second that a body must bring on average; a slower one gives way.
        media_s, media_pixels: length of the media, and width x height of the picture.
        worker_bytes: address space of a worker. worker_s: what it may spend on one file.
        deadline_s: from the complete upload to the whole answer; a request may ask for less. By default as long as
            the longest media, so that a file that is accepted can be answered by a server that keeps up with it.
    """

    upload_bytes: int = 200 * 2**20
    text_bytes: int = 2**20
    transcript_bytes: int = 2 * 2**20
    upload_s: float = 120.0
    upload_rate: float = 16 * 1024
    idle_s: float = 15.0
    header_s: float = 15.0
    media_s: float = 600.0
    media_pixels: int = 3840 * 2160
    worker_bytes: int = 3 * 2**30
    worker_s: float = 600.0
    deadline_s: float = 600.0


@dataclass(frozen=True)
class Settings:
    """A server.

    Attributes:
        bundle: the bundle's folder. backend, precision, on_mismatch, faces, asr, language,
            certainty: as ``Predictor`` has them. people: of requests that name none, see ``Preprocessor.segments``.
        streams: batches that run side by side; threads: CPU threads of each. None, device: see ``open_backend``.
        host, port: where it listens; port 0 lets the system choose one.
        workers: processes that decode uploads. worker_threads: CPU threads of each.
        max_batch: segments that the network takes at once, at most; None: what ``mmx optimize`` chose, or 4.
        max_wait_ms: how long the first of a batch waits for others while the network is idle.
        live: cameras that are answered at the same time, each by a worker of its own. live_s: how long each may go on.
        queue: requests that are being answered or wait for it; another one gets 429. uploads: bodies that may be
            arriving at the same time.
        budget_bytes: of all uploads together, those that arrive and those that are being answered.
        api_key: what /v1 and /metrics ask for; None: nothing. no_key: whether other machines may reach it like that.
        allowed_hosts: names by which it may be called (the Host header), beside loopback names, addresses and ``host``.
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
    people: str = "largest"
    asr: str = "none"
    language: str | None = None
    certainty: Certainty | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 2
    worker_threads: int = 1
    max_batch: int | None = None
    max_wait_ms: float = 5.0
    live: int = 2
    live_s: float = 3600.0
    queue: int = 64
    uploads: int = 64
    budget_bytes: int = 2**30
    api_key: str | None = field(default=None, repr=False)
    no_key: bool = False
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    drain_s: float = 30.0
    notice_s: float = 0.5
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        People.parse(self.people, self.faces)
        counts = {"workers": self.workers, "queue": self.queue, "uploads": self.uploads, "max_batch": self.max_batch}
        for name, count in counts.items():
            if count is not None and count < 1:
                raise UsageError(f"{name} is {count}; it must be 1 or more")
        if self.api_key is not None and (len(self.api_key) < 16 or not self.api_key.isascii()):
            raise UsageError(
                "the API key is empty, shorter than 16 characters, or not ASCII", "head -c 24 /dev/urandom | base64"
            )
        if self.api_key is not None and self.no_key:
            raise UsageError("there is an API key, and --no-key was given", "choose one of them")
        if self.api_key is None and not self.no_key and not is_loopback(self.host):
            raise UsageError(
                f"{self.host} can be reached from other machines, and there is no API key",
                "set MMX_API_KEY or --api-key-file, or say --no-key if whoever reaches it may use it",
            )
        if self.budget_bytes < self.limits.upload_bytes:
            raise UsageError(
                f"one upload may have {self.limits.upload_bytes >> 20} MB, all together {self.budget_bytes >> 20} MB",
                "raise --upload-budget or lower --max-upload",
            )


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine alone."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
