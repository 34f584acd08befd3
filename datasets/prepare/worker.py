"""A confined process for one untrusted recording: python -m mmx.datasets.prepare.worker. JSON in, JSON out.

It reads its task from stdin, writes images and sound below the folder it is given, and prints what it wrote. It may
crash, run out of memory or hang (then SIGALRM ends it); its parent leaves the recording out and goes on.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

from mmx.datasets.prepare.mosei_labels import read_csd
from mmx.datasets.prepare.pictures import write_pictures
from mmx.datasets.prepare.plan import Utterance
from mmx.datasets.prepare.sound import write_sound
from mmx.runtime.errors import BadDataError, MmxError
from mmx.runtime.people.choice import People

PR_SET_PDEATHSIG = 1
MEMORY_BYTES = 3 * 2**30  # of address space
LARGEST_FILE_BYTES = 2 * 2**30


def work(task: dict[str, Any]) -> dict[str, Any]:
    """Do one task: read a .csd, or cut a recording into utterances."""
    if task["kind"] == "csd":
        return {"timed": read_csd(Path(task["file"]))}
    utterances = tuple(Utterance(*fields) for fields in task["utterances"])
    folder = Path(task["folder"])
    alive = partial(signal.alarm, task["patience_s"])
    samples = write_sound(Path(task["audio"]), utterances, folder, task["dataset"], alive)
    people = People.parse(task.get("people", "largest"))
    video = Path(task["video"])
    fps, images = write_pictures(video, utterances, folder, task["dataset"], task["compat"], alive, people)
    return {"fps": fps, "images": images, "samples": samples}


def confine(patience_s: int) -> None:
    """Limits on memory and files, no core dump, no life without the parent, and an end if nothing comes for so long."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE_BYTES, LARGEST_FILE_BYTES))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.alarm(patience_s)


def main() -> int:
    """Do the task on stdin; prints one JSON object."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent decides
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints is no part of the answer
    task = json.loads(sys.stdin.buffer.read())
    confine(task["patience_s"])
    try:
        answer = work(task)
    except MemoryError:
        answer = {"error": "it takes more memory than one recording is given", "code": BadDataError.exit_code}
    except MmxError as e:
        answer = {"error": e.message, "hint": e.hint, "code": e.exit_code}
    except OSError as e:
        answer = {"error": e.strerror or str(e), "code": BadDataError.exit_code, "errno": e.errno}
    except Exception as e:  # whatever a library makes of a hostile file
        answer = {"error": f"{type(e).__name__}: {e}", "code": BadDataError.exit_code}
    out.write(json.dumps(answer))
    out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
