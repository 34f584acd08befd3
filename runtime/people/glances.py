"""Frames between those that are looked at, where there is speech and more than one person -> faces over time."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.media.desk import Glance
from mmx.runtime.media.faces import FaceDetector
from mmx.runtime.people.speaker import FaceTrack

GLANCE_S = 0.08  # between two frames: a mouth opens and closes about five times a second
KEPT_S = 300.0  # of faces: segments end long before
QUIETER_DB, QUIETEST_DB = 25.0, -60.0  # speech is at most so much quieter than the loudest of late, and not below that
FORGETS_DB = 1.0  # a second
NEAR_S = 0.3  # how long a box holds that is known on one side only
JUMP = 0.75  # of a box's width: what moves further from one look to the next is not where a line says
MOST = 6  # people whose mouths are compared

Boxes = dict[int, NDArray[np.float64]]
"""Of the people in one frame, by number: left, top, right, bottom in fractions of it."""


@dataclass(frozen=True)
class _Seen:
    time: float
    crops: dict[int, NDArray[np.uint8]]


class Glances:
    """The faces of one file between looks. No face is searched for: boxes are those of the looks before and after."""

    def __init__(self, detector: FaceDetector) -> None:
        self._detector = detector
        self._seen: deque[_Seen] = deque()
        self._pending: list[Glance] = []
        self._last: tuple[float, Boxes] | None = None
        self._loudest = QUIETEST_DB
        self._heard_at = 0.0

    def take(self, glances: Sequence[Glance], looks: Sequence[tuple[float, Boxes]]) -> None:
        """The next glances and looks, each in order of time; glances after the last look wait for the next one."""
        knots = ([self._last] if self._last else []) + list(looks)
        waiting = []
        for glance in [*self._pending, *glances]:
            after = next((knot for knot in knots if knot[0] >= glance.time), None)
            if after is None:
                waiting.append(glance)
            else:
                self._glance(glance, next((knot for knot in knots[::-1] if knot[0] <= glance.time), None), after)
        self._pending = waiting
        self._last = knots[-1] if knots else None

    def tracks(self, start: float, end: float) -> dict[int, FaceTrack]:
        """The faces of a stretch, by person."""
        for glance in self._pending:
            self._glance(glance, self._last, None)
        self._pending = []
        while self._seen and self._seen[0].time < start - KEPT_S:
            self._seen.popleft()
        times: dict[int, list[float]] = defaultdict(list)
        crops: dict[int, list[NDArray[np.uint8]]] = defaultdict(list)
        for seen in self._seen:
            if start <= seen.time < end:
                for person, crop in seen.crops.items():
                    times[person].append(seen.time)
                    crops[person].append(crop)
        return {person: FaceTrack(np.array(times[person]), np.stack(crops[person])) for person in times}

    def _glance(self, glance: Glance, before: tuple[float, Boxes] | None, after: tuple[float, Boxes] | None) -> None:
        self._loudest = max(glance.level, self._loudest - FORGETS_DB * (glance.time - self._heard_at))
        self._heard_at = glance.time
        if glance.level < max(self._loudest - QUIETER_DB, QUIETEST_DB):
            return
        boxes = _between(glance.time, [knot for knot in (before, after) if knot is not None])
        if len(boxes) < 2:
            return
        height, width = glance.rgb.shape[:2]
        crops = {}
        for person, box in list(boxes.items())[:MOST]:
            pixels = self._detector.crop(glance.rgb, (box * (width, height, width, height)).astype(np.float32))
            if pixels is not None:
                crops[person] = pixels.astype(np.uint8)
        self._seen.append(_Seen(glance.time, crops))


def _between(time: float, knots: Iterable[tuple[float, Boxes]]) -> Boxes:
    """Boxes that move in a straight line from one look to the next; those known on one side alone hold for a while."""
    known = list(knots)
    boxes: Boxes = {}
    for at, there in known:
        boxes |= {person: box for person, box in there.items() if abs(at - time) <= NEAR_S}
    if len(known) == 2 and known[1][0] > known[0][0]:
        (first, a), (second, b) = known
        part = (time - first) / (second - first)
        for person in a.keys() & b.keys():
            moved, width = b[person] - a[person], a[person][2] - a[person][0]
            boxes[person] = a[person] + part * moved
            if np.abs(moved[:2] + moved[2:]).max() / 2 > JUMP * width:
                del boxes[person]
    return boxes
