"""Made-up conversations for the tests of people."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mmx.export.assets import find_face_nets
from mmx.export.face_nets import build_face_nets
from mmx.runtime.errors import EnvironmentMissing
from mmx.runtime.manifest import FaceSpec
from mmx.runtime.media.faces import FaceDetector

sys.path.insert(0, str(Path(__file__).parent))
from talkers import Place, Scene, conversation, side_by_side, write_video


@pytest.fixture(scope="session")
def detector(tmp_path_factory: pytest.TempPathFactory) -> FaceDetector:
    try:
        nets = build_face_nets(find_face_nets(), tmp_path_factory.mktemp("faces"))
    except EnvironmentMissing as e:
        pytest.skip(str(e))
    return FaceDetector(nets, FaceSpec(), threads=1)


@pytest.fixture(scope="session")
def conversation_of() -> Callable[..., Scene]:
    """``conversation``, made once for the same arguments."""
    made: dict[object, Scene] = {}

    def make(seeds: tuple[int, int], places: tuple[Place, Place], turns: int, **options: object) -> Scene:
        key = (seeds, places, turns, *sorted(options.items()))
        if key not in made:
            made[key] = conversation(seeds, places, turns, **options)  # type: ignore[arg-type]
        return made[key]

    return make


@pytest.fixture(scope="session")
def talkers_file(conversation_of: Callable[..., Scene], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two people side by side for eight seconds, as an .mp4."""
    path = tmp_path_factory.mktemp("talkers") / "talkers.mp4"
    write_video(path, conversation_of((3, 4), side_by_side(), 4).media)
    return path
