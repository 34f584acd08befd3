"""Who speaks: mouths that move against the sound.

A method gets what each person's face does while there is speech, and gives each a score; ``MouthMovement`` is the one
built in. A network for active speaker detection fits behind the same protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

MOUTH = (slice(28, 47), slice(9, 39))  # rows and columns of a 48x48 crop
REACH = 2  # pixels by which two crops of a head that moves are shifted to fit
FEWEST = 5  # crops that say anything
GAP_S = 0.2  # crops further apart are not compared
SHARE_OF_SOUND = 0.5  # how much it counts that a mouth moves when the sound does, against how much it moves
CLEAR = 0.05  # by which the best score is ahead; with less it is not known who speaks


@dataclass(frozen=True)
class FaceTrack:
    """A person's face while there was speech: ``times`` in seconds, increasing; ``crops`` uint8 [n, 3, 48, 48], RGB."""

    times: NDArray[np.float64]
    crops: NDArray[np.uint8]


class SpeakerMethod(Protocol):
    """Scores people by how likely they are to speak."""

    def scores(
        self, tracks: Mapping[int, FaceTrack], start: float, sound: NDArray[np.float32], rate: int
    ) -> dict[int, float]:
        """A score for each person of whom enough is seen; the highest speaks.

        Args:
            tracks: by person. start: of the sound, in seconds on the tracks' clock.
            sound: float32 [samples], mono. rate: in Hz.
        """


class MouthMovement:
    """How much a mouth moves, as a share of what all mouths do, and whether it does so when the sound changes.

    Movement is the mean difference of the mouth's pixels in two crops one after another, at the shift that fits best.
    """

    def scores(
        self, tracks: Mapping[int, FaceTrack], start: float, sound: NDArray[np.float32], rate: int
    ) -> dict[int, float]:
        """See ``SpeakerMethod``."""
        near = {person: np.diff(track.times) < GAP_S for person, track in tracks.items()}
        seen = [person for person in tracks if near[person].sum() >= FEWEST]
        moves = {person: _movement(tracks[person])[near[person]] for person in seen}
        total = sum(float(move.mean()) for move in moves.values())
        if not total:
            return {}
        answers = {}
        for person, move in moves.items():
            loud = _changes(tracks[person].times, start, sound, rate)[near[person]]
            together = _correlation(move, loud)
            answers[person] = float(move.mean()) / total + SHARE_OF_SOUND * max(together, 0.0)
        return answers


def speaker_of(scores: Mapping[int, float]) -> int | None:
    """Who speaks; None where that is not clear."""
    ranked = sorted(scores, key=lambda person: -scores[person])
    if not ranked or (len(ranked) > 1 and scores[ranked[0]] - scores[ranked[1]] < CLEAR):
        return None
    return ranked[0]


def _movement(track: FaceTrack) -> NDArray[np.float64]:
    """How much the mouth has changed at each crop after the first, relative to the face's contrast."""
    grey = track.crops.mean(axis=1, dtype=np.float32)
    grey /= grey.std(axis=(1, 2), keepdims=True) + 4
    rows, columns = MOUTH
    before = grey[:-1]
    least = np.full(len(before), np.inf)
    now = grey[1:, rows, columns]
    for dy in range(-REACH, REACH + 1):
        for dx in range(-REACH, REACH + 1):
            moved = np.roll(before, (dy, dx), axis=(1, 2))[:, rows, columns]
            least = np.minimum(least, np.abs(now - moved).mean(axis=(1, 2)))
    return least


def _changes(times: NDArray[np.float64], start: float, sound: NDArray[np.float32], rate: int) -> NDArray[np.float64]:
    """How much the level of the sound (root of RMS, which is about how loud it seems) has changed at each time after
    the first.
    """
    step = float(np.median(np.diff(times)))
    total = np.concatenate([[0.0], np.cumsum(sound.astype(np.float64) ** 2)])
    edges = np.clip(np.rint((times[:, None] - start + np.array([-step, step]) / 2) * rate), 0, len(sound)).astype(int)
    power = (total[edges[:, 1]] - total[edges[:, 0]]) / np.maximum(edges[:, 1] - edges[:, 0], 1)
    return np.abs(np.diff(power**0.25))


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    spread = float(a.std() * b.std())
    return float(((a - a.mean()) * (b - b.mean())).mean()) / spread if spread > 1e-9 else 0.0
