"""Faces of one frame after another are linked into people: through crossings, swaps, cuts and absences."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from talkers import BACKDROP, HEIGHT, WIDTH, Place, Scene, Talker, crossing, swapping

from mmx.runtime.media.faces import FaceDetector
from mmx.runtime.people import Tracker
from mmx.runtime.people.appearance import CutDetector, looks_of
from mmx.runtime.people.tracker import assign

HIDDEN_PX = 40.0  # heads nearer than this hide one another; the second is painted last


def numbers_of(frames: np.ndarray, times: np.ndarray, detector: FaceDetector) -> list[list[tuple[np.ndarray, int]]]:
    """The middle and the person of each face, by frame."""
    tracker = Tracker()
    answers = []
    for time, frame, faces in zip(times, frames, detector.find(list(frames), "skip"), strict=True):
        numbers = tracker.follow(float(time), frame, faces)
        found = [(face.face.box, who) for face, who in zip(faces, numbers, strict=True) if face.face is not None]
        answers.append([((box[:2] + box[2:]) / 2, who) for box, who in found if who is not None])
    return answers


def right_tracks(scene: Scene, detector: FaceDetector) -> tuple[int, int]:
    """Faces whose person is the one that most faces of that talker have, and how many faces there are."""
    media = scene.media
    assert media.frames is not None and media.times is not None
    counts: Counter[tuple[int, int]] = Counter()
    for places, faces in zip(scene.places, numbers_of(media.frames, np.asarray(media.times), detector), strict=True):
        hidden = np.linalg.norm(places[0] - places[1]) < HIDDEN_PX
        for middle, person in faces:
            talker = 1 if hidden else int(np.argmin(np.linalg.norm(places - middle, axis=1)))
            counts[talker, person] += 1
    best = {talker: max((n, who) for (t, who), n in counts.items() if t == talker) for talker in (0, 1)}
    assert best[0][1] != best[1][1], counts
    return best[0][0] + best[1][0], sum(counts.values())


@pytest.mark.parametrize(("seeds", "places"), [((3, 4), crossing()), ((7, 8), crossing()), ((5, 6), swapping())])
def test_two_people_cross_and_swap(
    seeds: tuple[int, int], places: tuple[Place, Place], detector: FaceDetector, conversation_of
) -> None:
    right, faces = right_tracks(conversation_of(seeds, places, 4), detector)
    assert faces >= 30 and right / faces >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("places", [crossing(5.0), swapping(), swapping(1.0)])
def test_many_pairs_cross_and_swap(places: tuple[Place, Place], detector: FaceDetector, conversation_of) -> None:
    counts = [right_tracks(conversation_of((seed, seed + 1), places, 5), detector) for seed in range(1, 21, 2)]
    right, faces = np.sum(counts, axis=0)
    assert faces > 400 and right / faces >= 0.99, counts


def test_a_person_who_leaves_comes_back_with_the_same_number(detector: FaceDetector) -> None:
    talkers = [Talker(3), Talker(4)]
    frames = []
    for shown in [(0, 1)] * 3 + [(1,)] * 4 + [()] * 2 + [(0,)] * 3:
        frame = np.broadcast_to(BACKDROP.astype(np.uint8), (HEIGHT, WIDTH, 3)).copy()
        for who in shown:
            talkers[who].paint(frame, (80.0 if who == 0 else 240.0, 72.0), 0.0)
        frames.append(frame)
    found = numbers_of(np.stack(frames), np.arange(len(frames)) / 2, detector)
    whose = [[who for _, who in sorted(faces, key=lambda each: each[0][0])] for faces in found]
    first, second = whose[0]
    assert {first, second} == {1, 2}
    assert whose == [[first, second]] * 3 + [[second]] * 4 + [[]] * 2 + [[first]] * 3


def test_a_cut_ends_tracks_and_looks_alone_say_who_follows(detector: FaceDetector) -> None:
    """Two shots of one person each, in the same place, from one frame to the next; then back again."""
    random = np.random.default_rng(0)
    rooms = [np.kron(random.integers(0, 255, (9, 20, 3)), np.ones((16, 16, 1))).astype(np.uint8) // n for n in (1, 3)]
    people = [Talker(3), Talker(4)]
    frames = []
    for shot in (0, 1, 0):
        for _ in range(3):
            frame = rooms[shot].copy()
            people[shot].paint(frame, (160.0, 72.0), 0.0)
            frames.append(frame)
    cuts = CutDetector()
    assert [cuts.is_cut(frame) for frame in frames] == [i in (3, 6) for i in range(9)]
    found = numbers_of(np.stack(frames), np.arange(9) / 2, detector)
    assert [[who for _, who in faces] for faces in found] == [[1]] * 3 + [[2]] * 3 + [[1]] * 3


def test_no_cut_where_a_lamp_goes_on_or_somebody_moves() -> None:
    random = np.random.default_rng(1)
    room = np.kron(random.integers(20, 100, (9, 20, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    moved = room.copy()
    moved[20:120, 40:140] = (200, 160, 140)
    cuts = CutDetector()
    assert not any(cuts.is_cut(frame) for frame in (room, room * 2, room, moved, np.roll(moved, 8, axis=1)))
    flat = np.full((36, 64, 3), 7, np.uint8)
    cuts = CutDetector()
    assert [cuts.is_cut(frame) for frame in (flat, flat, room, flat)] == [False, False, True, True]


def test_light_does_not_change_looks() -> None:
    crop = np.random.default_rng(2).uniform(10, 110, (3, 48, 48)).astype(np.float32)
    crop[:, :24] *= 0.5
    other = np.roll(crop, 24, axis=1)
    assert np.linalg.norm(looks_of(crop) - looks_of(2 * crop)) < 0.2 < np.linalg.norm(looks_of(crop) - looks_of(other))


def test_assignment_is_the_cheapest() -> None:
    random = np.random.default_rng(3)
    for _ in range(200):
        rows, columns = random.integers(1, 8, 2)
        costs = random.uniform(0, 2, (rows, columns))
        costs[random.random((rows, columns)) < 0.2] = np.inf
        table = np.concatenate([np.minimum(costs, 2.4), np.full((rows, rows), 1.2)], axis=1)
        pairs = zip(*linear_sum_assignment(table), strict=True)
        assert assign(costs, 1.2) == sorted((i, k) for i, k in pairs if k < columns and costs[i, k] < 1.2)


def test_nobody_and_a_crowd(detector: FaceDetector) -> None:
    tracker = Tracker()
    frame = np.zeros((64, 64, 3), np.uint8)
    assert tracker.follow(0.0, frame, detector.find([frame], "center")[0]) == [None]
    assert tracker.follow(0.5, frame, []) == []
