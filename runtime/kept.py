"""Small results in the user's cache folder, by key: what was measured here, and can be measured again."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmx.runtime.errors import MmxError
from mmx.runtime.files import write_text
from mmx.runtime.machine import cache_folder

MOST = 200  # results in one file: machines, versions, bundles
LIMIT_BYTES = 2**18
ENGINE_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12")


@dataclass(frozen=True)
class Kept:
    """One JSON file of results. ``schema_version``: of their form; a file of another is as good as empty.

    Nothing here is an error: a file that is missing, damaged or cannot be written means that it is measured again.
    """

    name: str
    schema_version: int

    @property
    def path(self) -> Path | None:
        """Where the file is; None for a user without a home."""
        folder = cache_folder()
        return folder and folder / self.name

    def get(self, key: str) -> dict[str, Any]:
        """What was kept under a key, as it was read: the caller checks it. Empty: nothing."""
        return self._read().get(key, {})

    def put(self, key: str, content: dict[str, Any]) -> None:
        """Keep ``content`` (plain JSON values) under a key; the oldest of many goes."""
        if self.path is None:
            return
        results = self._read()
        results.pop(key, None)
        results[key] = content
        newest = dict(list(results.items())[-MOST:])
        with suppress(MmxError):
            write_text(self.path, json.dumps({"schema_version": self.schema_version, "results": newest}, indent=1))

    def _read(self) -> dict[str, dict[str, Any]]:
        path = self.path
        try:
            if path is None or path.is_symlink() or path.stat().st_size > LIMIT_BYTES:
                return {}
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["schema_version"] != self.schema_version:
                return {}
            return {str(key): kept for key, kept in content["results"].items() if isinstance(kept, dict)}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return {}


def engine_versions() -> tuple[tuple[str, str], ...]:
    """The packages that run graphs, with their versions, as far as they are installed."""
    from importlib.metadata import PackageNotFoundError, version  # 25 ms that few starts need

    found = []
    for package in ENGINE_PACKAGES:
        with suppress(PackageNotFoundError):
            found.append((package, version(package)))
    return tuple(found)
