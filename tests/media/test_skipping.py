"""What is left undecoded changes nothing: the frames looked at, and the ends, are those of decoding everything."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from mmx.runtime.manifest import Preprocessing, VideoSpec
from mmx.runtime.media import reader
from mmx.runtime.media.decode import VideoTrack
from mmx.runtime.media.reader import Frame, read_segments
from mmx.runtime.types import Span

SECONDS, FPS = 6, 25
X264 = {"preset": "ultrafast", "bf": "3", "b-pyramid": "normal", "b-adapt": "0"}
CLIPS = {
    "long groups": ("a.mp4", "libx264", X264),
    "short groups": ("b.mkv", "libx264", X264 | {"g": "20"}),
    "open groups": ("c.mp4", "libx264", X264 | {"g": "20", "x264-params": "open-gop=1"}),
    "no reordering": ("d.mp4", "libx264", X264 | {"g": "20", "bf": "0"}),
    "key frames": ("e.avi", "mjpeg", {}),
    "transport stream": ("f.ts", "libx264", X264),
    "MPEG-4": ("g.mp4", "mpeg4", {"bf": "2"}),
}


def make(path: Path, codec: str, options: dict[str, str]) -> Path:
    """Noise that drifts, so that every frame differs from its neighbours and depends on them."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (64, 64 + SECONDS * FPS, 3), np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    with av.open(path, "w") as out:
        stream = out.add_stream(codec, rate=FPS, options=options)
        stream.width = stream.height = 128
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for i in range(SECONDS * FPS):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(noise[:, i : i + 128]), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def events(path: Path, spans: list[Span] | None, window: float | None, threads: int) -> list[tuple]:
    spec = Preprocessing(video=VideoSpec(interval_s=0.5))
    found = read_segments(path, spans, spec, window=window, threads=threads, audio=False)
    return [
        (e.segment, e.time, e.rgb.tobytes()) if isinstance(e, Frame) else (e.segment, e.span, e.flags) for e in found
    ]


@pytest.mark.parametrize("kind", CLIPS)
def test_the_frames_are_those_of_decoding_everything(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, codec, options = CLIPS[kind]
    path = make(tmp_path / name, codec, options)
    ways = [
        (None, None),
        (None, 1.3),
        ([Span(0.33, 1.7), Span(1.1, 1.3), Span(1.2, 4.01), Span(5.5, 5.9), Span(9.0, 9.5)], None),
    ]
    decoded: list[int] = []
    original = VideoTrack.__exit__
    monkeypatch.setattr(VideoTrack, "__exit__", lambda self, *e: (decoded.append(self.decoded), original(self, *e))[1])
    ahead = [events(path, *way, threads) for way in ways for threads in (1, 2)]
    with monkeypatch.context() as patch:
        patch.setattr(reader, "_looks", lambda cuts, spec: None)
        every = [events(path, *way, threads) for way in ways for threads in (1, 2)]
    assert ahead == every
    skipped, full = sum(decoded[: len(ahead)]), sum(decoded[len(ahead) :])
    if name.endswith(".ts") or codec == "mpeg4":
        assert skipped == full
    else:
        assert skipped < (0.2 if codec == "mjpeg" else 0.85) * full


def test_a_group_cut_short_is_left_out_to_its_end(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4", "libx264", X264 | {"g": "50", "keyint_min": "50", "bf": "0", "sc_threshold": "0"})
    with VideoTrack(path, 1, lambda time, end: math.ceil(time / 2 - 1e-6) * 2 < end - 1e-6) as track:  # each second one
        times = [time for time, _ in track]
    assert times[:2] == [0.0, 2.0] and 4.0 in times
    assert len(times) <= 2 + 50  # the last group has no next one to go on from
