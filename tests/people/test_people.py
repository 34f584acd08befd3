"""``--people``: whose face a prediction is about, and what is said where there are several."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from talkers import BACKDROP, Scene, conversation, crossing, side_by_side

from mmx.cli.main import main
from mmx.runtime.errors import UsageError
from mmx.runtime.manifest import Preprocessing
from mmx.runtime.media.arrays import MediaArrays
from mmx.runtime.media.faces import FaceDetector
from mmx.runtime.media.reader import Frame, read_segments
from mmx.runtime.packing import FACE_SHAPE
from mmx.runtime.people import People
from mmx.runtime.prediction import Prediction
from mmx.runtime.predictor import Predictor
from mmx.runtime.throughput import Pipeline
from mmx.runtime.workers.task import Task
from mmx.view.overlay import GREY, YELLOW, _Drawing


@pytest.fixture(scope="module")
def predictor(tiny_bundle: Path) -> Iterator[Predictor]:
    with Predictor(tiny_bundle, backend="onnxruntime", threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def scene(conversation_of) -> Scene:
    """Eight seconds of two people who sit side by side."""
    return conversation_of((3, 4), side_by_side(), 4)


def predict(predictor: Predictor, media: MediaArrays, people: str = "largest", **options) -> list[Prediction]:
    return list(predictor.predict(media, people=people, **options))


def masked(media: MediaArrays, part: slice) -> MediaArrays:
    """Only these columns of the frames; the rest shows the wall."""
    assert media.frames is not None
    frames = np.broadcast_to(BACKDROP.astype(np.uint8), media.frames.shape).copy()
    frames[:, :, part] = media.frames[:, :, part]
    return replace(media, frames=frames)


def cut(media: MediaArrays, part: slice) -> MediaArrays:
    assert media.frames is not None
    return replace(media, frames=np.ascontiguousarray(media.frames[:, :, part]))


LEFT, RIGHT = slice(0, 160), slice(160, 320)


def logits(prediction: Prediction) -> NDArray[np.float64]:
    both = (prediction.logits, prediction.modality_logits["visual"])
    return np.array([list(each.values()) for each in both])


def test_one_person_alone_has_the_answer_of_the_largest_face_of_each_frame(
    predictor: Predictor, scene: Scene, detector: FaceDetector
) -> None:
    """Bit for bit what cropping the largest face alone gives, without any tracking: frames, crops, logits."""
    media = masked(scene.media, LEFT)
    spec = Preprocessing()
    frames = [event for event in read_segments(media, None, spec) if isinstance(event, Frame)]
    crops = [crop.pixels for crop in detector.extract([frame.rgb for frame in frames])]
    (segment,) = predictor._preprocessor.segments(media)
    assert np.array_equal(segment.sample.faces, np.stack([crop for crop in crops if crop is not None]))
    (answer,) = predict(predictor, media)
    assert answer.person == 1 and {face.person for face in answer.faces} == {1} and answer.others == ()
    assert not {"several_faces", "face_switched"} & {*answer.flags}
    assert answer.quality["people"] == 1 and answer.quality["face_switches"] == 0
    for people in ("each", "center"):
        (same,) = predict(predictor, media, people)
        assert same.logits == answer.logits and same.faces == answer.faces


def test_each_person_has_the_answer_of_that_person_alone(predictor: Predictor, scene: Scene) -> None:
    first, second = predict(predictor, scene.media, "each")
    assert [answer.person for answer in (first, second)] == [1, 2]
    assert (first.start, first.end, first.text) == (second.start, second.end, second.text)
    assert "several_faces" in first.flags and first.quality["people"] == 2
    by_side = {int(answer.faces[0].box[0] > 0.5): answer for answer in (first, second)}
    for side, part in enumerate((LEFT, RIGHT)):
        (alone,) = predict(predictor, masked(scene.media, part))
        assert np.abs(logits(by_side[side]) - logits(alone)).max() < 1e-5
        assert len(by_side[side].faces) == len(alone.faces) > 10
    assert np.abs(logits(first) - logits(second)).max() > 1e-3


def test_people_who_pass_in_front_of_each_other_keep_their_answers(predictor: Predictor) -> None:
    """Filmed alone, somebody looks the same to the last bit wherever nobody hides them."""
    both, alone = (conversation((3, 4), crossing(4.0), 2, only=who) for who in (None, 0))
    answers = predict(predictor, both.media, "each", window=1)
    numbers = set()
    compared = 0
    for mine in predict(predictor, alone.media, window=1):
        boxes = [face.box for face in mine.faces]
        for each in answers:
            if each.start == mine.start and [face.box for face in each.faces] == boxes:
                assert np.abs(logits(each) - logits(mine)).max() < 1e-5
                numbers.add(each.person)
                compared += 1
    assert compared >= 2 and len(numbers) == 1


@pytest.mark.parametrize(("people", "part"), [("left", LEFT), ("right", RIGHT), ("region=0.5,0,0.5,1", RIGHT)])
def test_a_part_of_the_frame_is_that_part_as_a_video_of_its_own(
    people: str, part: slice, predictor: Predictor, scene: Scene
) -> None:
    (answer,), (alone,) = predict(predictor, scene.media, people), predict(predictor, cut(scene.media, part))
    assert answer.logits == alone.logits and answer.modality_logits == alone.modality_logits
    assert answer.flags == alone.flags and "several_faces" not in answer.flags
    box, own = np.array(answer.faces[0].box), np.array(alone.faces[0].box)
    assert box == pytest.approx(own * (0.5, 1, 0.5, 1) + np.array([part.start / 320, 0] * 2))


def test_where_the_part_shows_nobody_its_middle_stands_in(predictor: Predictor, scene: Scene) -> None:
    """As in a video of that part alone: nobody is there, so there is no visual answer."""
    (answer,) = predict(predictor, masked(scene.media, RIGHT), "left")
    assert "no_face" in answer.flags and "visual" in answer.left_out and answer.person is None


def test_the_face_nearest_to_the_middle(predictor: Predictor, scene: Scene) -> None:
    (answer,) = predict(predictor, scene.media, "center")
    assert all(face.box[0] > 0.5 for face in answer.faces) and len(answer.others) == len(answer.faces)
    assert all(face.box[2] < 0.5 for face in answer.others)


def test_a_switch_of_faces_is_flagged_and_counted(predictor: Predictor, scene: Scene) -> None:
    """Whose face is larger changes every second: today's answer goes back and forth, and now it says so."""
    media = scene.media
    assert media.frames is not None and media.times is not None
    frames = media.frames.copy()
    for i, frame in enumerate(frames):
        side = LEFT if i // 2 % 2 else RIGHT
        small = frame[::2, side][:, ::2].copy()
        frame[:, side] = BACKDROP.astype(np.uint8)
        frame[36:108, side.start + 40 : side.start + 120] = small
    (answer,) = predict(predictor, replace(media, frames=frames))
    assert {"several_faces", "face_switched"} <= {*answer.flags} and answer.person is None
    assert answer.quality["people"] == 2 and answer.quality["face_switches"] == (len(answer.faces) - 1) // 2
    assert {face.person for face in answer.faces} == {1, 2}
    (steady,) = predict(predictor, scene.media)
    assert "several_faces" in steady.flags and steady.quality["several_faces"] == steady.frames_seen


def test_numbers_stay_the_same_from_segment_to_segment(predictor: Predictor, scene: Scene) -> None:
    answers = predict(predictor, scene.media, "each", window=2)
    assert [answer.person for answer in answers] == [1, 2] * (len(answers) // 2) and len(answers) >= 8
    sides = {answer.person: {face.box[0] > 0.5 for face in answer.faces} for answer in answers}
    assert sorted(map(tuple, sides.values())) == [(False,), (True,)]
    assert Prediction.from_dict(answers[0].to_dict()) == answers[0]


def test_workers_give_the_same(predictor: Predictor, tiny_bundle: Path, talkers_file: Path) -> None:
    here = list(predictor.predict(talkers_file, people="each", window=2))
    with Pipeline(tiny_bundle, backend="onnxruntime", workers=1, threads=1) as pipeline:
        (result,) = pipeline.run([Task(talkers_file, window=2.0, people="each")])
    assert [each.person for each in result.predictions] == [each.person for each in here] and len(here) >= 6
    for mine, other in zip(here, result.predictions, strict=True):
        assert other.faces == mine.faces and other.others == mine.others
        assert np.allclose(logits(mine), logits(other), atol=1e-5)


def test_the_command_and_its_resume(tiny_bundle: Path, talkers_file: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out.jsonl"
    call = ["batch", str(tiny_bundle), str(talkers_file), "--out", str(out), "--workers", "1", "--window", "2"]
    assert main([*call, "--people", "each"]) == 0
    record = json.loads(out.read_text().splitlines()[-1])
    assert record["made_with"]["people"] == "each"
    assert [each["person"] for each in record["predictions"]][:2] == [1, 2]
    capsys.readouterr()
    assert main([*call, "--people", "left"]) == 2
    assert "another people" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("people", "why"),
    [
        ("both", "people cannot be 'both'"),
        ("region=1,2,3", "not four numbers"),
        ("region=0.5,0,0.6,1", "not a part of the frame"),
        ("region=nan,0,1,1", "not a part of the frame"),
        ("region=0,0,0,1", "not a part of the frame"),
        ("region", "people cannot be 'region'"),
    ],
)
def test_what_is_no_choice(people: str, why: str, tiny_bundle: Path, tone: Path, predictor: Predictor, capsys) -> None:
    assert main(["predict", str(tiny_bundle), str(tone), "--people", people]) == 2
    assert why in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"people|region"):
        predictor.predict(tone, people=people)


def test_a_search_for_the_largest_face_cannot_choose_among_all(tiny_bundle: Path, tone: Path, capsys) -> None:
    for search in ("fast", "track"):
        assert main(["predict", str(tiny_bundle), str(tone), "--people", "each", "--faces", search]) == 2
        assert f"the search {search} finds the largest" in capsys.readouterr().err
    for search, people in (("large", "each"), ("fast", "left"), ("track", "largest")):
        assert People.parse(people, search).kind in (people, "region")


def test_large_finds_all_large_faces(tiny_bundle: Path, scene: Scene) -> None:
    with Predictor(tiny_bundle, backend="onnxruntime", threads=1, faces="large") as predictor:
        answers = predict(predictor, scene.media, "each")
    assert [answer.person for answer in answers] == [1, 2]
    assert all(answer.faces_found == answer.frames_seen for answer in answers)


def test_a_part_is_at_least_a_pixel() -> None:
    part, corner = People.parse("region=0.999,0,0.001,1").seen_part(np.zeros((4, 5, 3), np.uint8))
    assert part.shape == (4, 1, 3) and corner == (4, 0) and FACE_SHAPE[0] == 3


def test_a_rendered_video_has_a_box_around_each_face(predictor: Predictor, scene: Scene) -> None:
    """Yellow around faces that are used, grey around the others; numbers only where there are several people."""

    def outlined(answers: list[Prediction], colour: tuple[int, int, int]) -> list[bool]:
        drawing = _Drawing(answers, dict.fromkeys(answers[0].probabilities, 0.5))
        assert scene.media.frames is not None
        drawn = drawing(scene.media.frames[4], 2.0)
        near = (np.abs(drawn[:80].astype(int) - colour) < 3).all(axis=2)
        return [bool(near[:, part].sum() > 50) for part in (LEFT, RIGHT)]

    assert outlined(predict(predictor, scene.media, "each"), YELLOW) == [True, True]
    nearest = predict(predictor, scene.media, "center")
    assert outlined(nearest, YELLOW) == [False, True] and outlined(nearest, GREY) == [True, False]
