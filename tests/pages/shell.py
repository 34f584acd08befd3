"""A reader at a terminal: runs commands as they are written, leaves servers running, and ends them at last."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

# What a server says when it is ready, and the port that it listens on unless told otherwise.
SERVERS = {"mmx serve": ("listening on", 8000), "uvicorn": ("Uvicorn running on", 8000), "celery": (" ready.", None)}
PATIENCE_S = 1200
MAY_LACK = ("ffmpeg", "curl", "openssl")  # programs of the system that a machine need not have


class Shell:
    """Commands in one folder, with the programs of this environment first on the path."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        self.variables = {**os.environ, "PATH": path, "PYTHONPATH": str(folder), **variables}
        self.servers: list[subprocess.Popen[str]] = []

    def run(self, command: str) -> None:
        """Run a command to its end, or a server until it is ready. Fails where it fails."""
        server = next((name for name in SERVERS if command.startswith(name)), None)
        if server is not None:
            self._serve(command, *SERVERS[server])
            return
        program = command.split()[0]
        if program in MAY_LACK and shutil.which(program, path=self.variables["PATH"]) is None:
            return
        line = ["bash", "-o", "pipefail", "-c", command]
        done = subprocess.run(
            line, cwd=self.folder, env=self.variables, capture_output=True, text=True, timeout=PATIENCE_S
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"

    def python(self, code: str) -> None:
        """Run Python code."""
        line = [sys.executable, "-c", code]
        done = subprocess.run(
            line, cwd=self.folder, env=self.variables, capture_output=True, text=True, timeout=PATIENCE_S
        )
        assert done.returncode == 0, f"{code}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"

    def close(self) -> None:
        """End the servers."""
        for server in self.servers:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(60)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()

    def _serve(self, command: str, ready: str, port: int | None) -> None:
        self.close()
        self.servers.clear()
        if port is not None:
            given = re.search(r"--port (\d+)", command)
            _require_free(int(given[1]) if given else port)
        server = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=self.folder,
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.servers.append(server)
        assert server.stdout is not None
        said = []
        impatient = threading.Timer(PATIENCE_S, server.kill)
        impatient.start()
        for line in server.stdout:
            said.append(line)
            if ready in line:
                impatient.cancel()
                threading.Thread(target=server.stdout.read, daemon=True).start()  # so that it never waits for a reader
                return
        impatient.cancel()
        pytest.fail(f"{command} ended\n{''.join(said)[-3000:]}")


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            pytest.skip(f"port {port}, which the page uses, is in use here")
