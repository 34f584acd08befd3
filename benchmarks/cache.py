"""The bench's folder in the user's cache: bundles of seeded systems and generated clips, under keys.

Several checkouts and environments share it, each with keys of its own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mmx.runtime.machine import user_cache

# What bundles and peers' graphs go through.
PACKAGES = ("torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime", "openvino", "numpy", "sentencepiece")
UNUSED_S = 30 * 24 * 3600  # after which a folder goes


def bench_folder() -> Path:
    """The bench's folder in the user's cache. Made when something is put there."""
    return user_cache("bench")


def weights_key(*parts: str, code: Sequence[str]) -> str:
    """12 hexadecimal digits that change with ``parts``, the ``code`` (names of packages), and what it goes through."""
    digest = hashlib.sha256("\0".join([*parts, *(f"{name} {_version(name)}" for name in PACKAGES)]).encode())
    for package in code:
        for root in import_module(package).__path__:
            for source in sorted(Path(root).glob("*.py")):
                digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:12]


def keyed_folder(name: str, key: str) -> Path:
    """``<cache>/<name>-<key>``, noted as used now. Folders of that name that nothing used for a month go away."""
    parent = bench_folder()
    wanted = parent / f"{name}-{key}"
    if wanted.is_dir():
        os.utime(wanted)
    for path in parent.glob(f"{name}-*"):
        suffix = path.name.removeprefix(f"{name}-")
        if path == wanted or len(suffix) != len(key) or path.is_symlink() or not path.is_dir():
            continue
        if time.time() - path.stat().st_mtime > UNUSED_S:
            shutil.rmtree(path, ignore_errors=True)
    return wanted


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
