"""``People``: which of several people a prediction is about (``--people``)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.errors import UsageError
from mmx.runtime.media.faces.search import EVERY

KINDS = ("largest", "left", "right", "center", "each", "speaker")
HALVES = {"left": (0.0, 0.0, 0.5, 1.0), "right": (0.5, 0.0, 0.5, 1.0)}
OF_ONE = ("each", "speaker")  # are about one person's face, and nothing in its place
OF_ALL = ("center", "each", "speaker")  # choose among all the faces of a frame
HINT = f"{', '.join(KINDS)}, or region=X,Y,W,H in fractions of the frame, such as region=0,0,0.5,1"


@dataclass(frozen=True)
class People:
    """A choice of people.

    Attributes:
        kind: ``largest``: the largest face of each frame. ``left``, ``right``, ``region``: the largest face in that
            part of the frame; nothing else of the frame is looked at. ``center``: the face nearest to the middle.
            ``each``: everybody, one prediction a person. ``speaker``: whoever speaks.
        part: left, top, width and height of the part of the frame that is looked at, in fractions; None: all of it.
    """

    kind: str = "largest"
    part: tuple[float, float, float, float] | None = None

    @classmethod
    def parse(cls, text: str, faces: str = "exact") -> People:
        """The choice that the option's value names.

        Args:
            faces: the face search that it goes with (docs/faces.md).

        Raises:
            UsageError: there is no such choice, the region is none, or the search does not find what it chooses from.
        """
        if not isinstance(text, str):
            raise UsageError(f"people is {type(text).__name__}", f"give {HINT}")
        name, given, values = text.partition("=")
        if name == "region" and given:
            return cls("region", _region(values))
        if text not in KINDS:
            raise UsageError(f"people cannot be {text!r}", f"it can be {HINT}")
        if text in OF_ALL and faces not in EVERY:
            hint = f"use the search {' or '.join(EVERY)} with it"
            raise UsageError(f"people {text} chooses among all faces, and the search {faces} finds the largest", hint)
        return cls(text, HALVES.get(text))

    @property
    def of_all(self) -> bool:
        """Whether all the faces of a frame must be found."""
        return self.kind in OF_ALL

    def seen_part(self, frame: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        """The part of a frame [h, w, 3] that is looked at (at least a pixel), and its left and top in pixels."""
        if self.part is None:
            return frame, (0, 0)
        height, width = frame.shape[:2]
        x, y, w, h = self.part
        left, top = min(round(x * width), width - 1), min(round(y * height), height - 1)
        right, bottom = max(round((x + w) * width), left + 1), max(round((y + h) * height), top + 1)
        return frame[top:bottom, left:right], (left, top)


def _region(values: str) -> tuple[float, float, float, float]:
    try:
        x, y, w, h = (float(value) for value in values.split(","))
    except ValueError:
        raise UsageError(f"region={values} is not four numbers", f"people can be {HINT}") from None
    inside = all(math.isfinite(value) for value in (x, y, w, h)) and x >= 0 and y >= 0 and x + w <= 1 and y + h <= 1
    if not (inside and w > 0 and h > 0):
        raise UsageError(f"region={values} is not a part of the frame", "left, top, width, height, each from 0 to 1")
    return x, y, w, h
