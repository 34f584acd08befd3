"""Patience: what a slow machine takes long for still comes, and who waits longer waits in vain."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

PATIENCE_S = 300


def until(true: Callable[[], Any], what: str) -> None:
    """Wait for it."""
    ends = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < ends, f"waited in vain: {what}"
        time.sleep(0.02)
