"""Run ``worker`` in a process of its own for each recording, and make of its end an answer or a reason."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from typing import Any

from mmx.runtime.errors import BadDataError, EnvironmentMissing

PATIENCE_S = 120  # without a new frame, or a new piece of sound
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def run_confined(task: dict[str, Any]) -> dict[str, Any]:
    """The answer of a worker process to ``task`` (see ``worker.work``).

    Raises:
        BadDataError: the recording is damaged, or the process crashed, hung or took too much memory.
        EnvironmentMissing: a package is not installed, or the output cannot be written.
    """
    done = subprocess.run(
        [sys.executable, "-m", "mmx.datasets.prepare.worker"],
        input=json.dumps({"patience_s": PATIENCE_S, **task}).encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    )
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise BadDataError(_end(done.returncode)) from None
    if "error" not in answer:
        return dict(answer)
    if answer.get("errno") in NO_ROOM or answer["code"] == EnvironmentMissing.exit_code:
        raise EnvironmentMissing(answer["error"], answer.get("hint", ""))
    raise BadDataError(answer["error"], answer.get("hint", ""))


def _end(code: int) -> str:
    """Why a process ended without an answer."""
    if code == -signal.SIGALRM:
        return f"the decoder gave nothing for {PATIENCE_S} s"
    if code < 0:
        return f"the decoder crashed on it ({signal.Signals(-code).name})"
    return f"the process that read it ended with exit code {code}"
