"""A worker process: python -m mmx.runtime.workers.process. Files in, segments out; it may crash, hang or be killed.

It reads frames (see ``wire``) from stdin: first its settings, then one task after another. Of each task it writes
``begun``, the segments as they come, and an ``end`` or an ``error``. Its memory is limited before the first file is
opened; time is its parent's to watch. ``cancel`` gives up a task at the next frame. When stdin closes, so does it.
"""

from __future__ import annotations

import ctypes
import os
import queue
import resource
import signal
import sys
import threading
import traceback
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import BadDataError, MmxError
from mmx.runtime.media import container
from mmx.runtime.preprocess import Preprocessor
from mmx.runtime.streaming.arrivals import open_stream
from mmx.runtime.streaming.clock import SystemClock
from mmx.runtime.streaming.segments import LiveTask, live_segments
from mmx.runtime.types import Span
from mmx.runtime.workers import PARTS
from mmx.runtime.workers.task import Limits, Rejected, error_to_plain
from mmx.runtime.workers.wire import Head, pack_frame, pack_segment, read_frame

PR_SET_PDEATHSIG = 1
SLACK_S = 1.0  # the last frame of a file of just the longest length may end this much later
FAILED = 1


class Inbox(threading.Thread):
    """Reads stdin, so that a task can be cancelled while it is worked on, and a parent's end is noticed at once."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(name="mmx-inbox", daemon=True)
        self._file = file
        self._stops: dict[int, threading.Event] = {}
        self.tasks: queue.SimpleQueue[tuple[Head, threading.Event]] = queue.SimpleQueue()

    def run(self) -> None:
        """Until stdin closes; then the process ends, whatever it does."""
        try:
            while (head := read_frame(self._file)) is not None:
                number = head["number"]
                if head["kind"] == "cancel":
                    self._stops[number].set()
                else:
                    self._stops = {number: threading.Event()}
                    self.tasks.put((head, self._stops[number]))
        finally:
            os._exit(0)


class Reader:
    """Answers tasks from one bundle's preprocessor."""

    def __init__(self, settings: Head, out: BinaryIO) -> None:
        bundle = Bundle.open_parts(Path(settings["bundle"]), PARTS)
        if bundle.identity != settings["identity"]:
            raise BadDataError(f"{bundle.path} was replaced by another bundle meanwhile", "start again to use that")
        self._limits = Limits(**settings["limits"])
        self._manifest = bundle.manifest
        self._preprocessor = Preprocessor(
            bundle,
            threads=settings["threads"],
            faces=settings["faces"],
            asr=settings["asr"],
            language=settings["language"],
        )
        container.MAX_PIXELS = self._limits.pixels  # of this process
        self._out = out

    def work(self, task: Head, stop: threading.Event) -> None:
        """Answer one task, whatever becomes of it."""
        self.say({"kind": "begun"})
        file = task["path"]
        try:
            if "live" in task:
                self._live(LiveTask.of(task["live"]))
            else:
                self._segments(task, stop)
            self.say({"kind": "end"})
        except MemoryError:
            self._error(task, Rejected("too_much_memory", f"{file} takes too much memory to decode"))
            os._exit(FAILED)  # what is left of its memory is in pieces
        except MmxError as e:
            too_large = e.hint == container.SCALE_DOWN
            self._error(task, Rejected("too_many_pixels", e.message, self._scale_down()) if too_large else e)
        except BrokenPipeError:
            os._exit(0)
        except Exception as e:
            fault = Rejected("decoder_crashed", f"{file} crashes the decoder ({type(e).__name__}: {e})")
            self._error(task, fault, detail=traceback.format_exc())

    def say(self, head: Head) -> None:
        """Write one frame."""
        self._out.write(pack_frame(head))
        self._out.flush()

    def _segments(self, task: Head, stop: threading.Event) -> None:
        name = task["names"][task["path"]]
        transcript = task["transcript"]
        if isinstance(transcript, list):
            transcript = [Span(*span) for span in transcript]
        longest = self._limits.media_s
        if longest is not None and (declared := container.probe(Path(task["path"])).duration or 0.0) > longest:
            raise _too_long(task["path"], declared, longest)
        segments = self._preprocessor.segments(
            task["path"],
            text=task["text"],
            transcript=transcript,
            window=task["window"],
            tracks=container.Tracks(*task["tracks"]),
            people=task["people"],
            stop=stop,
        )
        with closing(segments):
            for segment in segments:
                seen = segment.frames_seen or len(segment.sample.pieces)  # a cue may lie beyond the end of the file
                if longest is not None and seen and segment.span.end > longest + SLACK_S:
                    raise _too_long(task["path"], segment.span.end, longest)
                self._out.write(pack_segment(replace(segment, file=name)))
                self._out.flush()

    def _live(self, task: LiveTask) -> None:
        system = self._manifest.modalities
        spec = self._manifest.preprocessing
        stream = open_stream(task.source, spec, video="visual" in system, audio="audio" in system)
        with closing(stream):
            self.say({"kind": "open", "ends": stream.ends})
            for each in live_segments(self._preprocessor, stream, task, SystemClock()):
                facts = {"behind_s": each.behind_s, "dropped": each.dropped, "skipped": each.skipped}
                self._out.write(pack_segment(each.segment, live=facts))
                self._out.flush()

    def _scale_down(self) -> str:
        return f"{self._limits.pixels} pixels at most are taken; scale it down first"

    def _error(self, task: Head, error: MmxError, detail: str = "") -> None:
        plain = error_to_plain(error)
        for part in ("message", "hint"):
            for path, name in task["names"].items():
                plain[part] = plain[part].replace(path, name)
        self.say({"kind": "error", "detail": detail, **plain})


def _too_long(path: str, seconds: float, longest: float) -> Rejected:
    return Rejected("too_long", f"{path} lasts {seconds:.1f} s", f"{longest:g} s at most are taken; cut it first")


def _confine(memory: int, parent: int) -> None:
    """No more than ``memory`` bytes of address space, no core dump, no file written, and no life without the parent."""
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before that
            os._exit(0)


def main() -> None:
    """Read the settings, say ``ready``, and work until stdin is closed."""
    for number in (signal.SIGINT, signal.SIGHUP):  # they reach the whole process group; the parent decides
        signal.signal(number, signal.SIG_IGN)
    out: Any = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints goes to stderr, not between the frames
    settings = read_frame(sys.stdin.buffer)
    if settings is None:
        return
    try:
        _confine(int(settings["limits"]["memory"]), settings["parent"])
        reader = Reader(settings, out)
    except (MmxError, OSError, ValueError, MemoryError) as e:
        error = e if isinstance(e, MmxError) else MmxError(f"{type(e).__name__}: {e}")
        out.write(pack_frame({"kind": "failed", **error_to_plain(error)}))
        out.flush()
        os._exit(FAILED)
    reader.say({"kind": "ready"})
    inbox = Inbox(sys.stdin.buffer)
    inbox.start()
    while True:
        reader.work(*inbox.tasks.get())


if __name__ == "__main__":
    main()
