"""Clips are as long as their utterances, hold picture and sound, are made once, and stay under the cap."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from mmx.benchmarks.workload import clips
from mmx.benchmarks.workload.clips import clip_folder, make_clip, source_video
from mmx.benchmarks.workload.utterances import synthetic, utterance_of
from mmx.benchmarks.workload.vocabulary import speech
from mmx.runtime.errors import BadDataError, EnvironmentMissing, UsageError
from mmx.runtime.media.decode import probe


@pytest.fixture
def source(tmp_path, monkeypatch) -> Path:
    """Two seconds of picture and sound, and a cache of its own."""
    monkeypatch.setenv("MMX_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "source.mp4"
    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264", rate=24)
        video.width, video.height, video.pix_fmt = 320, 180, "yuv420p"
        audio = file.add_stream("aac", rate=16000, layout="mono")
        for i in range(48):
            frame = av.VideoFrame.from_ndarray(np.full((180, 320, 3), 5 * i, np.uint8), "rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 24)
            file.mux(video.encode(frame))
        for start in range(0, 32000, 1024):
            tone = np.sin(np.arange(start, start + 1024) / 6).astype(np.float32)[None]
            sound = av.AudioFrame.from_ndarray(tone, "fltp", "mono")
            sound.sample_rate, sound.pts, sound.time_base = 16000, start, Fraction(1, 16000)
            file.mux(audio.encode(sound))
        for stream in (video, audio):
            file.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("seconds", [0.8, 5.0])
def test_a_clip_is_as_long_as_its_utterance(source, seconds):
    utterance = utterance_of(seconds)
    folder = clip_folder(source, replace(synthetic("iemocap"), utterances=(utterance,), weights=(1,)))
    clip = make_clip(source, folder, utterance)
    info = probe(clip.path)
    assert info.has_video
    assert info.has_audio
    assert info.duration == pytest.approx(seconds, abs=0.15)
    assert clip.text == speech(utterance.words)
    written = clip.path.stat().st_mtime_ns
    assert make_clip(source, folder, utterance).path.stat().st_mtime_ns == written


def test_another_source_is_another_folder_beside_the_first(source, tmp_path):
    work = replace(synthetic("iemocap"), utterances=(utterance_of(1.0),), weights=(1,))
    first = clip_folder(source, work)
    make_clip(source, first, utterance_of(1.0))
    other = tmp_path / "other.mp4"
    other.write_bytes(source.read_bytes() + b"\0")
    assert clip_folder(other, work) != first
    assert first.exists()  # another run may be using it


def test_the_cap_is_said_before_anything_is_written(source):
    with pytest.raises(UsageError, match=r"GB in .*clips-mosei"):
        clip_folder(source, synthetic("mosei"))
    assert not list((source.parent / "cache").rglob("*.mp4"))


def test_a_source_without_sound_or_picture_is_rejected_and_leaves_nothing(source, tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"not a video")
    folder = tmp_path / "clips"
    with pytest.raises(BadDataError, match=r"bad\.mp4"):
        make_clip(bad, folder, utterance_of(1.0))
    assert not list(folder.iterdir())


def test_without_a_checkout_a_clip_must_be_given(source, monkeypatch):
    monkeypatch.setattr(clips, "DEMO", Path("/nowhere/clip.py"))
    with pytest.raises(EnvironmentMissing, match="talking face"):
        source_video(None)
    assert source_video(source) == source
