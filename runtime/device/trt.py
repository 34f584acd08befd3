"""The two packages that are TensorRT: ``tensorrt`` (10, 11) and ``tensorrt-rtx``. What differs between them is here."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from mmx.runtime.errors import EnvironmentMissing, UsageError, missing_extra
from mmx.runtime.extras import install_command


@dataclass(frozen=True)
class Flavour:
    """One of the two.

    Attributes:
        name, module, extra: as in --flavour, as imported, and as installed (``mmx[extra]``).
        title: for messages.
        packages: the distributions that bring the module, for its version without importing it.
        capabilities: those it builds for without such a GPU at hand; empty: it builds only for the GPU that is there.
    """

    name: str
    module: str
    extra: str
    title: str
    packages: tuple[str, ...]
    capabilities: tuple[str, ...]

    @property
    def installed_version(self) -> str | None:
        """The installed version, or None; the library is not loaded for it."""
        if not self._is_there():
            return None
        for package in self.packages:
            try:
                return version(package)
            except PackageNotFoundError:
                continue
        return str(import_module(self.module).__version__)

    def _is_there(self) -> bool:
        """Whether there is such a module; a folder that only has its name has no file to load from."""
        spec = find_spec(self.module)
        return spec is not None and spec.origin is not None

    def load(self) -> Any:
        """Import the module.

        Raises:
            EnvironmentMissing: it is not installed, or its libraries cannot be loaded.
        """
        if not self._is_there():
            raise missing_extra(self.title, self.extra)
        try:
            return import_module(self.module)
        except (ImportError, OSError) as e:
            raise EnvironmentMissing(
                f"{self.title} is installed but cannot be loaded: {e}",
                install_command(self.extra).replace("install", "install --force-reinstall", 1),
            ) from e


RTX = Flavour(
    "tensorrt-rtx",
    "tensorrt_rtx",
    "tensorrt-rtx",
    "TensorRT for RTX",
    ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx"),
    ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1"),
)
FULL = Flavour(
    "tensorrt",
    "tensorrt",
    "tensorrt",
    "TensorRT",
    ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    (),
)
FLAVOURS = {flavour.name: flavour for flavour in (FULL, RTX)}


def flavour(name: str) -> Flavour:
    """The flavour of that name. Raises UsageError for another name."""
    if name not in FLAVOURS:
        raise UsageError(f"there is no TensorRT flavour {name!r}", f"use auto, {' or '.join(FLAVOURS)}")
    return FLAVOURS[name]
