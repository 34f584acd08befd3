"""``Tracker``: the faces of one frame after another -> people, each with a number that stays the same in one file.

    tracker = Tracker()
    for time, frame in frames:
        numbers = tracker.follow(time, frame, faces)

A face is linked to the person whom position, size and appearance fit best. A cut ends every track: afterwards, and
after somebody was out of sight or far away, only appearance tells who it is, and it must fit better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.media.faces import FaceCrop
from mmx.runtime.people.appearance import CutDetector, Looks, looks_of

LIKE = 0.15  # a difference in appearance that costs as much as ...
HEADS = 3.0  # ... a move by so many head sizes, or ...
SCALE = math.log(1.6)  # ... a head that looks larger by so much
FARTHEST = 3.0  # head sizes that a head moves between two frames, ...
SEEN_S, FARTHER_PER_S = 0.5, 1.0  # ... and more for each second out of sight beyond the first half
CHANGED = 0.65  # appearance changes by less between two frames of a track, ...
COSTLIEST = 4.5  # ... and in all a link costs at most this
HIDDEN = 1.0  # a face that others are close to may look so different from itself, as they may hide a part of it, ...
CLOSE = 0.25  # ... at less than this share of its size
KNOWN = 0.36  # somebody out of sight is known again by appearance that differs by less
STEADY = 0.35  # looks that differ by more (a face that is half hidden) do not change what is remembered of a person
LEARNED = 0.2  # share of the newest looks in what is remembered
MOST_PEOPLE = 64  # remembered in one file


@dataclass
class _Person:
    """Somebody who was seen: when and where last, and the looks then and on average."""

    number: int
    time: float
    middle: tuple[float, float]  # x, y in pixels
    size: float  # of the head, in pixels
    last: Looks
    usual: Looks
    in_track: bool = True

    def difference(self, looks: Looks) -> float:
        last, usual = self.last - looks, self.usual - looks
        return math.sqrt(min(float(last @ last), float(usual @ usual)))

    def moved(self, time: float, face: _Face) -> float:
        """Head sizes from where this person was last, less what anybody may move while out of sight; infinite where
        the track has ended.
        """
        if not self.in_track:
            return math.inf
        distance = math.dist(face.middle, self.middle) / math.sqrt(face.size * self.size)
        return max(distance - FARTHER_PER_S * max(time - self.time - SEEN_S, 0.0), 0.0)


@dataclass(frozen=True)
class _Face:
    middle: tuple[float, float]
    size: float
    looks: Looks = field(repr=False)
    crowded: bool = False  # others are close to it


class Tracker:
    """Follows the people of one video. Give it frames in order of time; a frame at the same time as the last is fine.

    One at a time: it is not thread-safe.
    """

    def __init__(self) -> None:
        self._people: list[_Person] = []
        self._cuts = CutDetector()
        self._count = 0

    def follow(self, time: float, frame: NDArray[np.uint8], faces: Sequence[FaceCrop]) -> list[int | None]:
        """Who each face of a frame is.

        Args:
            time: of the frame, in seconds. frame: RGB, uint8 [h, w, 3].
            faces: as ``FaceDetector.find`` gives them, the largest first.

        Returns:
            For each face the person's number, counted from 1 as people appear; None for a face without pixels.
        """
        if self._cuts.is_cut(frame):
            for person in self._people:
                person.in_track = False
        shown = _shown(faces)
        numbers: list[int | None] = [None] * len(faces)
        for i, person in self._links(time, shown).items():
            self._update(person, time, shown[i])
            numbers[i] = person.number
        for i, face in shown.items():
            if numbers[i] is None:
                numbers[i] = self._appear(time, face).number
        return numbers

    def _links(self, time: float, shown: dict[int, _Face]) -> dict[int, _Person]:
        """The person of each face that is one known already: those in a track, those known by their looks, and at last
        those in a track whose face others may hide.
        """
        if not shown or not self._people:
            return {}
        links: dict[int, _Person] = {}
        for cost, limit in ((self._following, COSTLIEST), (self._knowing, KNOWN), (self._emerging, FARTHEST)):
            faces = [i for i in shown if i not in links]
            taken = {person.number for person in links.values()}
            people = [person for person in self._people if person.number not in taken]
            if faces and people:
                table = np.array([[cost(person, time, shown[i]) for person in people] for i in faces])
                links |= {faces[i]: people[k] for i, k in assign(table, limit)}
        return links

    @staticmethod
    def _following(person: _Person, time: float, face: _Face) -> float:
        moved, looks = person.moved(time, face), person.difference(face.looks)
        if moved > FARTHEST or looks > CHANGED:
            return math.inf
        return looks / LIKE + moved / HEADS + abs(math.log(face.size / person.size)) / SCALE

    @staticmethod
    def _knowing(person: _Person, time: float, face: _Face) -> float:
        return person.difference(face.looks)

    @staticmethod
    def _emerging(person: _Person, time: float, face: _Face) -> float:
        hidden = face.crowded and person.difference(face.looks) < HIDDEN
        return person.moved(time, face) if hidden else math.inf

    @staticmethod
    def _update(person: _Person, time: float, face: _Face) -> None:
        if person.difference(face.looks) < STEADY:
            person.usual = (1 - LEARNED) * person.usual + LEARNED * face.looks
            person.last = face.looks
        person.time, person.middle, person.size, person.in_track = time, face.middle, face.size, True

    def _appear(self, time: float, face: _Face) -> _Person:
        self._count += 1
        person = _Person(self._count, time, face.middle, face.size, face.looks, face.looks)
        self._people.append(person)
        if len(self._people) > MOST_PEOPLE:
            self._people.remove(min(self._people, key=lambda each: each.time))
        return person


def assign(costs: NDArray[np.float64], limit: float) -> list[tuple[int, int]]:
    """Pairs (row, column) that cost least in all, none of them ``limit`` or more; a row may stay alone at that price.

    The Hungarian method, a row at a time (Kuhn 1955; in the form of Jonker and Volgenant 1987).
    """
    rows = len(costs)
    if costs.size == 1:
        return [(0, 0)] if costs[0, 0] < limit else []
    table = np.concatenate([np.minimum(costs, 2 * limit), np.full((rows, rows), limit)], axis=1)
    columns = table.shape[1]
    row_of = np.full(columns + 1, -1)  # the last column is where a row begins
    up, down = np.zeros(rows), np.zeros(columns + 1)
    for row in range(rows):
        row_of[columns], at = row, columns
        least, came = np.full(columns, np.inf), np.full(columns, columns)
        done = np.zeros(columns + 1, bool)
        while row_of[at] >= 0:
            done[at] = True
            free = ~done[:columns]
            slack = table[row_of[at]] - up[row_of[at]] - down[:columns]
            better = free & (slack < least)
            least[better], came[better] = slack[better], at
            after = int(np.argmin(np.where(free, least, np.inf)))
            step = least[after]
            up[row_of[done]] += step
            down[done] -= step
            least[free] -= step
            at = after
        while at != columns:
            row_of[at], at = row_of[came[at]], int(came[at])
    return sorted((int(row_of[k]), k) for k in range(costs.shape[1]) if row_of[k] >= 0 and costs[row_of[k], k] < limit)


def _shown(faces: Sequence[FaceCrop]) -> dict[int, _Face]:
    """Those faces of a frame that have pixels, by their place in the list."""
    crops = {i: each for i, each in enumerate(faces) if each.face is not None and each.pixels is not None}
    boxes: dict[int, list[float]] = {i: each.face.box.tolist() for i, each in crops.items() if each.face is not None}
    shown = {}
    for i, (left, top, right, bottom) in boxes.items():
        size = math.sqrt(max(right - left, 1.0) * max(bottom - top, 1.0))
        reach = size * CLOSE
        grown = (left - reach, top - reach, right + reach, bottom + reach)
        crowded = any(_overlap(grown, other) for k, other in boxes.items() if k != i)
        pixels = crops[i].pixels
        assert pixels is not None
        shown[i] = _Face(((left + right) / 2, (top + bottom) / 2), size, looks_of(pixels), crowded)
    return shown


def _overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])
