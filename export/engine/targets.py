"""The GPUs that an engine can be built for."""

from __future__ import annotations

from dataclasses import dataclass

from mmx.runtime.device.probe import find_gpu
from mmx.runtime.errors import EnvironmentMissing, UsageError

# Compute capability by the name a user knows the card by.
CARDS = {
    "rtx2080": "7.5",
    "rtx2080ti": "7.5",
    "t4": "7.5",
    "a100": "8.0",
    "rtx3080": "8.6",
    "rtx3090": "8.6",
    "a10": "8.6",
    "rtx4080": "8.9",
    "rtx4090": "8.9",
    "l4": "8.9",
    "l40s": "8.9",
    "h100": "9.0",
    "h200": "9.0",
    "b200": "10.0",
    "rtx5080": "12.0",
    "rtx5090": "12.0",
    "dgx-spark": "12.1",
}
DEFAULT = "rtx4090"  # the paper's card; taken where there is no GPU to build for


@dataclass(frozen=True)
class Target:
    """What to build for: the name as asked, and the compute capability ("" = portable, "native" resolves to one)."""

    name: str
    capability: str

    @property
    def is_portable(self) -> bool:
        """Whether one engine is to serve every GPU that the flavour knows."""
        return not self.capability

    @property
    def has_fp8(self) -> bool:
        """Whether every GPU that it stands for computes FP8; a portable engine runs from 8.0 on."""
        return tuple(map(int, (self.capability or "8.0").split("."))) >= (8, 9)


def parse_target(text: str | None) -> Target:
    """``rtx4090``, ``sm89``, ``8.9``, ``portable`` or ``native``; None: native where there is a GPU, else ``DEFAULT``.

    Raises:
        UsageError: no such target.
        EnvironmentMissing: native, and there is no GPU.
    """
    if text is None:
        gpu = find_gpu()
        return Target(DEFAULT, CARDS[DEFAULT]) if gpu is None else Target("native", gpu.capability)
    name = text.lower().replace(" ", "").replace("_", "-")
    if name == "portable":
        return Target(name, "")
    if name == "native":
        gpu = find_gpu()
        if gpu is None:
            raise EnvironmentMissing(
                "--target native needs an NVIDIA GPU and its driver here",
                f"name the card to deploy on, such as --target {DEFAULT}",
            )
        return Target(name, gpu.capability)
    if name in CARDS:
        return Target(name, CARDS[name])
    digits = name.removeprefix("sm").replace(".", "")
    if digits.isdigit() and 2 <= len(digits) <= 3:
        return Target(f"sm{digits}", f"{digits[:-1]}.{digits[-1]}")
    raise UsageError(f"there is no target {text!r}", f"use portable, native, sm89 or one of {', '.join(CARDS)}")
