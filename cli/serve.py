"""``mmx serve``: a bundle over HTTP, for many users at once."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmx.cli.command import Renamed, command, verbose
from mmx.cli.options import certainty_of, shared
from mmx.cli.paths import BUNDLE, InPath
from mmx.cli.render import reason
from mmx.runtime.errors import UsageError

if TYPE_CHECKING:
    from mmx.serving.server.service import Service

KEY_VARIABLE = "MMX_API_KEY"
MB = 2**20
LONGEST_S = 600.0
BUDGET_MB = 1024


RENAMED = (
    Renamed("--lanes", "--streams"),
    Renamed("--max-batch", "--batch-size"),
    Renamed("--max-pixels", "--file-pixels"),
    Renamed("--worker-memory", "--file-memory"),
    Renamed("--worker-seconds", "--file-seconds"),
)


@command(renamed=RENAMED)
@click.argument("bundle", type=BUNDLE)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; 0.0.0.0: reachable from other machines.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port to listen on; 0: any free one."
)
@shared("--backend")
@shared("--precision")
@shared("--on-mismatch")
@shared("--device")
@shared("--streams")
@shared("--threads", help="CPU threads of each stream.  [default: all cores, shared among the streams]")
@shared("--faces")
@shared("--people", help="Whose face it is about where a request does not say (docs/people.md).")
@shared("--asr")
@shared("--language")
@shared("--min-confidence")
@shared("--max-error")
@shared("--workers", default=2, show_default=True, help="Processes that read media.")
@shared(
    "--batch-size", help="Utterances in a batch, at most; more for a GPU.  [default: what mmx optimize chose, or 4]"
)
@click.option(
    "--max-wait-ms", type=click.FloatRange(0, 10_000), default=5.0, show_default=True,
    help="How long an utterance waits for others while the network is idle.",
)  # fmt: skip
@click.option(
    "--queue", type=click.IntRange(min=1), default=64, show_default=True,
    help="Requests in progress, at most; more get 429.",
)  # fmt: skip
@click.option(
    "--live", type=click.IntRange(min=0), default=2, show_default=True,
    help="Cameras answered at the same time (WebSocket /v1/live), at most.",
)  # fmt: skip
@click.option(
    "--live-seconds", type=click.FloatRange(1), default=3600.0, show_default=True, help="How long each may go on."
)
@click.option("--deadline", type=click.FloatRange(0.1), help="Seconds for a response.  [default: as --max-seconds]")
@click.option(
    "--max-upload", type=click.IntRange(min=1), default=200, show_default=True, help="MB of an upload, at most."
)
@click.option(
    "--upload-budget", type=click.IntRange(min=1), help="MB of all uploads.  [default: 1024, or --max-upload if larger]"
)
@click.option(
    "--max-seconds",
    type=click.FloatRange(0.1),
    help="Seconds of media in a file.  [default: as --deadline, 600 at most]",
)
@shared("--file-pixels", default=3840 * 2160)
@shared("--file-memory")
@shared(
    "--file-seconds",
    default=None,
    show_default=False,
    help="What a worker may spend on a file.  [default: as --deadline]",
)
@click.option(
    "--idle", type=click.FloatRange(0.1), default=15.0, show_default=True, help="Seconds that a sender may pause."
)
@click.option(
    "--drain",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    help="Seconds that requests have to finish after SIGTERM.",
)
@click.option(
    "--api-key-file", type=InPath(folder=False),
    help=f"Holds the key that clients send; or set {KEY_VARIABLE}.",
)  # fmt: skip
@click.option("--no-key", is_flag=True, help="Let other machines use it without a key (with --host).")
@click.option(
    "--allow-host", multiple=True, help="A name by which it may be called, beside addresses and localhost (repeat it)."
)
@click.option("--cors-origin", multiple=True, help="Let pages of this origin call the server (repeat it).")
def serve(
    bundle: Path,
    host: str,
    port: int,
    backend: str,
    precision: str,
    on_mismatch: str,
    device: str | None,
    streams: int | None,
    threads: int | None,
    faces: str,
    people: str,
    asr: str,
    language: str | None,
    min_confidence: float | None,
    max_error: float | None,
    workers: int,
    batch_size: int | None,
    max_wait_ms: float,
    queue: int,
    live: int,
    live_seconds: float,
    deadline: float | None,
    max_upload: int,
    upload_budget: int | None,
    max_seconds: float | None,
    file_pixels: int,
    file_memory: int,
    file_seconds: float | None,
    idle: float,
    drain: float,
    api_key_file: Path | None,
    no_key: bool,
    allow_host: tuple[str, ...],
    cors_origin: tuple[str, ...],
) -> None:
    """Predict over HTTP: POST /v1/predict with a video, or open / in a browser. Ctrl-C or SIGTERM ends it.

    \b
    mmx serve ckpt.mmx
    curl -F video=@talk.mp4 -F text='I am so glad.' http://127.0.0.1:8000/v1/predict
    """
    from mmx.serving.server.lifecycle import serve as run_server  # here, so that --help needs no extra
    from mmx.serving.server.settings import Limits, Settings

    # What is accepted can be answered: of media and deadline the one that is given rules the other.
    media_s = max_seconds or min(deadline or LONGEST_S, LONGEST_S)
    deadline_s = deadline or media_s
    settings = Settings(
        bundle=bundle,
        backend=backend,
        precision=precision,
        device=device,
        streams=streams,
        threads=threads,
        faces=faces,
        people=people,
        asr=asr,
        language=language,
        certainty=certainty_of(min_confidence, max_error),
        on_mismatch=on_mismatch,
        host=host,
        port=port,
        workers=workers,
        max_batch=batch_size,
        max_wait_ms=max_wait_ms,
        queue=queue,
        live=live,
        live_s=live_seconds,
        uploads=queue,
        budget_bytes=(upload_budget or max(BUDGET_MB, max_upload)) * MB,
        api_key=_api_key(api_key_file),
        no_key=no_key,
        allowed_hosts=allow_host,
        cors_origins=cors_origin,
        drain_s=drain,
        limits=Limits(
            upload_bytes=max_upload * MB,
            media_s=media_s,
            media_pixels=file_pixels,
            worker_bytes=file_memory * MB,
            worker_s=file_seconds or deadline_s,
            deadline_s=deadline_s,
            idle_s=idle,
            header_s=idle,
        ),
    )
    with _log_to_stderr():
        run_server(settings, _say)


def _api_key(file: Path | None) -> str | None:
    """The key of the file or the environment; never of the command line, which everyone on the machine can see."""
    if file is None:
        return os.environ.get(KEY_VARIABLE)  # an empty one is an error: whoever set it wants one
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"{file} cannot be read as an ASCII key: {e}", "one line, 16 characters or more") from e


@contextmanager
def _log_to_stderr() -> Iterator[None]:
    """Requests, and what goes wrong, as lines with their time on stderr; -q leaves the requests out."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("mmx")
    before, level = logger.handlers[:], logger.level
    logger.handlers[:] = [handler]  # in place of the lines without a time that other commands print
    if level == logging.WARNING:
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.handlers[:] = before
        logger.setLevel(level)


def _say(service: Service, url: str) -> None:
    manifest, backend = service.engine.bundle.manifest, service.engine.backend
    what = f"{manifest.system} ({manifest.dataset}), {backend.name} {backend.precision} on {backend.device}"
    click.echo(f"{what}{reason(backend, verbose())}\nlistening on {url}")
