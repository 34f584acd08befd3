"""Segments of made files against a second way to the same answer: brute force over the frame times, the sound's own
formula, the whole file against its windows."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmx.runtime.errors import BadDataError, UsageError
from mmx.runtime.manifest import Preprocessing, VideoSpec
from mmx.runtime.media.reader import Frame, SegmentEnd, probe, read_segments
from mmx.runtime.types import Span

PLAIN = Preprocessing()
MakeMedia = Callable[..., Path]


def _read(path: Path, spans: list[Span] | None = None, spec: Preprocessing = PLAIN, **options: object):
    """({segment: its frames}, [segment ends])."""
    frames: dict[int, list[Frame]] = {}
    ends: list[SegmentEnd] = []
    for event in read_segments(path, spans, spec, **options):
        if isinstance(event, Frame):
            assert all(event.segment != end.segment for end in ends), "a frame after its segment's end"
            frames.setdefault(event.segment, []).append(event)
        else:
            ends.append(event)
    for end in ends:
        assert end.frames == len(frames.get(end.segment, []))
    return frames, ends


def _grey(number: int) -> np.ndarray:
    """A frame that carries its number."""
    return np.full((48, 64, 3), number % 250, np.uint8)


def _tone(seconds: float, rate: int, hertz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


@pytest.fixture(scope="module")
def uneven(make_media: MakeMedia, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """A lossless file whose 200 frames come at uneven times (some 2 s apart), and those times."""
    rng = np.random.default_rng(3)
    gaps = rng.choice([0.02, 0.04, 0.1, 0.25, 0.5, 0.7, 2.0], 199)
    times = [0.0, *np.round(np.cumsum(gaps), 3).tolist()]
    path = tmp_path_factory.mktemp("uneven") / "uneven.mkv"
    frames = [(second, _grey(i)) for i, second in enumerate(times)]
    return make_media(path, picture={"frames": frames, "codec": "ffv1", "pixels": "bgr0"}), times


def _on_screen(times: list[float], end: float, span: Span, interval: float) -> list[tuple[float, int]]:
    """Brute force: for each start + k * interval before the video's end, that time and the number of the last frame
    that has begun (within a millisecond)."""
    looks = [span.start + k * interval for k in range(math.ceil((span.end - span.start) / interval - 1e-9))]
    return [(look, max(i for i, t in enumerate(times) if t <= look + 0.001)) for look in looks if look < end - 0.001]


def test_frames_of_overlapping_spans(uneven: tuple[Path, list[float]]) -> None:
    path, times = uneven
    rng = np.random.default_rng(0)
    starts, lengths = rng.uniform(0, times[-1], 40).round(3).tolist(), rng.uniform(0.05, 20, 40).round(3).tolist()
    spans = [Span(start, start + length, str(start)) for start, length in zip(starts, lengths, strict=True)]
    spans.append(Span(times[5], times[9], "exact"))
    frames, ends = _read(path, spans)
    assert len(ends) == len(spans) and {end.span.text for end in ends} == {span.text for span in spans}
    assert [end.segment for end in sorted(ends, key=lambda e: (e.span.start, e.span.end))] == list(range(len(spans)))
    for end in ends:
        span = next(span for span in spans if span.text == end.span.text)
        mine = frames.get(end.segment, [])
        expected = _on_screen(times, times[-1] + 0.04, span, 0.5)
        assert [frame.time for frame in mine] == pytest.approx([look for look, _ in expected])
        for frame, (_, number) in zip(mine, expected, strict=True):
            assert frame.rgb.dtype == np.uint8 and (frame.rgb == number % 250).all()


def test_every_nth_frame(uneven: tuple[Path, list[float]]) -> None:
    path, times = uneven
    spec = replace(PLAIN, video=VideoSpec(every_nth=7), max_segment_s=1000)
    frames, _ = _read(path, [Span(0, 500), Span(times[20], times[60])], spec)
    assert [round(frame.time, 3) for frame in frames[0]] == times[::7]
    assert [round(frame.time, 3) for frame in frames[1]] == times[20:60:7]


@pytest.mark.parametrize(
    ("rate", "channels", "codec", "kind", "full_scale", "suffix"),
    [
        (8000, 1, "pcm_s16le", "s16", np.int16(32767), "wav"),
        (48000, 2, "pcm_s16le", "s16", np.int16(32767), "wav"),
        (44100, 2, "pcm_f32le", "flt", np.float32(1), "mkv"),
        (44100, 1, "pcm_u8", "u8", np.uint8(127), "wav"),
        (96000, 2, "pcm_s32le", "s32", np.int32(2**31 - 1), "mov"),
        (16000, 6, "pcm_f64le", "dbl", np.float64(1), "wav"),
        (22050, 2, "flac", "s16", np.int16(32767), "flac"),
        (48000, 2, "aac", "fltp", np.float32(1), "mp4"),
        (44100, 2, "libmp3lame", "s16p", np.int16(32767), "mp3"),
    ],
)
def test_sound_is_mono_16_khz(
    make_media: MakeMedia,
    tmp_path: Path,
    rate: int,
    channels: int,
    codec: str,
    kind: str,
    full_scale: np.generic,
    suffix: str,
) -> None:
    """Against the formula of what was encoded: the channels' mix, at 16 kHz, in step with the file's clock."""

    def tones(rate: int) -> np.ndarray:
        time = np.arange(rate * 2) / rate
        return np.stack(
            [0.5 / (1 + (channels > 2)) * np.sin(2 * np.pi * 200 * (c + 1) * time) for c in range(channels)]
        )

    samples = tones(rate) * float(full_scale) + (128 if kind == "u8" else 0)
    samples = (samples.round() if full_scale > 1 else samples).astype(full_scale.dtype)
    path = make_media(tmp_path / f"a.{suffix}", sound={"samples": samples, "rate": rate, "codec": codec, "kind": kind})
    info = probe(path)
    assert (info.sample_rate, info.channels, info.has_video, info.has_audio) == (rate, channels, False, True)
    (end,) = _read(path)[1]
    lossy = codec in ("aac", "libmp3lame")
    assert end.sound.dtype == np.float32 and abs(len(end.sound) - 32000) <= (1200 if lossy else 2)
    middle = slice(3200, 28800)
    weights = np.array([0.7071, 0.7071, 1, 0, 0.5, 0.5]) if channels == 6 else np.full(channels, 1 / channels)
    expected, sound = (weights @ tones(16000))[middle], end.sound[middle]
    if lossy:
        assert np.corrcoef(sound, expected)[0, 1] > 0.97
    else:
        assert np.abs(sound - expected).max() < (0.01 if kind == "u8" else 2e-3)


def test_opposite_channels_cancel(make_media: MakeMedia, tmp_path: Path) -> None:
    tone = (_tone(1, 16000) * 32767).astype(np.int16)
    path = make_media(tmp_path / "a.wav", sound={"samples": np.stack([tone, -tone]), "rate": 16000})
    assert not _read(path)[1][0].sound.any()


def test_late_sound_and_holes_stay_aligned(make_media: MakeMedia, tmp_path: Path) -> None:
    frames = [(i / 10, _grey(i)) for i in range(60)]
    tone = (_tone(3, 16000) * 32767).astype(np.int16)[None]
    path = make_media(
        tmp_path / "late.mkv",
        picture={"frames": frames},
        sound={"samples": tone, "rate": 16000, "starts": [(1.25, 0), (4.0, 16000)]},
    )
    (end,) = _read(path)[1]
    expected = np.zeros(6 * 16000)
    expected[20000:36000] = tone[0, :16000] / 32768
    expected[64000:96000] = tone[0, 16000:] / 32768
    np.testing.assert_allclose(end.sound, expected, atol=1e-6)
    assert end.flags == ("sound_gap",)
    ends = _read(path, [Span(0.5, 1.0, "before"), Span(2.5, 3.5, "hole"), Span(4.5, 5.0, "after")])[1]
    assert [len(end.sound) for end in ends] == [0, 0, 8000]
    np.testing.assert_allclose(ends[2].sound, expected[72000:80000], atol=1e-6)


def test_windows_are_the_whole_file_cut(talking_face: tuple[Path, str]) -> None:
    path, _ = talking_face
    whole_frames, (whole,) = _read(path)
    assert whole.frames == 20 and whole.flags == () and probe(path).width == 640
    assert np.sqrt(np.mean(whole.sound**2)) > 0.01, "there is speech"
    for window in (0.4, 1.7, 3.0, 4.93):
        ends = _read(path, window=window)[1]
        np.testing.assert_array_equal(np.concatenate([end.sound for end in ends]), whole.sound)
        assert [end.span.start for end in ends] == pytest.approx([i * window for i in range(len(ends))])
        assert [end.span.end for end in ends[:-1]] == pytest.approx([end.span.start for end in ends[1:]])
        assert (
            ends[-1].span.end == whole.span.end and ends[-1].span.end - ends[-1].span.start > min(0.4, window / 2) * 0.9
        )
    np.testing.assert_array_equal(whole_frames[0][0].rgb, _read(path, window=1.0)[0][0][0].rgb)


def test_long_utterances_are_cut_in_equal_parts(make_media: MakeMedia, tmp_path: Path) -> None:
    samples = np.zeros((1, 8000 * 50), np.int16)
    path = make_media(tmp_path / "a.mkv", sound={"samples": samples, "rate": 8000})
    spec = replace(PLAIN, max_segment_s=20)
    ends = _read(path, None, spec)[1]
    assert [(round(end.span.start, 2), round(end.span.end, 2)) for end in ends] == [
        (0, 16.67),
        (16.67, 33.33),
        (33.33, 50),
    ]
    assert all(end.flags == ("utterance_split",) for end in ends) and sum(len(end.sound) for end in ends) == 800_000
    ends = _read(path, [Span(1, 26, "a"), Span(30, 49, "b")], spec)[1]
    assert [(end.span.start, end.span.end, end.span.text) for end in ends] == [
        (1, 13.5, "a"),
        (13.5, 26, "a"),
        (30, 49, "b"),
    ]
    assert [end.flags for end in ends] == [("utterance_split",), ("utterance_split",), ()]
    assert _read(path)[1][0].flags == ()


def test_spans_beyond_the_file_say_so(uneven: tuple[Path, list[float]]) -> None:
    path, times = uneven
    ends = _read(path, [Span(times[-1] + 5, times[-1] + 9, "never"), Span(times[-3], times[-1] + 3, "cut")])[1]
    assert ends[0].span.text == "cut" and ends[0].frames and ends[0].span.end < times[-1] + 1 and ends[0].flags == ()
    assert ends[1].flags == ("outside_media",) and not ends[1].frames and not len(ends[1].sound)


@pytest.mark.parametrize(
    ("spans", "window", "message"),
    [
        ([Span(2, 1)], None, "from 2 to 1"),
        ([Span(0, float("nan"))], None, "to nan"),
        ([Span(0, float("inf"))], None, "to inf"),
        (None, 0.0, "window"),
        (None, float("nan"), "window"),
        (None, 500.0, "window"),
        ([Span(0, 1)], 2.0, "both"),
    ],
)
def test_senseless_cuts(
    uneven: tuple[Path, list[float]], spans: list[Span] | None, window: float | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        _read(uneven[0], spans, window=window)


def test_too_many_spans_at_once(uneven: tuple[Path, list[float]]) -> None:
    with pytest.raises(BadDataError, match="overlap"):
        _read(uneven[0], [Span(0, 9)] * 300)


def test_tracks_can_be_left_out(talking_face: tuple[Path, str]) -> None:
    path, _ = talking_face
    frames, (end,) = _read(path, video=False)
    assert not frames and len(end.sound) > 150_000
    frames, (end,) = _read(path, audio=False)
    assert len(frames[0]) == 20 and not len(end.sound)
    frames, (end,) = _read(path, video=False, audio=False)
    assert not frames and not len(end.sound) and end.span.end == pytest.approx(9.97, abs=0.05)


MEMORY = """
import resource, sys
from mmx.runtime.manifest import Preprocessing
from mmx.runtime.media.reader import Frame, read_segments
frames = sound = 0
for event in read_segments(sys.argv[1], None, Preprocessing(), threads=1):
    if isinstance(event, Frame):
        frames += 1
    else:
        sound += len(event.sound)
print(frames, sound, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize("minutes", [10, pytest.param(120, marks=pytest.mark.slow)])
@pytest.mark.parametrize("layout", ["interleaved", "sound last"])
def test_memory_stays_flat(tmp_path: Path, repeat_media: Callable[..., Path], minutes: int, layout: str) -> None:
    measured = {}
    for length in (1, minutes):
        path = repeat_media(tmp_path / f"{length}.mkv", seconds=length * 60, interleaved=layout == "interleaved")
        out = subprocess.run(
            [sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True
        ).stdout
        frames, sound, kilobytes = map(int, out.split())
        assert frames == length * 120 and abs(sound - length * 60 * 16000) < 16000
        measured[length] = kilobytes
        path.unlink()
    assert measured[minutes] - measured[1] < 24_000, measured
