"""The decoding processes as the server sees them: a job in, segments out; a process that fails is replaced."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from mmx.runtime.errors import BadDataError, EnvironmentMissing
from mmx.runtime.preprocess import Segment
from mmx.serving.server.refusal import Refusal
from mmx.serving.server.settings import Settings
from mmx.serving.server.wire import Arrays, Head, pack_frame, receive_frame, unpack_segment
from mmx.serving.server.worker import CANCEL

START_S = 120.0  # for a process to load the runtime
CANCEL_S = 2.0  # for a process to give up a job before it is killed
FAILED_STARTS = 3  # in a row, and with no process left: the server is not ready
RESPAWN_S = 1.0  # before trying again where a process could not even start
PIPE_BYTES = 2**20  # segments wait in the pipe, not in the server's memory


@dataclass(frozen=True)
class Job:
    """One upload: the folder that holds it as ``video``, and what is said in it (``transcript``: a file's name)."""

    folder: Path
    text: str | None = None
    transcript: str | None = None
    window: float | None = None

    def head(self) -> Head:
        """The frame that gives it to a process."""
        return {
            "kind": "job",
            "folder": str(self.folder),
            "text": self.text,
            "transcript": self.transcript,
            "window": self.window,
        }


class Decoder:
    """One process. ``start`` makes it, ``segments`` gives it a job, ``stop`` ends it."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.usable = True

    @classmethod
    async def start(cls, settings: Settings) -> Decoder:
        """Start a process and wait until it is ready.

        Raises:
            EnvironmentMissing: it could not start, and why.
        """
        limits = settings.limits
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mmx.serving.server.worker", stdin=PIPE, stdout=PIPE, limit=PIPE_BYTES
        )
        decoder = cls(process)
        head: Head = {
            "bundle": str(settings.bundle.absolute()),
            "threads": settings.worker_threads,
            "faces": settings.faces,
            "memory": limits.worker_bytes,
            "media_s": limits.media_s,
            "media_pixels": limits.media_pixels,
        }
        try:
            async with asyncio.timeout(START_S):
                await decoder._send(head)
                answer, _ = await decoder._receive()
        except BaseException as e:
            await decoder.stop()
            if isinstance(e, (OSError, EOFError, TimeoutError, BadDataError)):
                raise EnvironmentMissing(
                    "a decoding process could not start", f"it has {limits.worker_bytes >> 20} MB of address space"
                ) from e
            raise
        if answer.get("kind") != "ready":
            await decoder.stop()
            raise EnvironmentMissing(f"a decoding process could not start: {answer.get('message')}")
        return decoder

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

    async def segments(self, job: Job, seconds: float) -> AsyncGenerator[Segment, None]:
        """Work on one job and yield its segments as they come; ``seconds`` is the time for the process's part.

        Raises:
            Refusal: what the process says of the file, or ``decoder_crashed``, or ``too_slow``.
        """
        left = seconds
        loop = asyncio.get_running_loop()
        finished = False
        try:
            await self._send(job.head())
            while True:
                started = loop.time()
                async with asyncio.timeout(left):
                    head, arrays = await self._receive()
                left -= loop.time() - started
                finished = head.get("kind") != "segment"
                if finished:
                    break
                yield unpack_segment(head, arrays)
            if head.get("kind") == "error":
                self.usable = head.get("code") not in ("too_much_memory", "server_error")
                raise Refusal(int(head["status"]), str(head["code"]), str(head["message"]), str(head["hint"]))
        except TimeoutError as e:
            self.usable = False
            raise Refusal(422, "too_slow", f"decoding the file takes more than {seconds:g} s", "cut it first") from e
        except (OSError, EOFError, BadDataError) as e:
            self.usable = False
            raise Refusal(
                422, "decoder_crashed", "the decoder crashed on this file", "convert it to MP4 (H.264, AAC) first"
            ) from e
        finally:
            if not finished and self.usable:
                self.usable = False  # where this is cancelled a second time nobody knows what the pipe holds
                self.usable = await asyncio.shield(self._cancel())

    async def stop(self) -> None:
        """End the process and wait for its end."""
        self.usable = False
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        transport = getattr(self._process, "_transport", None)
        if transport is not None:
            transport.close()

    async def _cancel(self) -> bool:
        """Make the process give up its job; whether it did."""
        try:
            self._process.send_signal(CANCEL)
            async with asyncio.timeout(CANCEL_S):
                while (await self._receive())[0].get("kind") == "segment":
                    pass
                await self._send({"kind": "settle"})
                settled, _ = await self._receive()
        except (ProcessLookupError, OSError, EOFError, TimeoutError, BadDataError):
            return False
        return settled.get("kind") == "settled"

    async def _send(self, head: Head) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(pack_frame(head))
        await self._process.stdin.drain()

    async def _receive(self) -> tuple[Head, Arrays]:
        assert self._process.stdout is not None
        return await receive_frame(self._process.stdout)


class Decoders:
    """A fixed number of decoding processes. A job waits for a free one; what fails is replaced at once.

    Args:
        on_replaced: called with the reason each time a process is replaced.
    """

    def __init__(self, settings: Settings, on_replaced: Callable[[str], None] = lambda reason: None) -> None:
        self._settings = settings
        self._on_replaced = on_replaced
        self._free: asyncio.Queue[Decoder] = asyncio.Queue()
        self._all: set[Decoder] = set()
        self._starting: set[asyncio.Task[None]] = set()
        self._closing = False
        self._failed_starts = 0
        self.waiting = 0

    async def open(self) -> None:
        """Start all processes.

        Raises:
            EnvironmentMissing: one could not start.
        """
        async with asyncio.TaskGroup() as group:
            started = [group.create_task(Decoder.start(self._settings)) for _ in range(self._settings.workers)]
        for task in started:
            self._add(task.result())

    @property
    def alive(self) -> bool:
        """Whether there is a process, or will be in a moment: not when none is left and none can be started."""
        return bool(self._all) or self._failed_starts < FAILED_STARTS

    @property
    def pids(self) -> list[int]:
        """Their numbers."""
        return sorted(decoder.pid for decoder in self._all)

    async def segments(self, job: Job) -> AsyncGenerator[Segment, None]:
        """Work on one job, on the next process that is free; see ``Decoder.segments``."""
        async with self._one() as decoder:
            segments = decoder.segments(job, self._settings.limits.worker_s)
            try:
                async for segment in segments:
                    yield segment
            finally:
                await segments.aclose()

    async def close(self) -> None:
        """End all processes."""
        self._closing = True
        for task in self._starting:
            task.cancel()
        await asyncio.gather(*self._starting, *(decoder.stop() for decoder in self._all), return_exceptions=True)
        self._all.clear()

    @asynccontextmanager
    async def _one(self) -> AsyncIterator[Decoder]:
        """A process that nobody else uses; afterwards the next may have it, or its successor."""
        self.waiting += 1
        try:
            while (decoder := await self._free.get()).has_ended:  # killed while it was idle: no file's fault
                self._discard(decoder, "ended")
        finally:
            self.waiting -= 1
        reason = "crashed"
        try:
            yield decoder
        except Refusal as e:
            reason = e.code
            raise
        except BaseException:
            reason = "cancelled"
            raise
        finally:
            if decoder.usable:
                self._free.put_nowait(decoder)
            else:
                self._discard(decoder, reason)

    def _discard(self, old: Decoder, reason: str) -> None:
        """Have another process take its place."""
        self._all.discard(old)
        self._on_replaced(reason)
        task = asyncio.create_task(self._started_again(old))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def _started_again(self, old: Decoder) -> None:
        """Try until there is a new process: the machine may be short of memory only for now."""
        await old.stop()
        while not self._closing:
            try:
                self._add(await Decoder.start(self._settings))
                self._failed_starts = 0
                return
            except (EnvironmentMissing, OSError):
                self._failed_starts += 1
                await asyncio.sleep(RESPAWN_S)

    def _add(self, decoder: Decoder) -> None:
        self._all.add(decoder)
        self._free.put_nowait(decoder)


def _main_thread_has_ended(pid: int) -> bool:
    """Of a process that was killed the main thread may be gone for a while before the others, and before it is reported
    (proc_pid_stat(5): state Z); False where the system has no /proc.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] in b"ZX"
    except (OSError, IndexError):
        return False
