"""``mmx serve`` in a process of its own, and what can be seen of it from outside: memory, processes, its last words."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from mmx.runtime.errors import EnvironmentMissing

STOP_S = 60.0


@dataclass
class ServerProcess:
    """A server: where it listens, the lines it has printed, and what it left behind when it had ended."""

    process: subprocess.Popen[str]
    url: str
    lines: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def rss_mb(self) -> float:
        """Resident memory of the server and its workers."""
        return sum(_rss(pid) for pid in (self.process.pid, *self.workers())) / 2**20

    def workers(self) -> list[int]:
        """Its workers."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def terminate(self) -> None:
        """SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Its exit code."""
        return self.process.wait(STOP_S)


@contextmanager
def serving(bundle: Path, options: Sequence[str]) -> Iterator[ServerProcess]:
    """Start ``mmx serve`` on a free port; stop it afterwards.

    Raises:
        EnvironmentMissing: it did not start.
    """
    command = [sys.executable, "-m", "mmx.cli.main", "serve", str(bundle), "--port", "0", *options]
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"TMPDIR": folder}
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            start_new_session=True,
        )
        yield from _running(process, Path(folder))


def _running(process: subprocess.Popen[str], folder: Path) -> Iterator[ServerProcess]:
    assert process.stdout is not None
    server = ServerProcess(process, "")
    for line in process.stdout:
        server.lines.append(line.rstrip())
        if line.startswith("listening on "):
            server.url = line.split()[-1]
            break
    drain = threading.Thread(target=lambda: server.lines.extend(process.stdout or ()), daemon=True)
    drain.start()
    try:
        if not server.url:
            raise EnvironmentMissing(
                "the server did not start: " + " ".join(server.lines[-2:]), "pip install 'mmx[serve]'"
            )
        yield server
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        drain.join(5)
        server.left += [path.name for path in folder.iterdir()] + _processes_of(process.pid)


def _processes_of(session: int) -> list[str]:
    """The processes that are left of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, _, rest = stat.read_text().rpartition(")")
            if rest.split()[3] == str(session):
                found.append(f"process {name})")
    return found


def _rss(pid: int) -> int:
    """Bytes; 0 for a process that has just ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0
