"""What a release is read as before any media are opened: one task for each recording, and what is left out and why."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Compat = Literal["correct", "upstream"]
Label = str | tuple[int, ...]
"""IEMOCAP: a code such as ``neu``. MOSEI: 0 or 1 for each emotion."""

SAFE_NAME = re.compile(r"[A-Za-z0-9_-]{1,200}")


@dataclass(frozen=True)
class Utterance:
    """One stretch of a recording: seconds, what is said in it (stripped), and its label."""

    name: str
    start: float
    end: float
    text: str
    label: Label


@dataclass(frozen=True)
class Task:
    """One recording (a dialogue of IEMOCAP, a video of MOSEI): its media and its utterances in the release's order."""

    name: str
    video: Path
    audio: Path
    utterances: tuple[Utterance, ...]


@dataclass(frozen=True)
class LeftOut:
    """Something that is not in the output: an utterance, a file or a line of one, and why."""

    what: str
    why: str


@dataclass
class Plan:
    """All recordings of the release in ``root``, in order of their names, and what is left out of it so far."""

    root: Path
    tasks: list[Task] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    def leave_out(self, what: str | Path, why: str) -> None:
        """Note something that will not be in the output; files are named as they lie in the release."""
        self.left_out.append(LeftOut(str(what), why.replace(f"{self.root}/", "")))


def times_fault(start: float, end: float) -> str:
    """Why a start and an end in seconds make no utterance; empty where they do."""
    if not (abs(start) < 1e6 and abs(end) < 1e6):  # also false for NaN
        return f"its times are {start} and {end} s"
    return "" if start < end and end > 0 else f"it ends at {end} s and starts at {start} s"
