"""Run a command as on an older CPU: x86-64 with AVX2 and FMA, without AVX-512, VNNI, BF16, FP16 and AMX.

    python tests/older_cpu/run.py python -m pytest tests/calibration

The command sees through CPUID what such a CPU would answer (older_cpu.c), and so does every library in it. Exits 75
with the reason where this machine cannot do that; otherwise with the command's own status.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("older_cpu.c")
NOT_HERE = 75  # EX_TEMPFAIL


def obstacle() -> str:
    """Why this machine cannot stand for an older one; "" if it can."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return "trapping CPUID needs Linux on x86-64"
    if " cpuid_fault " not in Path("/proc/cpuinfo").read_text().replace("\n", " "):
        return "this CPU or its hypervisor cannot trap CPUID (no cpuid_fault in /proc/cpuinfo)"
    return "" if shutil.which("gcc") else "there is no gcc to compile the trap"


def older_environment(folder: Path) -> dict[str, str]:
    """This process's environment, and in it what makes a child see an older CPU; the library is built in ``folder``."""
    library = folder / "older_cpu.so"
    if library.name in os.environ.get("LD_PRELOAD", ""):  # this process sees one already, and so do its children
        return dict(os.environ)
    if not library.exists():
        command = ["gcc", "-O2", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o", library, SOURCE, "-ldl"]
        subprocess.run(command, check=True)
    preloaded = [os.environ.get("LD_PRELOAD", ""), str(library)]
    return {**os.environ, "LD_PRELOAD": ":".join(filter(None, preloaded))}


def main() -> int:
    """Run the command of the arguments."""
    if reason := obstacle():
        print(f"older_cpu: not run: {reason}", file=sys.stderr)
        return NOT_HERE
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(sys.argv[1:], env=older_environment(Path(folder))).returncode


if __name__ == "__main__":
    sys.exit(main())
