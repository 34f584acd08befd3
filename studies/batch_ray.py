"""``mmx batch --ray`` against ``mmx batch`` on one machine and the same files, one after the other.

    python studies/batch_ray.py ckpt.mmx clip.mp4 --copies 200 --out studies/results/batch_ray.json

Each run is the command a user types, in a process of its own, into a new results folder; the time is that of the whole
command, Ray's start included. Run again with the same ``--out``, it adds a round in the other order. Both commands are
in the session of this one, so that on a busy machine Linux gives both the same share of it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import click

from mmx.evaluation.environment import describe
from mmx.runtime.files import write_text


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.argument("clip", type=click.Path(path_type=Path, exists=True))
@click.option("--copies", default=200, show_default=True, help="How many files: the clip under so many names.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The JSON to write, or to add a round to.")
def main(bundle: Path, clip: Path, copies: int, out: Path) -> None:
    """Measure one round and print what all rounds say so far."""
    known = json.loads(out.read_text()) if out.exists() else {"rounds": []}
    order = ["here", "ray"] if len(known["rounds"]) % 2 == 0 else ["ray", "here"]
    with tempfile.TemporaryDirectory() as scratch:
        media = Path(scratch) / "media"
        media.mkdir()
        for number in range(copies):
            shutil.copy(clip, media / f"{number:05}{clip.suffix}")
        found = {kind: _run(kind, bundle, media, Path(scratch) / kind) for kind in order}
    rounds = [*known["rounds"], {"order": order, **found}]
    ratio = median(each["ray"]["files_per_s"] / each["here"]["files_per_s"] for each in rounds)
    report = {
        "command": f"python studies/batch_ray.py {bundle.name} {clip.name} --copies {copies}",
        "files": copies,
        "clip": {"name": clip.name, "bytes": clip.stat().st_size},
        "ray_over_here": round(ratio, 3),
        "rounds": rounds,
        "environment": asdict(describe()),
    }
    write_text(out, json.dumps(report, indent=2) + "\n")
    click.echo(json.dumps({"ray_over_here": round(ratio, 3), "last": found}, indent=2))


def _run(kind: str, bundle: Path, media: Path, out: Path) -> dict[str, Any]:
    """One command: its wall time, its files per second, and what else wanted the machine's cores meanwhile."""
    command = [sys.executable, "-m", "mmx.cli.main", "batch", str(bundle), str(media), "--out", str(out)]
    started = time.monotonic()
    load = os.getloadavg()[0]
    subprocess.run([*command, *(["--ray"] if kind == "ray" else [])], check=True, capture_output=True)
    wall = time.monotonic() - started
    files = sum(1 for _ in media.iterdir())
    return {"wall_s": round(wall, 2), "files_per_s": round(files / wall, 3), "load_before": round(load, 1)}


if __name__ == "__main__":
    main()
