"""One worker process as its parent sees it: a task in, segments out."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import shutil
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import BadDataError, ConnectionLost, EnvironmentMissing
from mmx.runtime.preprocess import Segment
from mmx.runtime.streaming.segments import LiveSegment, LiveTask
from mmx.runtime.workers.task import Limits, Rejected, Task, error_of
from mmx.runtime.workers.wire import Arrays, Head, pack_frame, receive_frame, unpack_segment

log = logging.getLogger(__name__)
START_S = 120.0  # for a process to load the runtime
CANCEL_S = 2.0  # for a process to give up a task before it is killed
PIPE_BYTES = 2**20  # segments wait in the pipe, not in the parent's memory
CLOSING_STEPS = 3  # of the event loop, in which asyncio closes a process's pipes and then its transport
MODULE = "mmx.runtime.workers.process"
# What a worker needs to find Python, its libraries and its settings; no key or token of the parent's.
PASSED_ON = ("PATH", "HOME", "USER", "TZ", "TMPDIR", "VIRTUAL_ENV", "SYSTEMROOT", "XDG_CACHE_HOME")
PASSED_ON_PREFIXES = ("PYTHON", "LD_", "LC_", "LANG", "OMP_", "OPENBLAS_", "MALLOC_", "ORT_", "OPENVINO_", "COVERAGE_")


@dataclass(frozen=True)
class WorkerSettings:
    """What every worker of a pool is started with.

    Attributes: ``bundle``; ``faces``, ``threads``, ``asr``, ``language``: see ``Preprocessor``; ``limits``.
    """

    bundle: Bundle
    faces: str = "exact"
    threads: int = 1
    limits: Limits = field(default_factory=Limits)
    asr: str = "none"
    language: str | None = None


class Died(Exception):
    """The process ended in the middle of a task. ``begun``: whether it had begun to read the file."""

    def __init__(self, begun: bool) -> None:
        super().__init__()
        self.begun = begun


class Worker:
    """One process. ``start`` makes it, ``segments`` gives it a task, ``stop`` ends it."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._numbers = itertools.count()
        self.usable = True

    @classmethod
    async def start(cls, settings: WorkerSettings) -> Worker:
        """Start a process and wait until it is ready.

        Raises:
            EnvironmentMissing: it could not start, and why.
        """
        limits = settings.limits
        try:
            process = await asyncio.create_subprocess_exec(
                *command(), stdin=PIPE, stdout=PIPE, limit=PIPE_BYTES, env=environment()
            )
        except OSError as e:
            raise EnvironmentMissing(f"a worker cannot start: {e.strerror}", "mmx doctor") from e
        worker = cls(process)
        head: Head = {
            "bundle": str(settings.bundle.path.absolute()),
            "identity": settings.bundle.identity,
            "threads": settings.threads,
            "faces": settings.faces,
            "asr": settings.asr,
            "language": settings.language,
            "limits": limits.to_plain(),
            "parent": os.getpid(),
        }
        try:
            async with asyncio.timeout(START_S):
                await worker._send(head)
                answer, _ = await worker._receive()
        except BaseException as e:
            await worker.stop()
            if isinstance(e, (OSError, EOFError, TimeoutError, BadDataError)):
                hint = f"it has {limits.memory >> 20} MB of address space"
                raise EnvironmentMissing("a worker cannot start", hint) from e
            raise
        if answer.get("kind") != "ready":
            await worker.stop()
            error = error_of(answer)
            raise EnvironmentMissing(f"a worker cannot start: {error.message}", error.hint) from error
        return worker

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether the process is no more, even if its end has not been collected yet."""
        if self._process.returncode is not None or _main_thread_has_ended(self.pid):
            return True
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:  # collected a moment ago
            return True

    async def segments(self, task: Task, seconds: float, stall_s: float) -> AsyncGenerator[Segment, None]:
        """Work on one task and yield its segments as they come.

        Args:
            seconds: of the process's own time, for all of it. stall_s: until the first segment, and between two.

        Raises:
            MmxError: what the process says of the file; Rejected (too_slow). Died: the process did.
        """
        ends = seconds
        finished = begun = False
        number = next(self._numbers)
        try:
            await self._send({"kind": "task", "number": number, **task.to_plain()})
            while True:
                started = monotonic()
                async with asyncio.timeout(min(ends, stall_s)):
                    head, arrays = await self._receive()
                ends -= monotonic() - started
                begun = True
                if head.get("kind") == "begun":
                    continue
                finished = head.get("kind") != "segment"
                if finished:
                    break
                yield unpack_segment(head, arrays)
            if head.get("kind") == "error":
                error = error_of(head)
                if detail := head.get("detail"):
                    log.info("%s\n%s", error.message, detail)
                self.usable = getattr(error, "code", "") != "too_much_memory"
                raise error
        except TimeoutError as e:
            self.usable = False
            most = min(ends, stall_s) if ends > 0 else seconds
            raise Rejected("too_slow", f"{task.shown}: decoding takes more than {most:g} s", "cut it first") from e
        except (OSError, EOFError) as e:
            self.usable = False
            raise Died(begun) from e
        except BadDataError as e:
            if not finished:  # it said something that is no frame
                self.usable = False
                raise Died(begun) from e
            raise
        finally:
            if not finished and self.usable:
                self.usable = False  # where this is cancelled a second time nobody knows what the pipe holds
                self.usable = await asyncio.shield(self._cancel(number))

    async def live(self, task: LiveTask, silent_s: float) -> AsyncGenerator[LiveOpened | LiveSegment, None]:
        """Look at a live source: what it turned out to be, then its windows as they end. ``stop`` ends it.

        Args:
            silent_s: without a word from the process, before it is taken for stuck.

        Raises:
            MmxError: what the process says of the source; ConnectionLost: it broke off. Died: the process did.
        """
        self.usable = False  # for anything else
        try:
            await self._send({"kind": "task", "number": next(self._numbers), "path": task.source.name, "names": {},
                              "live": task.to_plain()})  # fmt: skip
            while True:
                async with asyncio.timeout(silent_s):
                    head, arrays = await self._receive()
                kind = head.get("kind")
                if kind == "segment":
                    yield _live_segment(head, arrays)
                elif kind == "open":
                    yield LiveOpened(bool(head.get("ends")))
                elif kind == "error":
                    if detail := head.get("detail"):
                        log.info("%s", detail)
                    raise error_of(head)
                elif kind == "end":
                    return
        except TimeoutError as e:
            raise ConnectionLost(f"{task.source.name}: nothing came for {silent_s:g} s") from e
        except (OSError, EOFError) as e:
            raise Died(begun=True) from e

    async def stop(self) -> None:
        """End the process and wait for its end."""
        self.usable = False
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        transport = getattr(self._process, "_transport", None)
        if transport is not None:
            transport.close()
            for _ in range(CLOSING_STEPS):
                await asyncio.sleep(0)

    async def _cancel(self, number: int) -> bool:
        """Make the process give up its task; whether it did."""
        try:
            async with asyncio.timeout(CANCEL_S):
                await self._send({"kind": "cancel", "number": number})
                while (await self._receive())[0].get("kind") in ("begun", "segment"):
                    pass
        except (OSError, EOFError, TimeoutError, BadDataError):
            return False
        return True

    async def _send(self, head: Head) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(pack_frame(head))
        await self._process.stdin.drain()

    async def _receive(self) -> tuple[Head, Arrays]:
        assert self._process.stdout is not None
        return await receive_frame(self._process.stdout)


@dataclass(frozen=True)
class LiveOpened:
    """A live source is open. ``ends``: it is a recording."""

    ends: bool


def _live_segment(head: Head, arrays: Arrays) -> LiveSegment:
    """Raises BadDataError where the process says what is none."""
    try:
        facts = head["live"]
        late, counts = float(facts["behind_s"]), (int(facts["dropped"]), int(facts["skipped"]))
    except (KeyError, TypeError, ValueError) as e:
        raise BadDataError(f"a worker sent no window: {e}") from e
    return LiveSegment(unpack_segment(head, arrays), late, *counts)


def command() -> list[str]:
    """What starts a worker."""
    return [_python(), "-m", MODULE]


def environment() -> dict[str, str]:
    """The part of this process's environment that its workers get."""
    return {
        name: value for name, value in os.environ.items() if name in PASSED_ON or name.startswith(PASSED_ON_PREFIXES)
    }


def _python() -> str:
    """The interpreter, also where Python runs inside another program, as in Triton."""
    if "python" in Path(sys.executable or "").name:
        return sys.executable
    own = Path(sys.exec_prefix) / "bin" / "python3"
    return str(own) if own.exists() else shutil.which("python3") or "python3"


def _main_thread_has_ended(pid: int) -> bool:
    """Of a process that was killed the main thread may be gone for a while before the others, and before it is reported
    (proc_pid_stat(5): state Z); False where the system has no /proc.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] in b"ZX"
    except (OSError, IndexError):
        return False
