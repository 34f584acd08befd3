"""What this process may use of the machine it runs on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from platformdirs import user_cache_path

from mmx.runtime.errors import EnvironmentMissing


def usable_cores() -> int:
    """Cores this process may run on, which containers make fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """The processor's model, as far as the system tells it."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def cpu_flags() -> set[str]:
    """The processor's extensions in Linux's names, such as ``avx512_bf16``; empty where the system does not tell."""
    told = _cpuinfo()
    return set((told.get("flags") or told.get("Features") or "").split())


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
