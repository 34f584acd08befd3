"""``mmx serve``: a bundle over HTTP, for many people at once."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmx.cli import model_options as model
from mmx.runtime.errors import UsageError

if TYPE_CHECKING:
    from mmx.serving.server.service import Service

KEY_VARIABLE = "MMX_API_KEY"
MB = 2**20
LONGEST_S = 600.0
BUDGET_MB = 1024


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0: reachable from other machines.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any that is free.")
@model.backend
@model.precision
@model.on_mismatch
@model.device
@click.option(
    "--streams", "--lanes", type=click.IntRange(min=1), help="Batches side by side; on CPUs one for each core, up to 4."
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of each stream; all together use all cores.")
@model.faces
@model.asr
@model.language
@model.min_confidence
@model.max_error
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Decoding processes.")
@click.option(
    "--max-batch", type=click.IntRange(min=1), default=4, show_default=True, help="Segments at once; more for a GPU."
)
@click.option(
    "--max-wait-ms", type=click.FloatRange(0, 10_000), default=5.0, show_default=True,
    help="How long a segment waits for others while the network idles.",
)  # fmt: skip
@click.option(
    "--queue", type=click.IntRange(min=1), default=64, show_default=True, help="Requests at hand; more get 429."
)
@click.option("--deadline", type=click.FloatRange(0.1), help="Seconds for an answer.  [default: as --max-seconds]")
@click.option("--max-upload", type=click.IntRange(min=1), default=200, show_default=True, help="MB of an upload.")
@click.option(
    "--upload-budget", type=click.IntRange(min=1), help="MB of all uploads.  [default: 1024, or --max-upload if larger]"
)
@click.option("--max-seconds", type=click.FloatRange(0.1), help="Of a file.  [default: as --deadline, 600 at most]")
@click.option("--max-pixels", type=click.IntRange(min=1), default=3840 * 2160, show_default=True, help="Of a picture.")
@click.option("--worker-memory", type=click.IntRange(min=512), default=3072, show_default=True, help="MB of each.")
@click.option("--worker-seconds", type=click.FloatRange(0.1), help="For one file.  [default: as --deadline]")
@click.option("--idle", type=click.FloatRange(0.1), default=15.0, show_default=True, help="Seconds a sender may pause.")
@click.option("--drain", type=click.FloatRange(0), default=30.0, show_default=True, help="Seconds after SIGTERM.")
@click.option(
    "--api-key-file", type=click.Path(path_type=Path, exists=True, dir_okay=False),
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
    asr: str,
    language: str | None,
    min_confidence: float | None,
    max_error: float | None,
    workers: int,
    max_batch: int,
    max_wait_ms: float,
    queue: int,
    deadline: float | None,
    max_upload: int,
    upload_budget: int | None,
    max_seconds: float | None,
    max_pixels: int,
    worker_memory: int,
    worker_seconds: float | None,
    idle: float,
    drain: float,
    api_key_file: Path | None,
    no_key: bool,
    allow_host: tuple[str, ...],
    cors_origin: tuple[str, ...],
) -> None:
    """Answer over HTTP: POST /v1/predict with a video, or open / in a browser. Ctrl-C or SIGTERM ends it.

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
        asr=asr,
        language=language,
        certainty=model.certainty_of(min_confidence, max_error),
        on_mismatch=on_mismatch,
        host=host,
        port=port,
        workers=workers,
        max_batch=max_batch,
        max_wait_ms=max_wait_ms,
        queue=queue,
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
            media_pixels=max_pixels,
            worker_bytes=worker_memory * MB,
            worker_s=worker_seconds or deadline_s,
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
    """Requests, and what goes wrong, as lines on stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("mmx")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _say(service: Service, url: str) -> None:
    manifest, backend = service.engine.bundle.manifest, service.engine.backend
    what = f"{manifest.system} ({manifest.dataset}), {backend.name} {backend.precision} on {backend.device}"
    click.echo(f"{what} ({backend.why})\nlistening on {url}")
