"""Cold start: from the start of the ``mmx predict`` process to its answer for one clip, less the clip's own decoding.

    python studies/cold_start.py ckpt.mmx talk.mp4 [--command 'before=env PYTHONPATH=old python -m mmx.cli.main']

Each run is a process of its own; several commands take turns. Files are in the page cache, as after a first start. The
decoding is what the answer itself reports; peak memory is what the system counted for the process.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import click

from mmx.evaluation.statistics import speedup
from mmx.runtime.errors import BadDataError


@dataclass(frozen=True)
class Start:
    """One start: seconds to the answer and to the end of the process, its stages in ms, and its peak memory in MB."""

    answer_s: float
    end_s: float
    decode_s: float
    stages_ms: dict[str, float]
    peak_mb: float

    @property
    def cold_s(self) -> float:
        """What the start costs besides decoding the clip."""
        return self.answer_s - self.decode_s


def start_once(command: Sequence[str]) -> Start:
    """Run a command that prints one prediction as JSON.

    Raises:
        BadDataError: it failed, or printed something else.
    """
    with tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        assert process.stdout is not None
        line = process.stdout.readline()
        answered = time.perf_counter() - started
        process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        ended = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stdout.close()
        errors.seek(0)
        if process.returncode or not line.startswith(b"{"):
            said = errors.read().decode(errors="replace").strip().splitlines()
            raise BadDataError(f"{shlex.join(command)} failed: {said[-1] if said else line[:100]!r}")
    stages: dict[str, float] = json.loads(line)["timings_ms"]
    return Start(answered, ended, stages["decode"] / 1e3, stages, usage.ru_maxrss / (2**20 if MAC else 2**10))


MAC = sys.platform == "darwin"


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.argument("clip", type=click.Path(exists=True, path_type=Path))
@click.option("--text", default="Ever tried. Ever failed. No matter. Try again.", show_default=True)
@click.option("--backend", multiple=True, default=("auto",), show_default=True)
@click.option("--command", "commands", multiple=True, metavar="NAME=COMMAND", help="Another mmx to compare with.")
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True)
def main(bundle: Path, clip: Path, text: str, backend: tuple[str, ...], commands: tuple[str, ...], rounds: int) -> None:
    """Print the median start of each command and backend, and each command's against the first's."""
    programs = {name: shlex.split(rest) for name, _, rest in (each.partition("=") for each in commands)}
    programs["mmx"] = [sys.executable, "-m", "mmx.cli.main"]
    cases = {
        (name, engine): [*program, "predict", str(bundle), str(clip), "--text", text, "--json", "--backend", engine]
        for name, program in programs.items()
        for engine in backend
    }
    starts: dict[tuple[str, str], list[Start]] = {case: [] for case in cases}
    for number in range(rounds + 1):
        for case, command in cases.items():
            start = start_once(command)
            if number:  # the first of each only fills the caches
                starts[case].append(start)
    first = {engine: starts[next(iter(programs)), engine] for engine in backend}
    for (name, engine), found in starts.items():
        ratio = speedup([s.cold_s for s in first[engine]], [s.cold_s for s in found])
        stages = ", ".join(f"{stage} {median(s.stages_ms[stage] for s in found):.0f}" for stage in found[0].stages_ms)
        click.echo(
            f"{name} {engine}: {median(s.cold_s for s in found):.2f} s to the answer without decoding "
            f"({min(s.cold_s for s in found):.2f} to {max(s.cold_s for s in found):.2f}), "
            f"{median(s.answer_s for s in found):.2f} with, {median(s.end_s for s in found):.2f} to the end; "
            f"{max(s.peak_mb for s in found):.0f} MB at most; ms: {stages}; {ratio} faster than the first"
        )


if __name__ == "__main__":
    main()
