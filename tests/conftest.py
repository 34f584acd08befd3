"""Fixtures that every test folder shares."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of published layouts, the weight filler and expected outputs (see its README)."""
    return Path(__file__).parent / "reference"
