"""Does the cost of ``Pipeline`` grow with the number of clips alone? Seconds per media-second at 10, 100, 1000 clips.

    python studies/scaling.py ckpt.mmx --json studies/results/scaling.json

Ten short clips of the talking face are given again and again, so that every number of clips is the same mixture. Each
count runs in a process of its own on one core, after one run over the ten clips that is not counted; the small counts
are repeated. What it costs to start is `cold_start`'s question.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import click

from mmx.benchmarks.workload.clips import make_clip, source_video
from mmx.benchmarks.workload.utterances import utterance_of
from mmx.evaluation.environment import describe, peak_rss_mb
from mmx.runtime.files import write_text
from mmx.runtime.machine import user_cache
from mmx.runtime.throughput import Pipeline
from mmx.runtime.workers.task import Task

SCHEMA_VERSION = 1
DURATIONS_S = (0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6)
REPEATED = 100  # clips that a count gets at least, by running it again


@dataclass(frozen=True)
class Cost:
    """One process: its count of clips and what each run over them took, per second of media; memory in MB."""

    clips: int
    runs: int
    wall_s: float
    cpu_s: float
    peak_mb: float
    warm_mb: float


def measure(bundle: Path, clips: Sequence[tuple[str, str]], count: int, backend: str, workers: int) -> Cost:
    """Run this process's pipeline over ``count`` clips; medians of the runs."""
    items = [Task(path, text=text) for path, text in (clips[n % len(clips)] for n in range(count))]
    media_s = sum(DURATIONS_S[n % len(clips)] for n in range(count))
    wall, cpu = [], []
    with Pipeline(bundle, backend=backend, workers=workers, threads=1) as pipeline:
        run_all(pipeline, [Task(path, text=text) for path, text in clips])
        warm_mb = peak_rss_mb() or 0.0
        for _ in range(max(1, REPEATED // count)):
            started, used = time.perf_counter(), time.process_time()
            run_all(pipeline, items)
            wall.append((time.perf_counter() - started) / media_s)
            cpu.append((time.process_time() - used) / media_s)
    return Cost(count, len(wall), median(wall), median(cpu), peak_rss_mb() or 0.0, warm_mb)


def run_all(pipeline: Pipeline, items: Sequence[Task]) -> None:
    """Run every item; the first that fails ends it, for a failed clip costs nothing."""
    for result in pipeline.run(items):
        if result.error:
            raise result.error


def make_clips(source: Path) -> list[tuple[str, str]]:
    """The ten clips (path, what is said), made on first use."""
    folder = user_cache("bench") / "scaling"
    clips = [make_clip(source, folder, replace(utterance_of(s), index=number)) for number, s in enumerate(DURATIONS_S)]
    return [(str(clip.path), clip.text) for clip in clips]


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option("--clip", type=click.Path(exists=True, path_type=Path), help="The video to cut the clips from.")
@click.option("--counts", default="10,100,1000", show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=1, show_default=True, help="Processes for each count.")
@click.option("--backend", default="onnxruntime", show_default=True)
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path))
@click.option("--one", type=int, hidden=True, help="Measure one count here and print it.")
def main(
    bundle: Path,
    clip: Path | None,
    counts: str,
    rounds: int,
    backend: str,
    workers: int,
    json_file: Path | None,
    one: int | None,
) -> None:
    """Print the cost of each count, and how far each is from the first."""
    clips = make_clips(source_video(clip))
    if one is not None:
        click.echo(json.dumps(asdict(measure(bundle, clips, one, backend, workers))))
        return
    command = [sys.executable, __file__, str(bundle), "--backend", backend, "--workers", str(workers)]
    if clip:
        command += ["--clip", str(clip)]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # the processes, with all their threads, inherit it
    found: dict[int, list[Cost]] = {int(count): [] for count in counts.split(",")}
    for _ in range(rounds):
        for count, costs in found.items():
            done = subprocess.run([*command, "--one", str(count)], stdout=subprocess.PIPE, text=True, check=True)
            costs.append(Cost(**json.loads(done.stdout)))
    first = median(cost.cpu_s for cost in next(iter(found.values())))
    for count, costs in found.items():
        cpu, wall = (median(getattr(cost, kind) for cost in costs) for kind in ("cpu_s", "wall_s"))
        click.echo(
            f"{count:5d} clips: {cpu:.4f} CPU s per media-second ({cpu / first - 1:+.1%}), {wall:.4f} s of the clock, "
            f"{max(c.peak_mb for c in costs):.0f} MB at most ({max(c.warm_mb for c in costs):.0f} when warm)"
        )
    if json_file:
        report = {
            "schema_version": SCHEMA_VERSION,
            "what": "Pipeline, seconds per media-second on one core, by number of clips",
            "backend": backend,
            "workers": workers,
            "clips_s": DURATIONS_S,
            "costs": [asdict(cost) for costs in found.values() for cost in costs],
            "environment": asdict(describe()),
        }
        write_text(json_file, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
