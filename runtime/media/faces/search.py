"""Ways to find the largest face of a frame: exactly, the largest faces first, or near the last frame's face first.

``exact`` is what facenet-pytorch gives. The others are for speed, and may choose another face or another box; what
each costs and saves is in docs/faces.md.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.errors import UsageError
from mmx.runtime.media.faces.boxes import Boxes, pixel_rectangles, squared
from mmx.runtime.media.faces.cascade import CELL, NOTHING, Cascade, Detections, Proposals
from mmx.runtime.media.faces.resample import IntegralImage

SEARCHES = ("exact", "fast", "large", "track")
EVERY = ("exact", "large")  # can find all the faces of a frame
FIRST_LOOK = 1 / 8  # of the frame's shorter side: the smallest face that a search for the largest begins with
WIDENED = 1 / 3  # what that shrinks to where nothing is found
REACH = 1 / 2  # a face is also proposed by windows of other sizes; those smaller than this part of it do not matter
LARGE = 1 / 8  # of the frame's shorter side: the smallest face that ``large`` sees
SURE = 0.95  # a face near the last one is taken for the same from this probability on


class FaceSearch:
    """Finds the faces of the frames of a video, given in order: all of them, or (not ``exact``) the largest ones.

    Args:
        how: ``exact``: the whole pyramid. ``fast``: its levels from the largest faces down, until a face is found that
            the remaining levels are too fine for; a frame without a face costs a little more than exactly. ``large``:
            the same, but faces under 1/8 of the shorter side are not seen. ``track``: about the last frame's face
            first, then as ``fast``.
        every: find all faces that ``exact`` or ``large`` can see, not the largest alone.

    Raises:
        UsageError: ``every`` with a search that looks for the largest face alone.
    """

    def __init__(self, cascade: Cascade, how: str, *, every: bool = False) -> None:
        if every and how not in EVERY:
            raise UsageError(f"the face search {how!r} looks for the largest face alone", f"use {' or '.join(EVERY)}")
        self._cascade = cascade
        self._how = how
        self._every = every
        self._last: Boxes | None = None  # [1, 4]

    def __call__(self, frame: NDArray[np.uint8]) -> Detections:
        """Faces of one RGB frame [h, w, 3], the largest among them."""
        if self._how == "exact":
            return self._cascade(frame)
        if self._how != "track":
            return self._largest_first(frame)
        found = self._about_the_last(frame)
        if not len(found.boxes):
            found = self._largest_first(frame)
        self._last = found.boxes[[largest(found)]] if len(found.boxes) else None
        return found

    def _largest_first(self, frame: NDArray[np.uint8]) -> Detections:
        shorter = min(frame.shape[:2])
        scales = self._cascade.scales(frame)
        if self._how == "large":
            scales = [scale for scale in scales if CELL / scale >= LARGE * shorter]
        if not scales:
            return NOTHING
        image = IntegralImage(frame)
        if self._every:
            return self._cascade.decide(image, [self._cascade.propose(image, scale) for scale in scales])
        levels: list[Proposals] = []
        found, enough = NOTHING, FIRST_LOOK * shorter
        while scales:
            levels.append(self._cascade.propose(image, scales.pop()))
            if scales and CELL / scales[-1] >= enough:
                continue
            found = self._cascade.decide(image, levels[::-1])
            if not len(found.boxes):
                enough *= WIDENED
            elif scales and CELL / scales[-1] < (enough := REACH * math.sqrt(areas(found).max())):
                break
        return found

    def _about_the_last(self, frame: NDArray[np.uint8]) -> Detections:
        """O-Net on the last box, and on the box that it makes of that; nothing unless it is sure of both."""
        found = NOTHING if self._last is None else Detections(self._last, np.ones(1, np.float32))
        for _ in range(2 * len(found.boxes)):
            boxes = squared(found.boxes[:1])
            (x0, y0, x1, y1), *_ = pixel_rectangles(boxes, frame.shape[1], frame.shape[0]).tolist()
            if x0 >= x1 or y0 >= y1:
                return NOTHING
            found = self._cascade.confirm(IntegralImage(frame, (x0, y0, x1, y1)), boxes)
            if not len(found.boxes) or found.probabilities[0] < SURE:
                return NOTHING
        return found


def largest(found: Detections) -> int:
    """Which of the faces (at least one) covers most of the frame."""
    return int(np.argmax(areas(found)))


def areas(found: Detections) -> NDArray[np.float32]:
    """Square pixels of each face."""
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    product: NDArray[np.float32] = sides[:, 0] * sides[:, 1]
    return product
