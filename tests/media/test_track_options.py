"""--video-track and --audio-track: another track than the file's default one, in-process and by workers."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner

from mmx.cli.main import main, mmx


@pytest.fixture(scope="module")
def two_sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds: a track with a low tone, then one with a high tone."""
    path = tmp_path_factory.mktemp("tracks") / "two.mkv"
    low, high = ((8000 * np.sin(np.arange(32000) * 2 * np.pi * f / 16000)).astype("<i2") for f in (200, 900))
    with av.open(path, "w") as out:
        streams = [out.add_stream("pcm_s16le", rate=16000, layout="mono") for _ in range(2)]
        for stream, samples in zip(streams, (low, high), strict=True):
            frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16000, 0, Fraction(1, 16000)
            out.mux([*stream.encode(frame), *stream.encode(None)])
    return path


def predicted(bundle: Path, file: Path, *options: str) -> dict:
    done = CliRunner().invoke(mmx, ["predict", str(bundle), str(file), "--json", "--backend", "onnxruntime", *options])
    assert done.exit_code == 0, (done.output, done.exception)
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))


@pytest.mark.parametrize("how", [[], ["--workers", "1"]], ids=["here", "by a worker"])
def test_the_chosen_track_is_read(tiny_bundle: Path, two_sounds: Path, how: list[str]) -> None:
    first, second = (predicted(tiny_bundle, two_sounds, "--audio-track", n, *how) for n in "01")
    assert first["modality_logits"]["audio"] != second["modality_logits"]["audio"]
    assert predicted(tiny_bundle, two_sounds, *how)["logits"] == first["logits"]  # nobody marked another as default
    assert all((answer["video_tracks"], answer["audio_tracks"]) == (0, 2) for answer in (first, second))


def test_the_number_of_tracks_is_printed_where_there_is_a_choice(
    tiny_bundle: Path, two_sounds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(tiny_bundle), str(two_sounds), "--audio-track", "1"]) == 0
    assert "  2 audio tracks in the file; one of each is read (--video-track" in capsys.readouterr().out


def test_a_track_that_is_not_there_is_one_line(
    tiny_bundle: Path, two_sounds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(tiny_bundle), str(two_sounds), "--audio-track", "5"]) == 5
    assert "has 2 audio tracks, and track 5 was asked for" in capsys.readouterr().err
