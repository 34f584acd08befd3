"""A window that is read live holds what the same stretch of a file holds, with the same frames and samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_media import FakeClock, Window, assert_same, offline, windows_of

from mmx.runtime.errors import UsageError
from mmx.runtime.manifest import Preprocessing
from mmx.runtime.media.arrays import MediaArrays
from mmx.runtime.media.container import MediaInfo
from mmx.runtime.media.skipping import How
from mmx.runtime.streaming.arrivals import Arrival, Stream
from mmx.runtime.streaming.reading import PATIENCE_S, LiveReading
from mmx.runtime.streaming.sources import LiveSource
from mmx.runtime.streaming.windows import Rolling, RollingCuts

SPEC = Preprocessing()


def open_stream(path: Path) -> Stream:
    return Stream(LiveSource.of(str(path)), SPEC, video=True, audio=True, threads=1)


def read(path: Path, rolling: Rolling, **options: Any) -> list[Window]:
    """All windows of a file, as fast as they are asked for."""
    options = {"paced": False, "max_lag": None, **options}
    return list(windows_of(LiveReading(open_stream(path), rolling, SPEC, FakeClock(), **options)))


@pytest.mark.parametrize("window, hop", [(3.0, 0.5), (2.0, 0.7), (1.0, 1.0), (0.4, 0.1)])
def test_rolling_windows_are_those_that_a_stretch_reaches(window: float, hop: float) -> None:
    rolling = Rolling(window, hop)
    numbers = [(n * hop, n * hop + window) for n in range(100)]
    cuts = RollingCuts(rolling)
    handed_out = [cut for t in np.arange(0, 8, 0.04) for cut in cuts.starting(t, t + 0.04)]
    assert [(cut.start, cut.end) for cut in handed_out] == [each for each in numbers if each[0] <= 8.0 + 1e-6]
    after_a_hole = RollingCuts(rolling).starting(5.0, 5.01)
    assert [(c.start, c.end) for c in after_a_hole] == [each for each in numbers if each[0] <= 5.01 and each[1] > 5.0]


@pytest.mark.parametrize(
    "window, hop", [(0.1, 0.1), (3, 0), (3, 0.01), (1000, 1), (float("nan"), 1), (1, 2), (60, 0.5)]
)
def test_windows_that_make_no_sense(window: float, hop: float) -> None:
    with pytest.raises(UsageError):
        Rolling(window, hop)


@pytest.mark.parametrize("paced", [False, True])
@pytest.mark.parametrize(
    "name, options",
    [
        ("plain.mp4", {}),
        ("b_frames.mkv", {"codec": "libx264", "sound": "libopus", "rate": 48000}),
        ("live.webm", {"codec": "libvpx", "sound": "libopus", "rate": 48000, "seconds": 4.0}),
        ("stream.ts", {"codec": "mpeg2video", "fps": 25, "sound": "mp2"}),
        ("silent.mp4", {"sound": None, "fps": 3}),
        ("sound.ogg", {"picture": False, "sound": "libopus", "rate": 48000}),
    ],
)
def test_windows_are_those_of_the_file(
    name: str, options: dict[str, Any], paced: bool, make_video: Callable[..., Path]
) -> None:
    path = make_video(name, **options)
    found = read(path, Rolling(2.0, 0.5), paced=paced, max_lag=1.0 if paced else None)
    assert_same(found, offline(path, found, 2.0))
    assert [window.start for window in found] == [0.5 * n for n in range(len(found))]
    assert len(found) >= 4 and found[-1].end == pytest.approx(options.get("seconds", 6.0), abs=0.3)


def test_a_hop_that_is_no_multiple_of_the_interval(make_video: Callable[..., Path]) -> None:
    path = make_video("odd.mp4")
    found = read(path, Rolling(1.7, 0.3))
    assert_same(found, offline(path, found, 1.7))


def test_a_file_shorter_than_a_window(make_video: Callable[..., Path]) -> None:
    (window,) = read(make_video("short.mp4", 1.0), Rolling(3.0, 0.5))
    assert window.start == 0 and window.end == pytest.approx(1.0, abs=0.1) and window.frames == 2


class Kept(LiveReading):
    """Notes the frames that were not dropped, and each window's lag when it ended."""

    kept: list[tuple[float, np.ndarray]]

    def _show(self, shown: Any, time: float) -> None:
        if shown is not None:
            self.kept.append((time, shown.rgb))
        super()._show(shown, time)


def test_what_is_late_is_dropped_and_the_rest_is_as_offline_without_it(make_video: Callable[..., Path]) -> None:
    """Every frame takes 0.7 s to search, and one is due every 0.5 s."""
    path = make_video("slow.mp4", 10.0, sound="aac")
    clock, lags = FakeClock(), []
    reading = Kept(open_stream(path), Rolling(2.0, 0.5), SPEC, clock, paced=True, max_lag=0.6)
    reading.kept = []
    searched: list[int] = []

    def search() -> None:
        searched.append(1)
        clock.time += 0.7

    found = []
    for window in windows_of(reading, search):
        found.append(window)
        lags.append(reading.behind(window.end))
    began = 1000.0
    assert reading.dropped > 0 and len(reading.kept) + reading.dropped == 200
    assert max(lags) <= 0.6 + 0.7 and sum(lags) / len(lags) <= 0.6  # the largest lag, and a search
    assert len(searched) >= 10 and clock.time - began <= 10.0 + 0.6 + 0.7  # it does not add up
    times, frames = zip(*reading.kept, strict=True)
    there = offline(MediaArrays(np.stack(frames), times), found, 2.0)
    for one, other in zip(found, there, strict=True):
        if one.end > times[-1]:
            break  # the arrays end with the last frame
        assert [time for time, _ in one.looks] == [time for time, _ in other.looks], one.start
        assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(one.looks, other.looks, strict=True)), one.start
    whole = offline(path, found, 2.0)
    assert all(np.array_equal(a.sound, b.sound) for a, b in zip(found, whole, strict=True))


def test_nothing_is_dropped_without_need(make_video: Callable[..., Path]) -> None:
    clock = FakeClock()
    reading = LiveReading(open_stream(make_video("quick.mp4")), Rolling(2.0, 0.5), SPEC, clock, paced=True, max_lag=0.6)

    def search() -> None:
        clock.time += 0.3

    assert_same(found := list(windows_of(reading, search)), offline(make_video("quick.mp4"), found, 2.0))
    assert reading.dropped == 0


def test_decoding_that_cannot_keep_up_goes_on_at_key_frames(
    make_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, clock = open_stream(make_video("heavy.mp4", 12.0, sound=None)), FakeClock()
    took: list[How] = []
    take = stream.video.take  # type: ignore[union-attr]

    def slow(packet: Any, how: How = How.DECODE) -> Iterator[Any]:
        took.append(how)
        clock.time += 0.0 if how is How.DROP else 0.2  # a frame comes every 0.05 s
        return take(packet, how)

    monkeypatch.setattr(stream.video, "take", slow)
    reading = LiveReading(stream, Rolling(2.0, 0.5), SPEC, clock, paced=True, max_lag=0.5)
    lags = [reading.behind(window.end) for window in windows_of(reading)]
    assert {How.DROP, How.DECODE_AFRESH} <= set(took)
    assert took.index(How.DECODE_AFRESH) > took.index(How.DROP)
    # Twice the largest lag, the frame before it was noticed, and the group of pictures until the next key frame.
    assert len(lags) > 5 and max(lags) <= 2 * 0.5 + 0.2 + 0.5
    assert clock.time - 1000.0 <= 12.0 + 2 * 0.5 + 0.2


class RawVideo:
    """Frames as they are given, in place of a decoder."""

    hdr, end = False, 0.0

    def take(self, packet: Any, how: How) -> Iterator[tuple[float, np.ndarray]]:
        self.end = packet[0] + 0.1
        return iter([packet])

    def rgb(self, frame: np.ndarray) -> np.ndarray:
        return frame

    def faults(self) -> tuple[int, int, int]:
        return 0, 0, 0


class RawAudio(RawVideo):
    sample_rate = 16000

    def take(self, packet: Any, how: How | None = None) -> Iterator[tuple[int, np.ndarray]]:
        self.end = (packet[0] + len(packet[1])) / 16000
        return iter([packet])

    def flush(self) -> Iterator[tuple[int, np.ndarray]]:
        return iter([])


class Scripted:
    """A stream whose packets come when the test says."""

    ends, flags = False, set[str]()
    info = MediaInfo("script", None, True, True, 8, 8, 10.0, 16000, 1, 1, 1)

    def __init__(self, arrivals: list[Arrival]) -> None:
        self.video, self.audio, self._arrivals = RawVideo(), RawAudio(), arrivals

    def arrivals(self, clock: FakeClock, *, paced: bool) -> Iterator[Arrival]:
        for each in sorted(self._arrivals, key=lambda each: each.at):
            clock.wait_until(each.at)
            yield each

    def close(self) -> None:
        pass


def frames(start: float, stop: float, delay: float = 0.0) -> list[Arrival]:
    times = [round(start + 0.1 * n, 3) for n in range(round((stop - start) / 0.1))]
    return [Arrival(1000 + t + delay, t, "video", (t, np.full((8, 8, 3), int(10 * t), np.uint8))) for t in times]  # type: ignore[arg-type]


def sound(start: float, stop: float) -> list[Arrival]:
    starts = [round(start + 0.1 * n, 3) for n in range(round((stop - start) / 0.1))]
    return [
        Arrival(1000.1 + t, t, "audio", (round(16000 * t), np.full(1600, t, np.float32)))  # type: ignore[arg-type]
        for t in starts
    ]


@pytest.mark.parametrize("video_stops, sound_stops", [(3.0, 10.0), (10.0, 3.0), (0.0, 10.0), (10.0, 0.0)])
def test_a_track_that_stops_is_not_waited_for(video_stops: float, sound_stops: float) -> None:
    """Neither a camera that is covered nor a microphone that is off keeps answers back."""
    clock = FakeClock()
    stream = Scripted(frames(0, video_stops) + sound(0, sound_stops))
    reading = LiveReading(stream, Rolling(1.0, 0.5), SPEC, clock, paced=True, max_lag=1.0)
    found = []
    for window in windows_of(reading):
        found.append(window)
        if window.end < 9.5:  # at the end all is let out
            assert reading.behind(window.end) <= PATIENCE_S + 0.2, window.start
    assert [window.end for window in found][:17] == [1.0 + 0.5 * n for n in range(17)]
    for window in found:
        expected = 2 if video_stops > 0 else 0  # what is on screen stays there
        assert window.frames == expected, window
        assert len(window.sound) == 16000 * max(0.0, min(window.end, sound_stops) - window.start)
    assert reading.dropped == 0


def test_a_track_that_comes_back_is_read_on() -> None:
    stream = Scripted(frames(0, 2) + frames(6, 10) + sound(0, 10))
    reading = LiveReading(stream, Rolling(1.0, 1.0), SPEC, FakeClock(), paced=True, max_lag=1.0)
    shown = {w.start: [int(pixels[0, 0, 0]) for _, pixels in w.looks] for w in windows_of(reading)}
    assert shown[1.0] == [10, 15] and shown[3.0] == [19, 19]
    assert shown[7.0] == [70, 75] and shown[8.0] == [80, 85]


def test_video_that_always_comes_late_is_shown_when_it_comes() -> None:
    stream = Scripted(frames(0, 10, delay=0.8) + sound(0, 10))
    reading = LiveReading(stream, Rolling(1.0, 1.0), SPEC, FakeClock(), paced=True, max_lag=1.0)
    found = list(windows_of(reading))
    assert all(window.frames == 2 for window in found[1:9]) and reading.dropped == 0
