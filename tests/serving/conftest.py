"""A real server, as a user starts it, on a loopback port; and small media to send it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the modules beside the tests

from pictures import picture
from real_server import Server, Start, running


@pytest.fixture(scope="session")
def server(tiny_bundle: Path) -> Iterator[Server]:
    """A server with the default settings, one worker. Leave it as you found it."""
    with running(tiny_bundle, "--workers", "1") as started:
        yield started


@pytest.fixture(scope="session")
def start(tiny_bundle: Path) -> Start:
    """start(options...): a server of the test's own, as a context manager."""
    return partial(running, tiny_bundle)


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds: a drawn face that MTCNN finds, on a moving ground, and a tone; MP4."""
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    with av.open(path, "w") as out:
        video = out.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt, video.bit_rate = 160, 120, "yuv420p", 400_000
        audio = out.add_stream("aac", rate=16000, layout="mono")
        for number in range(30):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        seconds = np.arange(48000) / 16000
        sound = (0.3 * np.sin(2 * np.pi * (200 + 60 * seconds) * seconds)).astype(np.float32)
        for first in range(0, len(sound), 1024):
            part = av.AudioFrame.from_ndarray(sound[None, first : first + 1024], format="fltp", layout="mono")
            part.sample_rate, part.pts = 16000, first
            out.mux(audio.encode(part))
        out.mux(audio.encode(None))
    return path
