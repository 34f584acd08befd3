"""The bench's folder in the user's cache: bundles of seeded systems and generated clips, under keys."""

from __future__ import annotations

import hashlib
import shutil
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from mmx.runtime.machine import user_cache

# What a bundle's graph follows from: the code that builds and exports it, and the exporters it goes through.
CODE = ("mmx.models", "mmx.export", "mmx.export.folding")
PACKAGES = ("torch", "onnx", "onnxscript")


def bench_folder() -> Path:
    """The bench's folder in the user's cache. Made when something is put there."""
    return user_cache("bench")


def weights_key(*parts: str) -> str:
    """12 hexadecimal digits that change with ``parts``, the code behind a bundle, and the packages that export it."""
    digest = hashlib.sha256("\0".join([*parts, *(f"{name} {version(name)}" for name in PACKAGES)]).encode())
    for package in CODE:
        for root in import_module(package).__path__:
            for source in sorted(Path(root).glob("*.py")):
                digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:12]


def keyed_folder(name: str, key: str) -> Path:
    """``<cache>/<name>-<key>``. Folders of the same name with another key are out of date and go away."""
    parent = bench_folder()
    wanted = parent / f"{name}-{key}"
    for path in parent.glob(f"{name}-*"):
        suffix = path.name.removeprefix(f"{name}-")
        if path != wanted and len(suffix) == len(key) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
    return wanted
