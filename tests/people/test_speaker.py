"""``--people speaker``: the face of whoever speaks, from mouths against the sound."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from talkers import Place, Scene, conversation, crossing, side_by_side, swapping

from mmx.runtime.people.speaker import FaceTrack, MouthMovement, speaker_of
from mmx.runtime.prediction import Prediction
from mmx.runtime.predictor import Predictor
from mmx.runtime.types import Span

FPS = 12.5


class Recorder:
    """A method that always has the same favourite, and keeps what it was given."""

    def __init__(self, favourite: int) -> None:
        self.favourite = favourite
        self.given: list[dict[int, FaceTrack]] = []

    def scores(self, tracks: dict[int, FaceTrack], start: float, sound: np.ndarray, rate: int) -> dict[int, float]:
        assert sound.ndim == 1 and rate == 16_000 and start >= 0
        self.given.append(dict(tracks))
        return {person: float(person == self.favourite) for person in tracks}


@pytest.fixture(scope="module")
def predictor(tiny_bundle: Path) -> Iterator[Predictor]:
    with Predictor(tiny_bundle, backend="onnxruntime", threads=1) as opened:
        yield opened


def answers_by_turn(predictor: Predictor, scene: Scene) -> list[Prediction]:
    turns = [Span(turn.start, turn.end, "well") for turn in scene.turns]
    return list(predictor.predict(scene.media, transcript=turns, people="speaker"))


def is_right(scene: Scene, who: int, answer: Prediction) -> bool:
    """Whether most faces of an answer are the talker's."""
    assert scene.media.times is not None
    times = np.asarray(scene.media.times)
    right = 0
    for face in answer.faces:
        middle = np.array([(face.box[0] + face.box[2]) * 160, (face.box[1] + face.box[3]) * 72])
        places = scene.places[np.searchsorted(times, face.time + 1e-6) - 1]
        right += int(np.argmin(np.linalg.norm(places - middle, axis=1))) == who
    return 2 * right > len(answer.faces)


def right_turns(predictor: Predictor, scene: Scene) -> tuple[int, int]:
    answers = answers_by_turn(predictor, scene)
    assert len(answers) == len(scene.turns)
    right = [is_right(scene, turn.who, answer) for turn, answer in zip(scene.turns, answers, strict=True)]
    return sum(right), len(right)


@pytest.fixture(scope="module")
def scene(conversation_of) -> Scene:
    return conversation_of((3, 4), side_by_side(), 3, fps=FPS)


def test_the_speaker_of_each_turn(predictor: Predictor, scene: Scene) -> None:
    answers = answers_by_turn(predictor, scene)
    assert [is_right(scene, turn.who, answer) for turn, answer in zip(scene.turns, answers, strict=True)] == [True] * 3
    first, second, third = answers
    assert first.person == third.person != second.person and {first.person, second.person} == {1, 2}
    for answer in answers:
        assert {face.person for face in answer.faces} == {answer.person} and answer.others
        assert "several_faces" in answer.flags and "speaker_unclear" not in answer.flags
    (each,) = [
        every
        for every in predictor.predict(
            scene.media, transcript=[Span(scene.turns[0].start, scene.turns[0].end, "well")], people="each"
        )
        if every.faces[0].box == first.faces[0].box
    ]
    assert each.logits == pytest.approx(first.logits, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("places", [side_by_side(), crossing(), swapping(3.0)])
def test_many_talkers(predictor: Predictor, places: tuple[Place, Place]) -> None:
    counts = [right_turns(predictor, conversation((seed, seed + 1), places, 6, fps=FPS)) for seed in range(3, 17, 2)]
    right, turns = np.sum(counts, axis=0)
    assert turns == 42 and right / turns >= 0.95, counts


def test_nothing_is_looked_at_more_often_without_speech_or_a_second_face(tiny_bundle: Path, scene: Scene) -> None:
    assert scene.media.frames is not None and scene.media.sound is not None
    frames = scene.media.frames.copy()
    frames[:, :, 160:] = frames[0, 0, 0]
    alone = replace(scene.media, frames=frames)
    silent = replace(scene.media, sound=np.zeros_like(scene.media.sound))
    method = Recorder(1)
    with Predictor(tiny_bundle, backend="onnxruntime", threads=1, speaker=method) as predictor:
        (one,) = predictor.predict(alone, people="speaker")
        (largest,) = predictor.predict(alone)
        assert method.given == [] and one.person == 1 and one.logits == largest.logits
        (quiet,) = predictor.predict(silent, people="speaker")
        assert method.given == [] and "speaker_unclear" in quiet.flags
        list(predictor.predict(scene.media, people="speaker"))
    ((track, other),) = [tuple(given.values()) for given in method.given]
    spoken = sum(turn.end - turn.start for turn in scene.turns)
    assert 0.8 * spoken * FPS < len(track.times) < 1.15 * spoken * FPS
    assert track.crops.shape == (len(track.times), 3, 48, 48) and track.crops.dtype == np.uint8
    assert np.array_equal(track.times, other.times)


@pytest.mark.parametrize("favourite", [1, 2])
def test_another_method_decides(favourite: int, tiny_bundle: Path, scene: Scene) -> None:
    with Predictor(tiny_bundle, backend="onnxruntime", threads=1, speaker=Recorder(favourite)) as predictor:
        (answer,) = predictor.predict(scene.media, people="speaker")
    assert answer.person == favourite and "speaker_unclear" not in answer.flags


def test_a_mouth_that_moves_against_the_sound_is_not_the_speakers() -> None:
    """Two mouths that move as much: one as loud as the sound is, the other half a second later."""
    random = np.random.default_rng(5)
    times = np.arange(60) * 0.08
    opening = np.convolve(random.uniform(0, 1, 60), [0.5, 0.5], "same")
    sound = np.repeat(0.3 * opening, 1280).astype(np.float32) * random.standard_normal(60 * 1280).astype(np.float32)
    face = random.uniform(60, 200, (3, 48, 48))

    def crops(how: np.ndarray) -> np.ndarray:
        made = np.repeat(face[None], len(how), axis=0)
        for crop, value in zip(made, how, strict=True):
            crop[:, 34 : 34 + round(10 * value), 14:34] = 20
        return made.astype(np.uint8)

    tracks = {1: FaceTrack(times, crops(np.roll(opening, 6))), 2: FaceTrack(times, crops(opening))}
    scores = MouthMovement().scores(tracks, 0.04, sound, 16_000)
    assert speaker_of(scores) == 2, scores


def test_who_speaks_is_unknown_where_nobody_is_ahead() -> None:
    assert speaker_of({}) is None and speaker_of({1: 0.5, 2: 0.51}) is None
    assert speaker_of({1: 0.3, 2: 0.7}) == 2 and speaker_of({4: 0.1}) == 4
    still = FaceTrack(np.arange(9) * 0.08, np.full((9, 3, 48, 48), 90, np.uint8))
    assert MouthMovement().scores({1: still, 2: still}, 0.0, np.zeros(16_000, np.float32), 16_000) == {}
