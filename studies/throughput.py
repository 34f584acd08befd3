"""Files per second: ``Predictor`` file by file, ``Pipeline`` with threads, and a ``Pipeline`` in each of N processes.

    python studies/throughput.py ckpt.mmx --rounds 3

The ways take turns on the same short clips; each has run once before it counts. All but the first may use every core.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import click
from scaling import DURATIONS_S, make_clips, run_all

from mmx.benchmarks.workload.clips import source_video
from mmx.evaluation.statistics import speedup
from mmx.runtime.machine import usable_cores
from mmx.runtime.predictor import Predictor
from mmx.runtime.throughput import Pipeline
from mmx.runtime.workers.task import Task

_OWN: list[Pipeline] = []  # the pipeline of a worker process


def one_by_one(predictor: Predictor, items: Sequence[Task]) -> None:
    """Every item through the predictor."""
    for item in items:
        list(predictor.predict(item.path, text=item.text))


def open_own(bundle: Path, backend: str, precision: str) -> None:
    """What each worker process does first."""
    _OWN.append(Pipeline(bundle, backend=backend, precision=precision, workers=1, threads=1))


def run_own(items: Sequence[Task]) -> None:
    """A worker's share."""
    run_all(_OWN[0], items)


def in_processes(pool: ProcessPoolExecutor, workers: int, items: Sequence[Task]) -> None:
    """An equal share to each worker; their answers stay there, which spares them the sending."""
    list(pool.map(run_own, [items[n::workers] for n in range(workers)]))


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option("--clip", type=click.Path(exists=True, path_type=Path), help="The video to cut the clips from.")
@click.option("--count", type=click.IntRange(min=1), default=40, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--backend", default="onnxruntime", show_default=True)
@click.option("--precision", default="fp32", show_default=True)
def main(bundle: Path, clip: Path | None, count: int, rounds: int, backend: str, precision: str) -> None:
    """Print each way's files per second, and how many times the first's."""
    clips = make_clips(source_video(clip))
    items = [Task(path, text=text) for path, text in (clips[n % len(clips)] for n in range(count))]
    cores = usable_cores()
    with (
        Predictor(bundle, threads=1, backend=backend, precision=precision) as predictor,
        Pipeline(bundle, workers=1, threads=1, backend=backend, precision=precision) as single,
        Pipeline(bundle, workers=cores, threads=1, backend=backend, precision=precision) as one_thread,
        Pipeline(bundle, workers=cores, threads=cores, backend=backend, precision=precision) as threads,
        ProcessPoolExecutor(
            cores, get_context("spawn"), initializer=partial(open_own, bundle, backend, precision)
        ) as pool,
    ):
        ways: dict[str, Callable[[Sequence[Task]], None]] = {
            "one file at a time, 1 thread": partial(one_by_one, predictor),
            "1 reader, network on 1": partial(run_all, single),
            f"{cores} readers, network on 1": partial(run_all, one_thread),
            f"{cores} readers, network on {cores}": partial(run_all, threads),
            f"{cores} processes": partial(in_processes, pool, cores),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds + 1):
            for name, way in ways.items():
                started = time.perf_counter()
                way(items if number else items[: len(DURATIONS_S)])
                if number:
                    seconds[name].append(time.perf_counter() - started)
    first = seconds[next(iter(ways))]
    for name, each in seconds.items():
        click.echo(f"{name:32s} {count / median(each):6.2f} files/s  {speedup(first, each)}")


if __name__ == "__main__":
    main()
