"""The quicker searches: what they may leave out, and what they must still find."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from mmx.export.assets import find_face_nets
from mmx.export.face_nets import build_face_nets
from mmx.runtime.errors import EnvironmentMissing, UsageError
from mmx.runtime.manifest import FaceSpec
from mmx.runtime.media.faces import FaceDetector
from mmx.runtime.media.faces.cascade import Cascade

SPEC = FaceSpec()


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    try:
        return build_face_nets(find_face_nets(), tmp_path_factory.mktemp("faces"))
    except EnvironmentMissing as e:
        pytest.skip(str(e))


@pytest.fixture(scope="module")
def talking(talking_face: tuple[Path, str]) -> list[np.ndarray]:
    """Twelve frames of the demo's clip, half a second apart: one large face."""
    with av.open(talking_face[0]) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)][:144:12]


@pytest.fixture
def levels(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many levels of a pyramid P-Net has seen since it was last asked."""
    seen: list[float] = []
    original = Cascade.propose
    monkeypatch.setattr(
        Cascade, "propose", lambda self, image, scale: (seen.append(scale), original(self, image, scale))[1]
    )

    def count() -> int:
        number = len(seen)
        seen.clear()
        return number

    return count


def placed(frame: np.ndarray, step: int, top: int, left: int) -> np.ndarray:
    """The frame at 1/step of its size on an empty one."""
    scene = np.full_like(frame, 90)
    small = frame[::step, ::step]
    scene[top : top + small.shape[0], left : left + small.shape[1]] = small
    return scene


def test_fast_gives_the_exact_crops_from_fewer_levels(
    talking: list[np.ndarray], nets: dict[str, Path], levels: Callable[[], int]
) -> None:
    several = np.maximum(placed(talking[0], 2, 5, 5), placed(talking[3], 4, 200, 400))
    frames = [*talking, placed(talking[1], 2, 100, 200), placed(talking[2], 5, 30, 40), several, np.zeros_like(several)]
    exact = FaceDetector(nets, SPEC, threads=1).extract(frames, "skip")
    of_exact = levels()
    fast = FaceDetector(nets, SPEC, threads=2, search="fast").extract(frames, "skip")
    assert levels() < 0.75 * of_exact
    assert [crop.face is None for crop in exact] == [False] * 15 + [True]
    for one, other in zip(exact, fast, strict=True):
        assert (one.face is None) == (other.face is None)
        assert one.pixels is None or np.array_equal(one.pixels, other.pixels)


def test_large_passes_over_small_faces(talking: list[np.ndarray], nets: dict[str, Path]) -> None:
    small = placed(talking[0], 10, 50, 60)  # the face is about 30 pixels high, 1/12 of the frame
    exact, large = (
        FaceDetector(nets, SPEC, threads=1, search=how).detect([talking[0], small]) for how in ("exact", "large")
    )
    assert exact[1] is not None and large[1] is None
    assert exact[0] is not None and large[0] is not None and np.array_equal(exact[0].box, large[0].box)


def test_track_follows_a_face_and_finds_it_again(
    talking: list[np.ndarray], nets: dict[str, Path], levels: Callable[[], int]
) -> None:
    jump = [placed(frame, 2, 170, 310) for frame in talking[:3]]
    frames = [*talking, *jump, np.zeros_like(jump[0]), talking[0]]
    exact = FaceDetector(nets, SPEC, threads=1).detect(frames)
    of_exact = levels()
    detector = FaceDetector(nets, SPEC, threads=4, search="track")
    tracked = detector.detect(frames)
    assert levels() < 0.6 * of_exact
    for one, other in zip(exact, tracked, strict=True):
        assert (one is None) == (other is None)
        if one and other:
            sides = np.minimum(one.box[2:], other.box[2:]) - np.maximum(one.box[:2], other.box[:2])
            shared = float(np.prod(np.maximum(sides, 0)))
            both = float(np.prod(one.box[2:] - one.box[:2]) + np.prod(other.box[2:] - other.box[:2]))
            assert shared / (both - shared) > 0.8
    again = detector.detect(frames)  # nothing is left of the call before
    assert [face and face.box.tolist() for face in again] == [face and face.box.tolist() for face in tracked]


def test_a_search_that_does_not_exist(nets: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="quick") as e:
        FaceDetector(nets, SPEC, search="quick")
    assert "exact, fast, large, track" in str(e.value.hint)
