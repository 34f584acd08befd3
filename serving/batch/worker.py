"""The process of ``mmx batch`` that reads media and runs the network: python -m mmx.serving.batch.worker.

It may crash on a file; ``supervised`` starts another. Lines of JSON come on stdin: the options of its ``Pipeline``,
then groups of tasks, each ended by an empty line. On stdout it says ``ready`` or ``failed``, the ``rows`` of one file
after another, and ``end`` after each group.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any, TextIO

from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import MmxError
from mmx.runtime.throughput import Pipeline
from mmx.serving.batch.inputs import Task
from mmx.serving.batch.run import answer_here


def main() -> None:
    """Answer until stdin is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the other process decides
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to stderr, not between the lines

    def say(**told: Any) -> None:
        out.write(json.dumps(told) + "\n")
        out.flush()

    options = json.loads(sys.stdin.readline())
    window = options.pop("window")
    try:
        pipeline = Pipeline(Bundle.open(options.pop("bundle"), verify=False), **options)
    except MmxError as e:
        say(failed=[e.message, e.hint, e.exit_code])
        return
    say(ready=True)
    while (first := sys.stdin.readline()) != "":
        with closing(answer_here(pipeline, window, _group(first, sys.stdin))) as answers:
            for rows in answers:
                say(rows=rows)
        say(end=True)


def _group(line: str, lines: TextIO) -> Iterator[Task]:
    while line.strip():
        yield Task(*json.loads(line))
        line = lines.readline()


if __name__ == "__main__":
    main()
