"""Drawn faces: an expression, a person, a pose and a light become a picture that MTCNN takes for a face.

Everything is a soft-edged shape on a pixel grid; nothing is taken from a photograph.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SIZE = 128
"""Width and height of a picture."""


@dataclass(frozen=True)
class Expression:
    """What a face does. 0 is the resting face; lengths are in head radii, ``brow_tilt`` as a slope.

    Attributes:
        brow: how far the brows are raised. brow_tilt: how far their inner ends are above the outer ones.
        eye: how much wider the eyes are open. smile: how far the corners of the mouth are above its middle.
        mouth: how far the mouth is open. stretch: how much wider it is. sneer: how far one side of the lip is raised,
            the nose wrinkling with it.
    """

    brow: float = 0.0
    brow_tilt: float = 0.0
    eye: float = 0.0
    smile: float = 0.0
    mouth: float = 0.0
    stretch: float = 0.0
    sneer: float = 0.0

    def moved(self, random: np.random.Generator, spread: float) -> Expression:
        """The same expression done by a living face: every movement off by ``spread`` of its usual range."""
        noise = random.normal(0.0, spread, len(fields(self)))
        values = [getattr(self, f.name) + n * _RANGE[f.name] for f, n in zip(fields(self), noise, strict=True)]
        return Expression(*values)

    def at(self, strength: float) -> Expression:
        """The expression at a part of its strength."""
        return Expression(*(strength * getattr(self, f.name) for f in fields(self)))


_RANGE = {"brow": 0.1, "brow_tilt": 0.4, "eye": 0.05, "smile": 0.1, "mouth": 0.12, "stretch": 0.1, "sneer": 0.08}


@dataclass(frozen=True)
class Person:
    """What stays with a speaker: colours 0..255, proportions relative to the mean face, background and light."""

    skin: Array
    hair: Array
    iris: Array
    lips: Array
    backdrop: Array
    width: float
    eye_gap: float
    eye_size: float
    nose: float
    mouth_width: float
    brow_weight: float
    fringe: float

    @classmethod
    def drawn(cls, random: np.random.Generator) -> Person:
        """Somebody."""
        tone = random.uniform(0, 1)
        skin = (1 - tone) * np.array([238.0, 200.0, 175.0]) + tone * np.array([150.0, 100.0, 72.0])
        skin += random.normal(0, 6, 3)
        hair = random.choice(np.array([[35, 25, 20], [85, 55, 30], [140, 100, 55], [95, 90, 88]])).astype(np.float64)
        return cls(
            skin=skin,
            hair=hair * random.uniform(0.8, 1.2),
            iris=random.choice(np.array([[70, 45, 25], [60, 90, 120], [70, 100, 60]])).astype(np.float64),
            lips=skin * np.array([0.85, 0.55, 0.55]),
            backdrop=random.uniform(60, 210, 3),
            width=random.uniform(0.74, 0.84),
            eye_gap=random.uniform(0.34, 0.4),
            eye_size=random.uniform(0.13, 0.16),
            nose=random.uniform(0.9, 1.15),
            mouth_width=random.uniform(0.26, 0.33),
            brow_weight=random.uniform(0.03, 0.05),
            fringe=random.uniform(0.5, 0.68),
        )


@dataclass(frozen=True)
class View:
    """Pose and light of one frame: turn and tilt in radians, scale and place of the head, and the lamp's direction."""

    yaw: float
    roll: float
    scale: float
    place: tuple[float, float]
    lamp: tuple[float, float]
    brightness: float

    @classmethod
    def drawn(cls, random: np.random.Generator) -> View:
        """A view of somebody who looks roughly into the camera."""
        return cls(
            yaw=random.normal(0, 0.13),
            roll=random.normal(0, 0.08),
            scale=random.uniform(0.34, 0.4) * SIZE,
            place=(SIZE * random.uniform(0.45, 0.55), SIZE * random.uniform(0.48, 0.54)),
            lamp=(random.uniform(-0.8, 0.8), random.uniform(-0.8, 0.1)),
            brightness=random.uniform(0.75, 1.1),
        )

    def swayed(self, random: np.random.Generator) -> View:
        """The next frame's view: the head has moved a little."""
        return View(
            yaw=self.yaw + random.normal(0, 0.05),
            roll=self.roll + random.normal(0, 0.03),
            scale=self.scale * random.uniform(0.98, 1.02),
            place=(self.place[0] + random.normal(0, 1.2), self.place[1] + random.normal(0, 1.2)),
            lamp=self.lamp,
            brightness=self.brightness * random.uniform(0.97, 1.03),
        )


def draw(person: Person, expression: Expression, view: View, random: np.random.Generator) -> NDArray[np.uint8]:
    """One frame, uint8 [SIZE, SIZE, 3] RGB; ``random`` adds the camera's grain."""
    return _Canvas(person, view).face(expression, random)


class _Canvas:
    """A picture under way, with head coordinates: x to the right and y down, in head radii, from the face's middle."""

    def __init__(self, person: Person, view: View) -> None:
        self.person, self.view = person, view
        rows, columns = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
        dx, dy = (columns - view.place[0]) / view.scale, (rows - view.place[1]) / view.scale
        cos, sin = float(np.cos(view.roll)), float(np.sin(view.roll))
        self.x, self.y = cos * dx + sin * dy, cos * dy - sin * dx
        glow = 1 + 0.15 * (columns / SIZE - 0.5) * view.lamp[0] - 0.2 * (rows / SIZE - 0.5)
        self.pixels = person.backdrop.astype(np.float32) * glow[..., None]

    def face(self, e: Expression, random: np.random.Generator) -> NDArray[np.uint8]:
        self._head()
        for side in (-1.0, 1.0):
            self._eye(side, e)
            self._brow(side, e)
        self._nose(e)
        self._mouth(e)
        grained = self.pixels * self.view.brightness + 3 * random.standard_normal(self.pixels.shape, np.float32)
        return np.clip(np.rint(grained), 0, 255).astype(np.uint8)

    def _at(self, x: float, y: float) -> tuple[float, float, float]:
        """Where a point of the face is seen once the head is turned, and how much narrower things are there."""
        depth = float(np.sqrt(max(0.05, 1 - (x / 1.0) ** 2 - 0.3 * y**2)))
        cos, sin = float(np.cos(self.view.yaw)), float(np.sin(self.view.yaw))
        return cos * x + 0.6 * sin * depth, y, max(0.4, cos - sin * x / max(depth, 0.4) * 0.5)

    def _paint(self, inside: Array, colour: Array, opacity: float = 1.0) -> None:
        """``inside``: signed distance, positive inside, in head radii; the edge is a pixel soft."""
        cover = opacity * np.clip(0.5 + inside * self.view.scale, 0, 1)
        rows, columns = (np.flatnonzero(cover.any(axis)) for axis in (1, 0))
        if not len(rows):
            return
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)  # most shapes are small
        under = self.pixels[box]
        under += cover[box][..., None] * ((colour if colour.ndim == 1 else colour[box]).astype(np.float32) - under)

    def _ellipse(self, x: float, y: float, rx: float, ry: float) -> Array:
        """About the signed distance to an ellipse's edge."""
        reach = np.hypot((self.x - x) / rx, (self.y - y) / ry)
        distance: Array = (1 - reach) * min(rx, ry)
        return distance

    def _shaded(self, colour: Array) -> Array:
        """The colour of a rounded surface under the lamp."""
        nx, ny = np.clip(self.x / 1.0, -1, 1), np.clip(self.y / 1.3, -1, 1)
        nz = np.sqrt(np.clip(1 - nx**2 - ny**2, 0.05, 1))
        light = 0.45 + 0.55 * np.clip(nz + 0.45 * (nx * self.view.lamp[0] + ny * self.view.lamp[1]), 0, 1.25)
        shaded: Array = colour.astype(np.float32) * light[..., None]
        return shaded

    def _head(self) -> None:
        p = self.person
        turn = 0.25 * float(np.sin(self.view.yaw))
        self._paint(self._ellipse(-turn, -0.22, p.width * 1.2, 1.08), p.hair)
        self._paint(
            np.minimum(0.36 - np.abs(self.x), np.minimum(self.y - 0.6, 1.5 - self.y)), self._shaded(p.skin * 0.72)
        )
        self._paint(self._ellipse(0, 2.2, 1.4, 1.0), p.backdrop[::-1] * 0.7)
        for side in (-1, 1):
            self._paint(self._ellipse(side * p.width - turn, 0.0, 0.1, 0.2), self._shaded(p.skin * 0.9))
        jaw = np.hypot(self.x / (p.width * (1 - 0.18 * np.clip(self.y, 0, 1))), self.y / 1.06)
        self._paint((1 - jaw) * p.width, self._shaded(p.skin))
        fringe = np.minimum(self._ellipse(-turn, -0.05, p.width * 1.06, 1.12), -(self.y + p.fringe + 0.35 * self.x**2))
        self._paint(fringe, p.hair)
        for side in (-1, 1):  # cheeks and the hollows of the eyes
            x, y, narrow = self._at(side * 0.42, 0.28)
            self._soft(x, y, 0.2 * narrow, 0.16, np.array([14.0, -6.0, -6.0]))
            x, y, narrow = self._at(side * p.eye_gap, -0.14)
            self._soft(x, y, 0.24 * narrow, 0.16, np.array([-30.0, -30.0, -26.0]))

    def _soft(self, x: float, y: float, rx: float, ry: float, change: Array) -> None:
        """Lighten or darken a blurred spot."""
        spot = np.exp(-(((self.x - x) / rx) ** 2) - ((self.y - y) / ry) ** 2)
        self.pixels += spot[..., None] * change.astype(np.float32)

    def _eye(self, side: float, e: Expression) -> None:
        p = self.person
        x, y, narrow = self._at(side * p.eye_gap, -0.14)
        wide = p.eye_size * narrow
        tall = float(np.clip(0.062 + e.eye, 0.014, 0.13))
        almond = np.minimum(self._ellipse(x, y + 0.02, wide, tall), self._ellipse(x, y - 0.02, wide, tall + 0.02))
        self._paint(almond + 0.02, p.skin * 0.45)
        self._paint(almond, np.array([235.0, 232.0, 228.0]))
        look = x + 0.05 * float(np.sin(self.view.yaw))
        for radius, colour in ((0.066, p.iris), (0.034, np.array([12.0, 10.0, 10.0]))):
            self._paint(np.minimum(self._ellipse(look, y, radius, radius), almond), colour)
        self._paint(self._ellipse(look + 0.02, y - 0.02, 0.014, 0.014), np.full(3, 250.0))
        lid = np.minimum(0.02 - np.abs(almond), y - self.y)
        self._paint(lid, p.skin * 0.3)

    def _brow(self, side: float, e: Expression) -> None:
        p = self.person
        x, y, narrow = self._at(side * p.eye_gap, -0.36 - e.brow)
        along = (self.x - x) * side / (0.19 * narrow)
        middle = y + 0.19 * e.brow_tilt * along + 0.035 * along**2
        weight = p.brow_weight * (1 - 0.3 * np.clip(along, -1, 1))
        self._paint(np.minimum(weight - np.abs(self.y - middle), (1 - np.abs(along)) * 0.1), p.hair * 0.8)

    def _nose(self, e: Expression) -> None:
        p = self.person
        x, y, _ = self._at(0.0, 0.2)
        x += 0.16 * float(np.sin(self.view.yaw))
        bridge, _, _ = self._at(0.0, -0.1)
        lean = bridge + (x - bridge) * np.clip((self.y + 0.15) / 0.35, 0, 1)
        ridge = np.clip(1 - np.abs(self.y - 0.03) / 0.25, 0, 1)
        for side, change in ((-1, -22.0), (1, -12.0)):
            dark = np.exp(-(((self.x - lean - side * 0.085 * p.nose) / 0.035) ** 2)) * ridge
            self.pixels += dark[..., None] * change
        self.pixels += (np.exp(-(((self.x - lean) / 0.04) ** 2)) * ridge)[..., None] * 18
        self._soft(x, y + 0.03, 0.14 * p.nose, 0.06, np.full(3, -26.0))
        self._soft(x, y - 0.03, 0.07, 0.06, np.full(3, 20.0))
        for side in (-1, 1):
            self._paint(self._ellipse(x + side * 0.06 * p.nose, y + 0.04 - 0.4 * e.sneer, 0.03, 0.018), p.skin * 0.35)
            if e.sneer > 0.02:
                self._soft(x + side * 0.13, y - 0.08, 0.03, 0.1, np.full(3, -450.0 * e.sneer))

    def _mouth(self, e: Expression) -> None:
        p = self.person
        x, y, narrow = self._at(0.0, 0.52)
        x += 0.06 * float(np.sin(self.view.yaw))
        wide = float(np.clip(p.mouth_width + e.stretch, 0.1, 0.5)) * narrow
        along = (self.x - x) / wide
        arch = np.clip(1 - along**2, 0, 1)
        middle = y - e.smile * (along**2 - 0.4) - e.sneer * np.clip(0.5 + along, 0, 1)
        opening = max(0.0, e.mouth) * np.sqrt(arch)
        lip = 0.05 * np.sqrt(arch)
        upper, lower = middle - 0.5 * opening, middle + 0.5 * opening
        edge = (1 - np.abs(along)) * wide
        self._paint(
            np.minimum(np.minimum(self.y - (upper - lip), lower + 1.2 * lip - self.y), edge), self._shaded(p.lips)
        )
        inside = np.minimum(np.minimum(self.y - upper, lower - self.y), edge)
        self._paint(inside, np.array([60.0, 18.0, 20.0]))
        self._paint(np.minimum(inside, upper + 0.055 - self.y), np.array([238.0, 234.0, 224.0]))
        self._paint(np.minimum(0.012 - np.abs(self.y - upper), edge), p.lips * 0.5)
        self._soft(x, y + 0.2, 0.2, 0.05, np.full(3, -16.0))
