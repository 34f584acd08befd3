"""Tasks -> rows in a process of its own, so that a file that crashes the decoder costs its own answer and no other.

When the process dies, the files that it may have had in hand are given to another one by one, until it dies of one of
them again; that file has an error, and all others go on together.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple
from itertools import islice
from typing import Any

from mmx.runtime.errors import BadDataError, EnvironmentMissing, MmxError
from mmx.runtime.throughput_run import AHEAD
from mmx.serving.batch.inputs import Task
from mmx.serving.batch.output import Row, rows_of
from mmx.serving.batch.run import FETCH_AHEAD, Answers

COMMAND = (sys.executable, "-m", "mmx.serving.batch.worker")
IN_HAND = AHEAD + FETCH_AHEAD  # files that a process may have begun and not answered


class Died(Exception):
    """The process ended in the middle of its work."""


class Worker:
    """The process. It ends with the block.

    Args:
        options: of its ``Pipeline``, with ``bundle`` (a path) and ``window``. command: what starts it.

    Raises:
        MmxError: its pipeline cannot be opened.
    """

    def __init__(self, options: Mapping[str, Any], command: Sequence[str]) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="mmx-batch-")  # what it downloads; it may not tidy up itself
        env = {**os.environ, "TMPDIR": self._scratch.name}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", env=env
        )
        try:
            self._write(json.dumps(dict(options)) + "\n")
            told = self._read()
        except BaseException as e:
            self.close()
            if isinstance(e, Died):
                raise EnvironmentMissing(f"the process that answers cannot start: {e}", "mmx doctor") from e
            raise
        if "failed" in told:
            self.close()
            message, hint, code = told["failed"]
            error = MmxError(message, hint)
            error.exit_code = code
            raise error

    def answers(self, tasks: Sequence[Task]) -> Iterator[list[Row]]:
        """The rows of each task.

        Raises:
            Died: the process did, and how.
        """
        lines = "".join(json.dumps(astuple(task)) + "\n" for task in tasks) + "\n"
        feeder = threading.Thread(target=self._feed, args=(lines,), daemon=True)  # it may take long to read them all
        feeder.start()
        while "end" not in (told := self._read()):
            yield told["rows"]
        feeder.join()

    def close(self) -> None:
        """End the process, whatever it does, and remove what it downloaded."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        self._scratch.cleanup()

    def _feed(self, lines: str) -> None:
        with suppress(Died, ValueError):  # it died, or was ended: who reads its answers will see
            self._write(lines)

    def _write(self, text: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(text)
            self._process.stdin.flush()
        except OSError as e:
            raise Died(str(e)) from e

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            code = self._process.wait()
            raise Died(signal.Signals(-code).name if code < 0 else f"exit code {code}")
        told: dict[str, Any] = json.loads(line)
        return told


def answer_supervised(
    options: Mapping[str, Any], tasks: Sequence[Task], *, command: Sequence[str] = COMMAND
) -> Answers:
    """The rows of each task, in their order but for those that are answered again; see ``Worker``.

    Raises:
        MmxError: see ``Worker``.
    """
    left = {task.key: task for task in tasks}
    one_by_one = 0  # so many, after a death
    worker: Worker | None = None
    try:
        while left:
            worker = worker or Worker(options, command)
            group = list(islice(left.values(), 1 if one_by_one else None))
            one_by_one = max(0, one_by_one - 1)
            try:
                for rows in worker.answers(group):
                    del left[rows[0]["task"]]
                    yield rows
            except Died as e:
                worker.close()
                worker = None
                if len(group) > 1:
                    one_by_one = IN_HAND
                elif (task := left.pop(group[0].key, None)) is not None:
                    one_by_one = 0
                    yield rows_of(task, (), _deadly(task, e))
    finally:
        if worker is not None:
            worker.close()


def _deadly(task: Task, death: Died) -> MmxError:
    return BadDataError(f"{task.path} crashes the decoder ({death})", "convert it to MP4 (H.264, AAC) first")
