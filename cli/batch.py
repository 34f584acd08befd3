"""``mmx batch``: thousands of files -> Parquet, on one machine or on a Ray cluster."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmx.cli import model_options as model
from mmx.cli.build_engine import bundle_here
from mmx.cli.main import print_error
from mmx.cli.render import printable
from mmx.cli.results_file import made_with
from mmx.runtime.errors import UsageError, missing_extra

if TYPE_CHECKING:
    from mmx.serving.batch.inputs import Task
    from mmx.serving.batch.run import Answers, Progress

QUIET_S = 30.0  # between two lines of progress, where stderr is no terminal


class Pool(click.ParamType[tuple[int, int]]):
    """``4`` or ``1:4``: how many workers, or the fewest and the most."""

    name = "N|MIN:MAX"

    def convert(
        self, value: str | tuple[int, int], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Parse the option's value."""
        if isinstance(value, tuple):
            return value
        low, _, high = value.partition(":")
        if not (low.isdecimal() and (high or low).isdecimal() and 1 <= int(low) <= int(high or low)):
            self.fail(f"{value!r} is neither a number nor MIN:MAX", param, ctx)
        return int(low), int(high or low)


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="[BUNDLE] INPUTS...")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The results folder. Run again to go on.")
@click.option("--bundle", type=click.Path(path_type=Path), help="The bundle, if it is not the first input.")
@model.window
@click.option("--beside", is_flag=True, help="Take talk.srt, talk.vtt or talk.txt beside talk.mp4 as its transcript.")
@click.option("--retry", is_flag=True, help="Answer again for the files that had an error.")
@model.backend
@model.device
@model.precision
@model.on_mismatch
@model.faces
@click.option("--jobs", type=click.IntRange(min=1), help="Files read side by side; as many as cores if not given.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of the network; all cores if not given.")
@click.option(
    "--shard-files", type=click.IntRange(min=1), default=1000, show_default=True, help="Files in a shard, at most."
)
@click.option(
    "--shard-seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=60,
    show_default=True,
    help="Write a shard at least so often: what a kill can lose.",
)
@click.option("--ray", is_flag=True, help="Spread the work over a Ray cluster.")
@click.option("--ray-address", help="--ray: the cluster's address; RAY_ADDRESS, or a new one, if not given.")
@click.option("--readers", type=Pool(), help="--ray: workers that read media, one CPU each. Default: 1 to all CPUs.")
@click.option("--networks", type=Pool(), help="--ray: workers with the network. Default: one to one a node.")
@click.option(
    "--gpus", type=click.FloatRange(min=0), default=0, show_default=True, help="--ray: GPUs of each network worker."
)
def batch(
    inputs: tuple[str, ...],
    out: Path,
    bundle: Path | None,
    window: float | None,
    beside: bool,
    retry: bool,
    backend: str,
    device: str | None,
    precision: str,
    on_mismatch: str,
    faces: str,
    jobs: int | None,
    threads: int | None,
    shard_files: int,
    shard_seconds: float,
    ray: bool,
    ray_address: str | None,
    readers: tuple[int, int] | None,
    networks: tuple[int, int] | None,
    gpus: float,
) -> int:
    """Answer for many files; write Parquet.

    INPUTS are media files, folders, globs, URLs, and lists of them (.txt, .csv, .parquet, - for stdin). BUNDLE is the
    first input if that is a bundle, else the one in this folder. The same command again goes on where it was broken
    off. A file's error is a row of the results; the exit code is that of the worst.

    \b
    mmx batch ckpt.mmx videos/ --out results
    mmx batch ckpt.mmx list.parquet 's3://bucket/*.mp4' --out results --ray
    """
    if not ray and (ray_address or readers or networks or gpus):
        raise UsageError("--ray-address, --readers, --networks and --gpus are for --ray", "add --ray")
    if ray and jobs:
        raise UsageError("--jobs is for this machine alone", "--ray has --readers")
    try:
        import pyarrow  # noqa: F401
    except ModuleNotFoundError as e:
        raise missing_extra("pyarrow", "batch") from e
    from mmx.runtime.bundle import Bundle
    from mmx.serving.batch.inputs import find_tasks
    from mmx.serving.batch.output import Results
    from mmx.serving.batch.run import collect

    signal.signal(signal.SIGTERM, _interrupt)  # as Ctrl-C: what is answered is written down
    path, named = _bundle_and_inputs(bundle, inputs)
    tasks = find_tasks(named, beside=beside)
    options: dict[str, Any] = {"backend": backend, "device": device, "precision": precision, "threads": threads}
    with ExitStack() as closing:
        opened = Bundle.open(path)
        results = closing.enter_context(
            Results(
                out,
                opened.manifest,
                made_with(opened.manifest, precision, window, faces),
                retry=retry,
                shard_files=shard_files,
                shard_s=shard_seconds,
            )
        )
        show = closing.enter_context(_Shown())
        if ray:
            from mmx.serving.batch.on_ray import Workers, answer_on_ray

            workers = Workers(path.absolute(), window, faces, readers, networks, gpus, on_mismatch, **options)
            answer: Callable[[Sequence[Task]], Answers] = partial(answer_on_ray, workers, ray_address)
        else:
            from mmx.serving.batch.supervised import answer_supervised

            options |= {"jobs": jobs, "on_mismatch": on_mismatch, "faces": faces}
            answer = partial(answer_supervised, {"bundle": str(path), "window": window, **options})
        progress = collect(tasks, answer, results, show)
    again = f" ({progress.failed_before} failed; --retry)" if progress.failed_before else ""
    click.echo(
        f"{printable(str(out))}: {progress.answered} files answered ({progress.segments} segments), "
        f"{progress.failed} failed, {progress.skipped} done before{again}; {progress.per_second:.2f} files/s",
        err=True,
    )
    return progress.worst


def _bundle_and_inputs(bundle: Path | None, inputs: Sequence[str]) -> tuple[Path, Sequence[str]]:
    """The bundle: --bundle, the first input if it is one, or the one in this folder."""
    if bundle is not None:
        return bundle, inputs
    first = Path(inputs[0])
    if (first / "manifest.json").exists() or first.suffix == ".mmx":
        if len(inputs) == 1:
            raise UsageError(f"{first} is the bundle; there are no inputs", "mmx batch ckpt.mmx FOLDER --out results")
        return first, inputs[1:]
    return bundle_here(Path.cwd()), inputs


def _interrupt(_number: int, _frame: Any) -> None:
    raise KeyboardInterrupt


class _Shown:
    """Progress on stderr: one line that is rewritten on a terminal, elsewhere one each half minute; errors in full."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._last = time.monotonic()

    def __call__(self, progress: Progress, rows: Sequence[dict[str, Any]]) -> None:
        for row in rows:
            if row.get("error") is not None:
                self._clear()
                print_error(row["error"], row["hint"])
        now = time.monotonic()
        if now - self._last > (0.2 if self._terminal else QUIET_S):
            self._last = now
            left = (progress.total - progress.done) / progress.per_second
            line = (
                f"{progress.done} of {progress.total} files, {progress.failed} failed, "
                f"{progress.per_second:.2f} files/s, {left / 60:.0f} min left"
            )
            self._clear()
            click.echo(line, err=True, nl=not self._terminal)

    def __enter__(self) -> _Shown:
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def _clear(self) -> None:
        if self._terminal:
            click.echo("\r\033[K", err=True, nl=False)
