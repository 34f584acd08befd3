"""What the demo prints: its steps with the time since the start, and the mmx commands that it runs."""

from __future__ import annotations

import subprocess
import sysconfig
import time
from pathlib import Path

GATE_FAILED = 3  # mmx's exit code where a gate fails


class Console:
    """Counts steps and runs commands. ``steps``: how many there will be."""

    def __init__(self, steps: int) -> None:
        self._steps, self._done, self._start = steps, 0, time.perf_counter()

    def step(self, title: str) -> None:
        """Announce the next step."""
        self._done += 1
        print(f"\n== {self._done}/{self._steps}  {title}  [{time.perf_counter() - self._start:.0f} s]", flush=True)

    def mmx(self, *arguments: str | Path, show: bool = True, may_fail: bool = False) -> str:
        """Run the mmx command of this environment and say so; returns what it printed.

        Args:
            show: print its answer as well. may_fail: whether a gate that fails is a result too.

        Raises:
            CalledProcessError: it failed.
        """
        words = [str(argument) for argument in arguments]
        print(f"$ mmx {' '.join(words)}", flush=True)
        command = [str(Path(sysconfig.get_path("scripts")) / "mmx"), *words]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode and not (may_fail and done.returncode == GATE_FAILED):
            raise subprocess.CalledProcessError(done.returncode, command, done.stdout)
        if show:
            print(done.stdout, end="", flush=True)
        return done.stdout
