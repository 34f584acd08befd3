"""Times that lie: durations that were guessed or belong to others, sound that drifts, times that no file can hold."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from mmx.runtime.errors import BadDataError
from mmx.runtime.manifest import Preprocessing
from mmx.runtime.media.container import probe
from mmx.runtime.media.cuts import SpanCuts
from mmx.runtime.media.reader import Frame, SegmentEnd, read_segments
from mmx.runtime.media.transcript import read_transcript
from mmx.runtime.types import Span

MakeMedia = Callable[..., Path]


def _ends(path: Path, spans: list[Span] | None = None, **options: object) -> list[SegmentEnd]:
    events = read_segments(path, spans, Preprocessing(), **options)
    return [event for event in events if isinstance(event, SegmentEnd)]


def _noise(seconds: float, rate: int = 16000) -> np.ndarray:
    """Loud at first, then nearly nothing, so that a length guessed from the first packets is wrong."""
    sound = np.random.default_rng(0).normal(0, 3000, round(seconds * rate))
    sound[rate * 2 :] *= 0.01
    return sound.astype(np.int16)[None]


def _vbr_mp3(path: Path, make_media: MakeMedia, seconds: float) -> Path:
    """A variable-rate MP3 file without the header that gives its length."""
    with av.open(path, "w", container_options={"write_xing": "0"}) as out:
        stream = out.add_stream("libmp3lame", rate=16000, layout="mono", options={"q": "0"})
        stream.codec_context.qscale, stream.codec_context.global_quality = True, 0
        samples = _noise(seconds)
        for first in range(0, samples.shape[1], 576):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[:, first : first + 576]), "s16p", "mono")
            frame.sample_rate, frame.pts, frame.time_base = 16000, first, Fraction(1, 16000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def _aac(path: Path, make_media: MakeMedia, seconds: float) -> Path:
    samples = (_noise(seconds) / 32768).astype(np.float32)
    return make_media(path, sound={"samples": samples, "rate": 16000, "codec": "aac", "kind": "fltp"})


@pytest.mark.parametrize(("name", "make"), [("a.mp3", _vbr_mp3), ("a.aac", _aac)])
def test_a_guessed_length_decides_nothing(
    name: str, make: Callable[..., Path], make_media: MakeMedia, tmp_path: Path
) -> None:
    path = make(tmp_path / name, make_media, 130.0)
    with av.open(path) as container:
        assert abs(container.duration / av.time_base - 130) > 1, "FFmpeg's guess is wrong"
    assert probe(path).duration is None
    ends = _ends(path)
    assert [end.flags for end in ends] == [("utterance_split",)] * 2
    assert [end.span.end for end in ends] == pytest.approx([65, 130], abs=0.2)  # equal parts of its true length
    assert _ends(make(tmp_path / f"short-{name}", make_media, 116.0))[0].flags == ()
    (end, *_) = _ends(path, [Span(100, 110)])
    assert len(end.sound) == 160_000 and end.flags == ()


def _drifting(path: Path, factor: float, seconds: int) -> Path:
    """A click each second by the picture's clock; timestamps of the sound run ``factor`` times as fast as samples."""
    rate = 16000
    with av.open(path, "w") as out:
        stream = out.add_stream("pcm_s16le", rate=rate, layout="mono")
        stream.time_base = Fraction(1, 1000)
        total = round(seconds * rate / factor)
        samples = np.zeros(total, np.int16)
        for second in range(1, seconds):
            place = round(second * rate / factor)
            samples[place : place + 160] = 20000
        for first in range(0, total, 320):
            packet = av.Packet(samples[first : first + 320].tobytes())
            packet.stream, packet.time_base = stream, Fraction(1, 1000)
            packet.pts = packet.dts = round(first / rate * factor * 1000)
            out.mux_one(packet)
    return path


@pytest.mark.parametrize("factor", [0.999, 1.0, 1.001, 0.99])
def test_sound_follows_its_timestamps(factor: float, tmp_path: Path) -> None:
    ends = _ends(_drifting(tmp_path / "a.mkv", factor, 190), window=10.0)
    sound = np.concatenate([end.sound for end in ends])
    assert [end.flags for end in ends] == [()] * 19
    for second in range(1, 190):
        near = np.flatnonzero(np.abs(sound[second * 16000 - 1600 : second * 16000 + 1600]) > 0.3)
        assert len(near) > 80 and abs(near[0] - 1600) < 0.045 * 16000, second  # 190 ms and more before


def test_a_hole_is_no_drift(make_media: MakeMedia, tmp_path: Path) -> None:
    tone = np.full((1, 16000), 9000, np.int16)
    starts = [(0.0, 0), (0.6, 8000)]
    (end,) = _ends(make_media(tmp_path / "a.mkv", sound={"samples": tone, "rate": 16000, "starts": starts}))
    assert end.flags == ("sound_gap",) and not end.sound[8000:9600].any() and end.sound[9600:].all()


def test_times_beyond_what_a_file_can_hold(make_media: MakeMedia, tmp_path: Path) -> None:
    """An AVI file whose scale says that a frame lasts 17 years; sound that claims to go on in 17 years."""
    frames = [(i / 25, np.full((64, 64, 3), i, np.uint8)) for i in range(50)]
    tone = np.zeros((1, 32000), np.int16)
    path = make_media(tmp_path / "a.avi", picture={"frames": frames}, sound={"samples": tone, "rate": 16000})
    data = bytearray(path.read_bytes())
    place = data.index(b"vids") + 20  # strh: dwScale, dwRate
    scale, rate = struct.unpack_from("<II", data, place)
    for damaged in ((536_870_912, 1), (2**32 - 1, 1), (scale, 0), (0, rate), (1, 2**32 - 1)):
        struct.pack_into("<II", data, place, *damaged)
        path.write_bytes(data)
        try:
            ends = _ends(path)
        except BadDataError:
            continue
        assert all(0 <= end.span.start < end.span.end <= 3600 for end in ends), damaged
    duration = probe(path).duration
    assert duration is None or duration < 3600

    with av.open(tmp_path / "b.mkv", "w") as out:
        stream = out.add_stream("pcm_s16le", rate=16000, layout="mono")
        for number in range(100):
            packet = av.Packet(bytes(640))
            packet.stream, packet.time_base = stream, Fraction(1, 1000)
            packet.pts = packet.dts = number * 20 + (number >= 50) * 536_870_876_000
            out.mux_one(packet)
    ends = _ends(tmp_path / "b.mkv")
    assert ends[-1].span.end == pytest.approx(2.0, abs=0.05) and "repaired_timestamps" in ends[-1].flags


def test_an_utterance_of_years_is_cut_as_the_media_are_read(make_media: MakeMedia, tmp_path: Path) -> None:
    words = tmp_path / "a.srt"
    words.write_text("1\n0:0:0 --> 99999:00:00\nevermore")
    cues = read_transcript(words)
    assert isinstance(cues, list) and len(words.read_bytes()) < 50
    path = make_media(tmp_path / "a.wav", sound={"samples": np.zeros((1, 8000 * 250), np.int16), "rate": 8000})
    ends = _ends(path, cues)
    assert [(end.span.start, end.span.end) for end in ends] == [(0, 120), (120, 240), (240, 250)]
    assert all("utterance_split" in end.flags for end in ends)


def test_cuts_between_two_times_are_those_of_all_cuts() -> None:
    rng = np.random.default_rng(0)
    spans = [Span(s, s + d) for s, d in zip(rng.uniform(0, 900, 60), rng.uniform(0.1, 300, 60), strict=True)]
    every = list(SpanCuts(spans, 20.0).starting(1e9, 1e9))
    assert len(every) > 400 and [c.start for c in every] == sorted(c.start for c in every)
    cuts = SpanCuts(spans, 20.0)
    for start in rng.uniform(0, 1200, 200):
        end = start + rng.uniform(0, 5)
        found = sorted((c.start, c.end) for c in cuts.between(start, end))
        assert found == sorted((c.start, c.end) for c in every if c.start < end and c.end > start)


def _screen_recording(path: Path, make_media: MakeMedia) -> Path:
    """A frame at 0, 0.04 and 7 s, and nothing between them; eight seconds of sound."""
    frames = [(time, np.full((48, 64, 3), grey, np.uint8)) for time, grey in ((0.0, 10), (0.04, 60), (7.0, 200))]
    tone = np.full((1, 8 * 16000), 5000, np.int16)
    return make_media(
        path,
        picture={"frames": frames, "codec": "ffv1", "pixels": "bgr0"},
        sound={"samples": tone, "rate": 16000},
    )


def _shown(events: Iterator[Frame | SegmentEnd]) -> list[tuple[int, float, int]]:
    return [(e.segment, e.time, int(e.rgb[0, 0, 0])) for e in events if isinstance(e, Frame)]


def test_a_frame_that_is_still_on_screen_is_seen(make_media: MakeMedia, tmp_path: Path) -> None:
    path = _screen_recording(tmp_path / "a.mkv", make_media)
    windows = _shown(read_segments(path, None, Preprocessing(), window=2.0))
    expected = [10] + [60] * 13
    assert [grey for *_, grey in windows][:14] == expected
    assert [(segment, time) for segment, time, _ in windows] == [(int(t // 2), t) for t in np.arange(len(windows)) / 2]
    cue = _shown(read_segments(path, [Span(3.1, 4.3, "a"), Span(6.9, 7.02, "b")], Preprocessing()))
    assert [(segment, round(time, 3), grey) for segment, time, grey in cue] == [
        (0, 3.1, 60),
        (0, 3.6, 60),
        (0, 4.1, 60),
        (1, 6.9, 60),
    ]
