"""What this process may use of the machine it runs on."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from platformdirs import user_cache_path

from mmx.runtime.errors import EnvironmentMissing

CGROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores this process may keep busy: those it may run on, and no more than a container's CPU quota pays for."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = min(_quotas(CGROUPS, Path("/proc/self/cgroup")), default=allowed)
    return max(1, min(allowed, int(quota)))


def _quotas(root: Path, membership: Path) -> Iterator[float]:
    """The CPU quotas of the process's control group and of those around it, in cores; version 2 and version 1.

    Inside a container the group is often the root of what is mounted, whatever its name outside.
    """
    try:
        lines = membership.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounts = [root / controllers, root / "cpu,cpuacct", root / "cpu"] if controllers else [root, root / "unified"]
        inner = PurePosixPath(group.lstrip("/"))
        for folder in {mount / each for mount in mounts for each in (inner, *inner.parents)}:
            if (quota := _quota(folder)) is not None:
                yield quota


def _quota(folder: Path) -> float | None:
    """Cores that a group's ``cpu.max`` (version 2) or ``cpu.cfs_*_us`` (version 1) pays for; None: no limit there."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii").strip() for name in ("quota", "period")
            )
        return int(quota) / int(period) if quota not in ("max", "-1") and int(period) > 0 else None
    except (OSError, ValueError):
        return None


def cpu_name() -> str:
    """The processor's model, as far as the system reports it."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def cpu_flags() -> set[str]:
    """The processor's extensions in Linux's names, such as ``avx512_bf16``; empty where not reported."""
    info = _cpuinfo()
    return set((info.get("flags") or info.get("Features") or "").split())


def _cpuinfo() -> dict[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def cache_folder() -> Path | None:
    """Where mmx keeps what it can make again: ``MMX_CACHE``, or mmx in the platform's folder for caches.

    It may not exist yet. None for a user without a home.
    """
    if given := os.environ.get("MMX_CACHE"):
        return Path(given)
    folder = user_cache_path("mmx", appauthor=False)
    return folder if folder.is_absolute() else None  # "~/.cache" where nothing says what ~ is


def user_cache(name: str) -> Path:
    """The folder ``name`` in the user's cache.

    Raises:
        EnvironmentMissing: this user has no home, and ``MMX_CACHE`` is not set.
    """
    folder = cache_folder()
    if folder is None:
        raise EnvironmentMissing("this user has no home folder to keep a cache in", "set MMX_CACHE to a folder")
    return folder / name
