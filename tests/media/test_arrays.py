"""Frames and sound in memory are read as a file of the same content is, and what they cannot be is said."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from mmx.runtime import MediaArrays, MmxError
from mmx.runtime.manifest import MelSpec, Preprocessing
from mmx.runtime.media.reader import Frame, SegmentEnd, read_segments
from mmx.runtime.types import Span

RATE = 16000
FPS = 10
RANDOM = np.random.default_rng(5)
FRAMES = RANDOM.integers(0, 256, (30, 48, 64, 3), np.uint8)
TIMES = np.arange(30) / FPS
SOUND = RANDOM.integers(-20000, 20000, RATE * 3).astype(np.int16)
NO_TIMES: dict[str, Any] = {"frames": FRAMES}


def read(media: Any, spans: list[Span] | None = None, spec: Preprocessing | None = None, **options: Any) -> list[tuple]:
    events = read_segments(media, spans, spec or Preprocessing(), threads=1, **options)
    return [
        (e.segment, round(e.time, 3), e.rgb.tobytes())
        if isinstance(e, Frame)
        else (e.segment, e.span, e.sound.tobytes(), e.sample_rate, e.frames, e.flags)
        for e in events
    ]


@pytest.fixture(scope="module")
def lossless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same frames and sound in a file that keeps every bit."""
    path = tmp_path_factory.mktemp("lossless") / "a.mkv"
    with av.open(path, "w") as out:
        video, audio = out.add_stream("ffv1", rate=FPS), out.add_stream("pcm_s16le", rate=RATE, layout="mono")
        video.width, video.height, video.pix_fmt = 64, 48, "bgr0"
        packets = []
        for number, rgb in enumerate(FRAMES):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            packets += video.encode(frame)
        for start in range(0, len(SOUND), 800):
            frame = av.AudioFrame.from_ndarray(SOUND[None, start : start + 800], format="s16", layout="mono")
            frame.sample_rate, frame.pts = RATE, start
            packets += audio.encode(frame)
        packets += [*video.encode(None), *audio.encode(None)]
        for packet in sorted(packets, key=lambda each: each.dts * each.time_base):
            out.mux(packet)
    return path


SPANS = [Span(0.2, 1.1, "one"), Span(0.9, 2.4), Span(2.9, 9.0)]


@pytest.mark.parametrize("how", [{}, {"spans": SPANS}, {"window": 0.7}, {"video": False}, {"audio": False}])
def test_they_give_what_a_lossless_file_gives(lossless: Path, how: dict[str, Any]) -> None:
    arrays = MediaArrays(FRAMES, TIMES, SOUND, RATE)
    expected = read(lossless, **how)
    assert expected and read(arrays, **how) == expected == read(arrays, **how)


@pytest.mark.parametrize("rate", [8000, 44100])
def test_other_rates_are_resampled_as_a_files(make_media: Callable[..., Path], tmp_path: Path, rate: int) -> None:
    path = make_media(tmp_path / "a.wav", sound={"samples": SOUND[None], "rate": rate})
    for spec in (Preprocessing(), Preprocessing(mel=MelSpec(own_rate=True))):
        (from_file,), (from_array,) = read(path, spec=spec), read(MediaArrays(sound=SOUND, sample_rate=rate), spec=spec)
        assert from_array[3:] == from_file[3:] and from_array[3] == (rate if spec.mel.own_rate else RATE)
        one, other = (np.frombuffer(each[2], np.float32) for each in (from_file, from_array))
        assert abs(len(one) - len(other)) <= 1
        np.testing.assert_allclose(one[: len(other)], other[: len(one)], atol=1e-6)


def test_channels_and_number_formats_are_the_same_sound() -> None:
    (expected,) = read(MediaArrays(sound=SOUND, sample_rate=RATE))
    floats = SOUND.astype(np.float32) / 2**15
    for sound in (floats, floats.astype(np.float64), SOUND[None], np.stack([floats, floats])):
        assert read(MediaArrays(sound=sound, sample_rate=np.int64(RATE))) == [expected]
    stereo = np.stack([floats, np.zeros_like(floats)])
    (half,) = read(MediaArrays(sound=stereo, sample_rate=RATE))
    np.testing.assert_array_equal(np.frombuffer(half[2], np.float32), floats / 2)


def test_frames_at_any_times_are_seen_while_they_are_on_screen() -> None:
    media = MediaArrays(FRAMES[:4], [0.0, 0.6, 0.7, 3.1], name="camera")
    events = list(read_segments(media, None, Preprocessing()))
    frames = [event for event in events if isinstance(event, Frame)]
    shown = [(frame.time, next(i for i in range(4) if (frame.rgb == FRAMES[i]).all())) for frame in frames]
    assert shown == [(k / 2, 0 if k < 2 else 2 if k < 7 else 3) for k in range(11)]
    (end,) = (event for event in events if isinstance(event, SegmentEnd))
    assert (end.span.end, len(end.sound)) == (pytest.approx(5.5), 0)


def test_a_view_is_read_like_a_copy() -> None:
    wide = RANDOM.integers(0, 256, (6, 48, 128, 3), np.uint8)
    view = wide[:, ::-1, :64]
    assert read(MediaArrays(view, TIMES[:6])) == read(MediaArrays(view.copy(), TIMES[:6]))


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "neither frames nor sound"),
    (NO_TIMES, "frames and no times"),
    ({"times": TIMES, "sound": SOUND, "sample_rate": RATE}, "times and no frames"),
    ({"frames": FRAMES, "times": TIMES[:-1]}, r"times are \[29\] for 30 frames"),
    ({"frames": FRAMES, "times": TIMES[::-1]}, "do not increase"),
    ({"frames": FRAMES, "times": [0.0] * 30}, "do not increase"),
    ({"frames": FRAMES, "times": TIMES - 1}, "do not increase from 0 s"),
    ({"frames": FRAMES, "times": TIMES * np.nan}, "do not increase"),
    ({"frames": FRAMES, "times": TIMES * 1e6}, "100000 s apart"),
    ({"frames": FRAMES, "times": ["a"] * 30}, "no numbers"),
    ({"frames": list(FRAMES), "times": TIMES}, "frames are list, not an array"),
    ({"frames": FRAMES / 255, "times": TIMES}, r"frames are float64 \[30, 48, 64, 3\]"),
    ({"frames": FRAMES[0], "times": TIMES}, r"frames are uint8 \[48, 64, 3\]"),
    ({"frames": FRAMES.swapaxes(1, 3), "times": TIMES}, r"frames are uint8 \[30, 3, 64, 48\]"),
    ({"frames": FRAMES[:0], "times": []}, r"frames are uint8 \[0, 48, 64, 3\]"),
    ({"sound": SOUND}, "sample_rate is None"),
    ({"frames": FRAMES, "times": TIMES, "sample_rate": RATE}, "sample_rate and no sound"),
    ({"sound": SOUND, "sample_rate": 16.0}, "sample_rate is 16.0"),
    ({"sound": SOUND, "sample_rate": 16}, "sample_rate is 16"),
    ({"sound": SOUND.tolist(), "sample_rate": RATE}, "sound is list, not an array"),
    ({"sound": SOUND[:, None], "sample_rate": RATE}, r"sound is int16 \[48000, 1\]"),
    ({"sound": SOUND[:0], "sample_rate": RATE}, r"sound is int16 \[0\]"),
    ({"sound": SOUND.astype(complex), "sample_rate": RATE}, "sound is complex128"),
    ({"sound": SOUND * np.float32(np.nan), "sample_rate": RATE}, "not finite"),
    ({"frames": np.zeros((1, 1, 40_000_000, 3), np.uint8), "times": [0.0]}, "40000000x1 pixels"),
]


@pytest.mark.parametrize(("arguments", "words"), WRONG)
def test_what_is_wrong_is_said(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(MmxError, match=words) as error:
        MediaArrays(**arguments)
    assert error.value.hint and error.value.exit_code in (2, 5)
