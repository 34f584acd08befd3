"""The machine a run was made on: what a reader needs to judge its figures, and nothing that names the machine."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mmx.runtime.machine import cpu_flags, cpu_name, usable_cores

PACKAGES = ("mmx", "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "torch", "onnx", "av", "facenet-pytorch")
# Instruction sets that decide how fast a matrix product is.
FLAGS = (
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "sve",
)


@dataclass(frozen=True)
class Environment:
    """CPU model, flags that matter, cores this process may use, memory, versions, and the load when the run began.

    ``commit``: what ``git describe`` calls the checkout that mmx runs from ("" where it is none).
    """

    cpu: str
    flags: tuple[str, ...]
    cores: int
    memory_gb: float
    system: str
    python: str
    versions: dict[str, str]
    load_1min: float | None
    commit: str = ""

    def lines(self) -> list[str]:
        """The block as a report prints it."""
        packages = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        commit = f" (commit {self.commit})" if self.commit else ""
        load = "" if self.load_1min is None else f", load {self.load_1min:.2f} at the start"
        return [
            f"{self.cpu}, {self.cores} cores usable, {self.memory_gb:.0f} GB{load}",
            f"instruction sets: {' '.join(self.flags) or 'none of those that matter'}",
            f"{self.system}, Python {self.python}, {packages}{commit}",
        ]


def describe() -> Environment:
    """The environment of this process."""
    flags = cpu_flags()
    return Environment(
        cpu=cpu_name(),
        flags=tuple(f for f in FLAGS if f in flags),
        cores=usable_cores(),
        memory_gb=_memory_gb(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        versions={name: number for name in PACKAGES if (number := _version(name))},
        load_1min=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        commit=_commit(),
    )


def peak_rss_mb() -> float | None:
    """Largest resident memory of this process so far, in MB; None where the system does not say.

    Linux's getrusage counts what the process that started this one held, so /proc is asked first.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        status = ""
    if found := re.search(r"^VmHWM:\s+(\d+) kB", status, re.M):
        return int(found[1]) / 2**10
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _commit() -> str:
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return ""
    describe = ["git", "-C", str(root), "describe", "--always", "--dirty", "--tags", "--abbrev=12"]
    try:
        done = subprocess.run(describe, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _memory_gb() -> float:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):
        return 0.0


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
