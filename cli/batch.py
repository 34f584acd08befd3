"""``mmx batch``: thousands of files -> Parquet, JSON Lines or CSV, on one machine or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import click

from mmx.cli.build_engine import bundle_here
from mmx.cli.command import Renamed, command, say
from mmx.cli.options import shared
from mmx.cli.paths import BUNDLE
from mmx.cli.progress import ShownProgress
from mmx.cli.render import printable
from mmx.cli.running import Running, runs_files
from mmx.cli.signals import end_like_ctrl_c
from mmx.runtime.backends.choice import chosen_precision
from mmx.runtime.bundle import Bundle, fetched
from mmx.runtime.errors import UsageError, missing_extra
from mmx.runtime.hub import is_remote
from mmx.runtime.throughput import Pipeline
from mmx.serving.batch.inputs import Asked, find_tasks
from mmx.serving.batch.run import SUFFIXES, Records, collect, open_results, predict_here


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


@command(renamed=[Renamed("--jobs", "--workers")])
@click.argument("inputs", nargs=-1, required=True, metavar="[BUNDLE] INPUTS...")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="The results: a folder of Parquet files, or a .jsonl or .csv file. Run again to go on.",
)
@shared("--format", "form")
@click.option("--bundle", type=BUNDLE, help="The bundle, if it is not the first input.")
@shared("--window")
@click.option("--beside", is_flag=True, help="Use talk.srt, talk.vtt or talk.txt beside talk.mp4 as its transcript.")
@click.option("--retry", is_flag=True, help="Run the files again that had an error.")
@click.option(
    "--allow-protocol", multiple=True, help="Also follow URLs of this protocol, such as memory or zip (repeat it)."
)
@click.option(
    "--allow-private", is_flag=True,
    help="Let HTTP URLs, redirects included, lead to this machine and its network; use proxies.",
)  # fmt: skip
@runs_files
@shared("--workers")
@click.option(
    "--shard-files", type=click.IntRange(min=1), default=1000, show_default=True, help="Files in a shard, at most."
)
@click.option(
    "--shard-seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=60,
    show_default=True,
    help="Write a shard at least this often: a kill loses no more.",
)
@click.option("--ray", is_flag=True, help="Spread the work over a Ray cluster.")
@click.option("--ray-address", help="--ray: the cluster's address.  [default: RAY_ADDRESS, or a new cluster]")
@click.option("--readers", type=Pool(), help="--ray: workers that read media, one CPU each.  [default: 1 to all CPUs]")
@click.option("--networks", type=Pool(), help="--ray: workers with the network.  [default: 1 to one for each node]")
@click.option(
    "--gpus", type=click.FloatRange(min=0), default=0, show_default=True, help="--ray: GPUs of each network worker."
)
def batch(
    inputs: tuple[str, ...],
    out: Path,
    form: str | None,
    bundle: Path | None,
    window: float | None,
    beside: bool,
    retry: bool,
    allow_protocol: tuple[str, ...],
    allow_private: bool,
    running: Running,
    workers: int | None,
    shard_files: int,
    shard_seconds: float,
    ray: bool,
    ray_address: str | None,
    readers: tuple[int, int] | None,
    networks: tuple[int, int] | None,
    gpus: float,
) -> int:
    """Predict the emotions in many files; write Parquet, JSON Lines or CSV.

    INPUTS are media files, folders, globs, URLs, and lists of them (.txt, .csv, .parquet, - for stdin). BUNDLE is the
    first input if that is a bundle, else the one in this folder. The same command again goes on where it was
    interrupted. A file's error is in the results; the exit code is that of the worst.

    \b
    mmx batch ckpt.mmx videos/ --out results
    mmx batch ckpt.mmx list.parquet 's3://bucket/*.mp4' --out results --ray
    """
    if not ray and (ray_address or readers or networks or gpus):
        raise UsageError("--ray-address, --readers, --networks and --gpus are for --ray", "add --ray")
    if ray and workers:
        raise UsageError("--workers is for this machine alone", "--ray has --readers")
    form = form or SUFFIXES.get(out.suffix.lower(), "parquet")
    if form == "parquet":
        try:
            import pyarrow  # noqa: F401
        except ModuleNotFoundError as e:
            raise missing_extra("pyarrow", "batch") from e

    running.check()
    end_like_ctrl_c()
    path, named = _bundle_and_inputs(bundle, inputs)
    tasks = find_tasks(named, beside=beside, window=window, allow=allow_protocol, private=allow_private)
    tasks = [replace(task, tracks=running.tracks, people=running.people) for task in tasks]
    options = running.options() | {"limits": running.limits}
    with ExitStack() as closing:
        opened = Bundle.open(path)
        options["precision"] = precision = chosen_precision(opened, running.precision, "throughput")
        made = running.made_with(opened, precision, window)
        shards = {"shard_files": shard_files, "shard_s": shard_seconds} if form == "parquet" else {}
        results = closing.enter_context(open_results(out, form, opened, made, resume=True, **shards))
        show = closing.enter_context(ShownProgress())
        if ray:
            from mmx.serving.batch.on_ray import RayWorkers, predict_on_ray

            options["private"] = allow_private
            on_ray = RayWorkers(path.absolute(), readers=readers, networks=networks, gpus=gpus, **options)
            predict: Callable[[Sequence[Asked]], Records] = partial(predict_on_ray, on_ray, ray_address)
        else:

            def predict(asked: Sequence[Asked]) -> Records:
                with Pipeline(opened, workers=workers, **options) as pipeline:
                    yield from predict_here(pipeline, asked, private=allow_private)

        for progress, record in collect(tasks, predict, results, retry=retry):
            show(progress, record)
    again = f" ({progress.failed_before} failed; --retry)" if progress.failed_before else ""
    say(
        f"{printable(str(out))}: {progress.answered} files answered ({progress.segments} segments), "
        f"{progress.failed} failed, {progress.skipped} done before{again}; {progress.per_second:.2f} files/s"
    )
    return progress.worst


def _bundle_and_inputs(bundle: Path | None, inputs: Sequence[str]) -> tuple[Path, Sequence[str]]:
    """The bundle: --bundle, the first input if it is one, or the one in this folder."""
    if bundle is not None:
        return bundle, inputs
    first = fetched(inputs[0]) if is_remote(inputs[0]) else Path(inputs[0])
    if (first / "manifest.json").exists() or first.suffix == ".mmx":
        if len(inputs) == 1:
            raise UsageError(f"{first} is the bundle; there are no inputs", "mmx batch ckpt.mmx FOLDER --out results")
        return first, inputs[1:]
    return bundle_here(Path.cwd()), inputs
