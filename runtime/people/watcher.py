"""The faces of a file's frames as they come -> for each segment, what the visual tower gets and whose face it is."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.media.desk import Frame, Glance, SegmentEnd
from mmx.runtime.media.faces import FaceCrop, FaceDetector
from mmx.runtime.people.choice import OF_ONE, People
from mmx.runtime.people.glances import Boxes, Glances
from mmx.runtime.people.speaker import MouthMovement, SpeakerMethod, speaker_of
from mmx.runtime.people.tracker import Tracker
from mmx.runtime.prediction import SeenFace

OFTEN = 2  # looks of a segment in which somebody is seen who counts as being there (or its only one)


@dataclass(frozen=True)
class Face:
    """A face in one look at a frame.

    Attributes:
        seen: whose, and where. pixels: float32 [3, 48, 48]; None where no prediction can be about it.
        size: the box's shorter side. off_centre: from the middle of the frame to twice that of the box. In pixels.
    """

    seen: SeenFace
    pixels: NDArray[np.float32] | None
    size: float
    off_centre: float


@dataclass(frozen=True)
class Look:
    """One look at a frame: its faces, the largest first; without any, what the visual tower gets instead."""

    faces: tuple[Face, ...]
    stand_in: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class View:
    """The visual part of one prediction.

    Attributes:
        person: whose it is; None: nobody's, or several people's.
        faces: that are used, in order of time. others: of other people in the same frames.
        crops: float32 [3, 48, 48] each, with what stands in for missing faces.
        flags: ``several_faces``, ``face_switched``, ``speaker_unclear``.
        numbers: ``people``, ``several_faces``, ``face_switches``; none where nobody is seen.
    """

    person: int | None
    faces: tuple[Face, ...]
    others: tuple[SeenFace, ...]
    crops: list[NDArray[np.float32]]
    flags: tuple[str, ...]
    numbers: dict[str, float]


@dataclass
class Looks:
    """All looks of one segment, and the milliseconds that they took."""

    looks: list[Look] = field(default_factory=list)
    ms: float = 0.0

    def views(self, people: People, speaker: int | None = None) -> list[View]:
        """What the segment's predictions see; ``each``: one a person, otherwise one.

        Args:
            speaker: who speaks, where that is known and asked for.
        """
        present = self._present()
        if people.kind == "each" and present:
            return [self._view(people, present, person) for person in present]
        if people.kind != "speaker" or not present:
            return [self._view(people, present, None)]
        person = speaker or (present[0] if len(present) == 1 else None)
        view = self._view(people, present, person)
        return [view if person else replace(view, flags=(*view.flags, "speaker_unclear"))]

    def _present(self) -> list[int]:
        """The people who are seen often enough not to be a mistake of the face search; if nobody is, everybody."""
        counts = Counter(face.seen.person for look in self.looks for face in look.faces if face.seen.person)
        least = min(OFTEN, len(self.looks))
        return sorted([who for who, count in counts.items() if count >= least] or counts)

    def _view(self, people: People, present: Sequence[int], person: int | None) -> View:
        chosen = [_choose(look, people, person) for look in self.looks]
        faces = tuple(face for face in chosen if face is not None)
        crops = [
            pixels
            for face, look in zip(chosen, self.looks, strict=True)
            if (pixels := look.stand_in if face is None else face.pixels) is not None
        ]
        together = sum(len({face.seen.person for face in look.faces} & {*present}) > 1 for look in self.looks)
        several = together >= min(OFTEN, len(self.looks)) > 0
        taken = [face.seen.person for face in faces if face.seen.person in present]
        switches = sum(a != b for a, b in pairwise(taken))
        numbers: dict[str, float] = {"people": len(present), "several_faces": together, "face_switches": switches}
        whose = {face.seen.person for face in faces}
        return View(
            person=whose.pop() if len(whose) == 1 else None,
            faces=faces,
            others=() if people.kind == "each" else tuple(_others(self.looks, chosen)),
            crops=crops,
            flags=("several_faces",) * several + ("face_switched",) * (switches > 0),
            numbers=numbers if present else {},
        )


class Watcher:
    """Finds the faces of one file and follows the people in it.

    Args:
        detector: shared with other files. people: whose faces are wanted.
        no_face: what stands in for a missing face (see ``FaceDetector.find``); a prediction about one person has
            nothing in its place.
        method: how to find out who speaks.
    """

    def __init__(
        self, detector: FaceDetector, people: People, no_face: str, method: SpeakerMethod | None = None
    ) -> None:
        self._detector, self._people = detector, people
        self._no_face = "skip" if people.kind in OF_ONE and no_face != "error" else no_face
        self._tracker = Tracker()
        self._method = method or MouthMovement()
        self._glances = Glances(detector)
        self._segments: dict[int, Looks] = defaultdict(Looks)
        self._last: tuple[Frame, Sequence[FaceCrop], Sequence[int | None], tuple[int, int]] | None = None

    def look(self, frames: Sequence[Frame], glances: Sequence[Glance] = ()) -> None:
        """Look at the next frames, in order of time; looks at one frame hold the same array.

        Args:
            glances: frames between them, for ``speaker``.
        """
        if not frames:
            self._glances.take(glances, ())
            return
        started = perf_counter()
        before = [self._last[0].rgb if self._last else None, *(frame.rgb for frame in frames)]
        new = [frame for frame, last in zip(frames, before, strict=False) if frame.rgb is not last]
        parts = [self._people.seen_part(frame.rgb) for frame in new]
        times = [frame.time for frame in new]
        found = self._detector.find([part for part, _ in parts], self._no_face, times, every=self._people.of_all)
        followed = [
            (frame, crops, self._tracker.follow(time, part, crops), corner)
            for frame, time, (part, corner), crops in zip(new, times, parts, found, strict=True)
        ]
        now = iter(followed)
        keep = self._people.kind in OF_ONE
        seen: list[tuple[float, Boxes]] = []
        for frame in frames:
            if self._last is None or frame.rgb is not self._last[0].rgb:
                self._last = next(now)
            look = _look(frame, *self._last[1:])
            self._segments[frame.segment].looks.append(look if keep else self._lighter(look))
            seen.append(
                (frame.time, {who: np.array(face.seen.box) for face in look.faces if (who := face.seen.person)})
            )
        self._glances.take(glances, seen)
        each_ms = (perf_counter() - started) * 1000 / len(frames)
        for frame in frames:
            self._segments[frame.segment].ms += each_ms

    def _lighter(self, look: Look) -> Look:
        """Without the pixels that nothing will be made of."""
        mine = _choose(look, self._people, None)
        return Look(tuple(face if face is mine else replace(face, pixels=None) for face in look.faces), look.stand_in)

    def ended(self, end: SegmentEnd) -> tuple[list[View], float]:
        """What the predictions of a segment see, and the milliseconds that took; its looks are then forgotten."""
        started = perf_counter()
        looks = self._segments.pop(end.segment, Looks())
        speaker = None
        if self._people.kind == "speaker":
            tracks = self._glances.tracks(end.span.start, end.span.end)
            scores = self._method.scores(tracks, end.span.start, end.sound, end.sample_rate) if tracks else {}
            speaker = speaker_of(scores)
        return looks.views(self._people, speaker), looks.ms + (perf_counter() - started) * 1000


def _look(frame: Frame, crops: Sequence[FaceCrop], numbers: Sequence[int | None], corner: tuple[int, int]) -> Look:
    height, width = frame.rgb.shape[:2]
    offset = np.array(corner * 2, np.float32)
    faces = []
    for crop, number in zip(crops, numbers, strict=True):
        if crop.face is None or crop.pixels is None:
            return Look((), crop.pixels)
        left, top, right, bottom = np.clip((crop.face.box + offset) / (width, height, width, height), 0, 1).tolist()
        seen = SeenFace(frame.time, (left, top, right, bottom), crop.face.probability, number)
        x0, y0, x1, y1 = crop.face.box.tolist()
        off_centre = float(np.hypot((left + right - 1) * width, (top + bottom - 1) * height))
        faces.append(Face(seen, crop.pixels, min(x1 - x0, y1 - y0), off_centre))
    return Look(tuple(faces))


def _choose(look: Look, people: People, person: int | None) -> Face | None:
    """The face of one look that a prediction is about; None: it is not there."""
    if person is not None:
        return next((face for face in look.faces if face.seen.person == person), None)
    if people.kind == "center":
        return min(look.faces, key=lambda face: face.off_centre, default=None)
    return next(iter(look.faces), None)


def _others(looks: Iterable[Look], chosen: Iterable[Face | None]) -> Iterator[SeenFace]:
    return (face.seen for look, mine in zip(looks, chosen, strict=True) for face in look.faces if face is not mine)
