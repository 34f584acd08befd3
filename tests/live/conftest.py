"""Small media for the tests of live reading."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the modules beside the tests


@pytest.fixture(scope="session")
def make_video(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """make_video(name, seconds, ...): moving noise that differs in every frame, and a sweep; by name's container."""

    def make(
        name: str,
        seconds: float = 6.0,
        *,
        fps: int = 20,
        codec: str = "mpeg4",
        sound: str | None = "aac",
        picture: bool = True,
        options: dict[str, str] | None = None,
        rate: int = 16000,
    ) -> Path:
        path = tmp_path_factory.mktemp("live") / name
        random = np.random.default_rng(0)
        with av.open(path, "w") as out:
            video = out.add_stream(codec, rate=fps, options=options or {}) if picture else None
            if video:
                video.width, video.height, video.pix_fmt, video.bit_rate = 96, 64, "yuv420p", 300_000
                video.gop_size = 10
            audio = out.add_stream(sound, rate=rate, layout="mono") if sound else None
            t = np.arange(int(seconds * rate)) / rate
            samples = (0.3 * np.sin(2 * np.pi * (200 + 40 * t) * t)).astype(np.float32)
            given = 0
            for number in range(int(seconds * fps)):
                if video:
                    small = random.integers(0, 255, (8, 12, 3), np.uint8)
                    pixels = np.ascontiguousarray(small.repeat(8, 0).repeat(8, 1))
                    out.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
                if audio:
                    until = int((number + 1) * rate / fps)
                    while until - given >= 1024 or (number + 1 == int(seconds * fps) and given < until):
                        part = samples[None, given : min(given + 1024, until)]
                        frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
                        frame.sample_rate, frame.pts = rate, given
                        given += part.shape[1]
                        out.mux(audio.encode(frame))
            for stream in filter(None, (video, audio)):
                out.mux(stream.encode(None))
        return path

    return make
