"""Runs the builder in a process of its own: it can be stopped at once, and its crash is not ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO

from mmx.runtime.errors import BadDataError, EnvironmentMissing

WORKER = (sys.executable, "-m", "mmx.export.engine.worker")
LOG_LINES = 4

Progress = Callable[[str, float], None]  # phase, and how much of it is done (0..1)


def run_build(job: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Build one engine.

    Args:
        job: what ``worker.build`` takes.
        progress: called as the builder goes on.

    Returns:
        What ``worker.build`` returns.

    Raises:
        BadDataError: TensorRT rejected the graph or could not build it; says which layer and what to try.
        EnvironmentMissing: the process died (killed, out of memory, a crash in the library).
        OSError: the engine cannot be written.
        KeyboardInterrupt: the child is gone before this returns.
    """
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log,  # a pipe nobody reads would fill
        subprocess.Popen(
            WORKER,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # a terminal's Ctrl-C comes to us alone, and we end the child
        ) as child,
    ):
        try:
            return _follow(child, log, job, progress)
        finally:
            child.kill()
            child.wait()


def _follow(child: subprocess.Popen[str], log: TextIO, job: dict[str, Any], progress: Progress) -> dict[str, Any]:
    assert child.stdin and child.stdout
    with suppress(BrokenPipeError):  # it is dead already; what it left is read below
        child.stdin.write(json.dumps(job) + "\n")
        child.stdin.flush()
    warnings: list[str] = []
    for line in child.stdout:
        event = json.loads(line)
        kind = event.pop("event")
        if kind == "progress":
            progress(event["phase"], event["done"] / event["steps"] if event["steps"] else 0)
        elif kind == "warning":
            warnings.append(event["text"])
        elif kind == "done":
            return event | {"warnings": warnings}
        elif kind == "failed":
            raise _rejected(job["graph"], event["complaints"])
        elif kind == "unwritable":
            raise OSError(event["errno"], os.strerror(event["errno"]), job["out"])
    code = child.wait()
    log.seek(0)
    last = log.read().strip().splitlines()[-LOG_LINES:]
    reason = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
    raise EnvironmentMissing(
        f"the TensorRT builder {reason}" + (f": {' | '.join(last)}" if last else ""),
        "if memory ran out, build fewer profiles (--profiles short) or set --workspace",
    )


def _rejected(graph: str, complaints: list[str]) -> BadDataError:
    said = [text.strip() for text in complaints if text.strip()] or ["it gave no reason"]
    return BadDataError(f"TensorRT cannot build {graph}: {' | '.join(said[:3])}", _advice(" ".join(said)))


def _advice(said: str) -> str:
    """What to try, by what TensorRT complained of."""
    low = said.lower()
    if "profile" in low or "dimension" in low:
        return "the shapes do not fit the graph: give --profiles FILE.json"
    if "plugin" in low or "no importer" in low or "unsupported" in low:
        return "the named operation is none that TensorRT knows: export the model without it, or use ONNX Runtime"
    if "memory" in low or "alloc" in low:
        return "build fewer profiles (--profiles short) or set --workspace"
    if "compute capability" in low:
        return "choose another --target"
    return "try --fp32 to see whether the precision is at fault"
