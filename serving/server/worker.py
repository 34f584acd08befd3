"""A decoding process: python -m mmx.serving.server.worker. Files in, segments out; it may crash, hang or be killed.

It reads frames (see ``wire``) from stdin: first its settings, then one job after another. Of each job it writes the
segments as they come, and an ``end`` or an ``error``. Its memory is limited before the first file is opened; time is
the server's to watch. SIGUSR1 gives up the job at hand, or the next where it comes before that is read; ``settle``
ends the doubt.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import BadDataError, MmxError
from mmx.runtime.media.reader import probe
from mmx.runtime.preprocess import Preprocessor
from mmx.serving.server.refusal import Refusal, refusal_of
from mmx.serving.server.wire import Head, pack_frame, pack_segment, read_frame

PR_SET_PDEATHSIG = 1
CANCEL = signal.SIGUSR1
SLACK_S = 1.0  # the last frame of a file of just the longest length may end this much later


class Cancelled(BaseException):
    """The server no longer wants the job."""


class Interrupts:
    """Turns SIGUSR1 into ``Cancelled``, but only where a job is being worked on: never in the middle of a frame."""

    def __init__(self) -> None:
        self._open = False
        self._wanted = False
        signal.signal(CANCEL, self._on_signal)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Inside, a cancellation (also one that came just before) is raised."""
        self._open = True
        try:
            if self._wanted:
                raise Cancelled
            yield
        finally:
            self._open = False

    def forget(self) -> None:
        """A cancellation that came by now was for a job that has ended."""
        self._wanted = False

    def _on_signal(self, *_: object) -> None:
        self._wanted = True
        if self._open:
            self._open = False  # once
            raise Cancelled


class Worker:
    """Answers jobs from one bundle's preprocessor."""

    def __init__(self, settings: Head, out: BinaryIO) -> None:
        bundle = Bundle.open(settings["bundle"], verify=False)  # the server has verified it
        self._preprocessor = Preprocessor(bundle, threads=settings["threads"], faces=settings["faces"])
        self._media_s, self._media_pixels = float(settings["media_s"]), int(settings["media_pixels"])
        self._out = out
        self._interrupts = Interrupts()

    def work(self, job: Head) -> None:
        """Answer one job. ``Refusal`` and ``MmxError`` are part of an answer; anything else ends the process."""
        if job.get("kind") == "settle":  # the server has heard the end of the job that it gave up
            self._interrupts.forget()
            self.say({"kind": "settled"})
            return
        try:
            self._segments(job)
            self.say({"kind": "end"})
        except Cancelled:
            self.say({"kind": "end", "cancelled": True})
        except Refusal as e:
            self.say({"kind": "error", "status": e.status, **e.body()["error"]})
        except MemoryError:
            self.say({"kind": "error", "status": 422, **_too_much_memory().body()["error"]})
            sys.exit(BadDataError.exit_code)  # what is left of its memory is in pieces

    def _segments(self, job: Head) -> None:
        try:
            os.chdir(job["folder"])  # so that messages say "video", not where the server keeps it
            with self._interrupts.allowed():
                self._check(Path("video"))
                segments = self._preprocessor.segments(
                    "video", text=job["text"], transcript=job["transcript"], window=job["window"]
                )
            while True:
                with self._interrupts.allowed():
                    segment = next(segments, None)
                if segment is None:
                    return
                seen = segment.frames_seen or len(segment.sample.pieces)  # a cue may lie beyond the end of the file
                if seen and segment.span.end > self._media_s + SLACK_S:
                    raise self._too_long(segment.span.end)
                self._out.write(pack_segment(segment))
                self._out.flush()
        except MmxError as e:
            raise refusal_of(e) from e

    def say(self, head: Head) -> None:
        """Write one frame."""
        self._out.write(pack_frame(head))
        self._out.flush()

    def _check(self, path: Path) -> None:
        """Refuse what the header says is too long or too large."""
        info = probe(path)
        if info.duration is not None and info.duration > self._media_s:
            raise self._too_long(info.duration)
        if info.width * info.height > self._media_pixels:
            raise Refusal(
                413,
                "too_many_pixels",
                f"the picture has {info.width} x {info.height} pixels",
                f"this server takes {self._media_pixels} at most; scale it down first",
            )

    def _too_long(self, seconds: float) -> Refusal:
        hint = f"this server takes {self._media_s:g} s at most; cut it first"
        return Refusal(413, "too_long", f"the file lasts {seconds:.1f} s", hint)


def _too_much_memory() -> Refusal:
    return Refusal(422, "too_much_memory", "decoding the file takes more memory than this server gives to one file")


def _confine(memory: int) -> None:
    """No more than ``memory`` bytes of address space, no core dump, no file written, and no life without the server."""
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> int:
    """Read the settings, say ``ready``, and work until stdin is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the server decides
    out: Any = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints goes to stderr, not between the frames
    settings = read_frame(sys.stdin.buffer)
    if settings is None:
        return 0
    try:
        _confine(int(settings["memory"]))
        worker = Worker(settings, out)
    except (MmxError, OSError, ValueError) as e:
        out.write(pack_frame({"kind": "failed", "message": str(e)}))
        out.flush()
        return BadDataError.exit_code
    worker.say({"kind": "ready"})
    while (job := read_frame(sys.stdin.buffer)) is not None:
        worker.work(job)
    return 0


if __name__ == "__main__":
    sys.exit(main())
