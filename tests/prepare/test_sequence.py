"""The documented way from a release to scores: prepare, train, export, eval, on a made-up release with drawn people."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import releases

from mmx.cli.main import main
from mmx.models.checkpoint import load_checkpoint
from mmx.runtime.bundle import Bundle
from mmx.training.synthetic.emotions import EXPRESSIONS
from mmx.training.synthetic.writer import make_utterance

VIDEOS, MANY_VIDEOS, CLIPS, FPS = 3, 30, 6, 4  # one video for each split is enough to run everything
PAUSE_S = 0.5


def write_drawn_release(root: Path, videos: int = VIDEOS) -> None:
    """A MOSEI release: in each video one drawn person says one sentence for each emotion."""
    emotions = tuple(EXPRESSIONS)
    clips = []
    for video in range(videos):
        name = f"drawn_{video:03d}"
        frames, sound, lines = [], [], []
        at = 0.0
        for number, emotion in enumerate(emotions):
            speaker, chance = np.random.default_rng([5, video]), np.random.default_rng([6, video, number])
            made = make_utterance(emotion, speaker, chance, fps=FPS, agree=True)
            length = len(made.frames) / FPS
            frames += [*made.frames, *[made.frames[-1]] * int(PAUSE_S * FPS)]
            voice = np.zeros(int((length + PAUSE_S) * releases.RATE), np.float32)
            voice[: len(made.sound)] = made.sound
            sound.append(voice)
            label = tuple(int(emotion == other) for other in emotions)
            clips.append(releases.Clip(name, number, at, at + length, made.text, label))
            lines.append(f"{name}___{number}___{at}___{at + length}___{made.text}")
            at += length + PAUSE_S
        path = root / f"Videos/Full/Combined/{name}.mp4"
        releases.write_video(path, enumerate(frames), Fraction(1, FPS), Fraction(FPS), "libx264", preset="veryfast")
        samples = np.rint(np.concatenate(sound) * 32767).astype("<i2")[:, None]
        releases.write_wav(root / f"Audio/WAV_16000/{name}.wav", samples)
        (root / "Transcript/Combined").mkdir(parents=True, exist_ok=True)
        (root / f"Transcript/Combined/{name}.txt").write_text("\n".join(lines))
    releases.write_tables(root / "Labels", clips)


def test_from_a_release_to_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    release, data, run, cache = (str(tmp_path / name) for name in ("release", "data", "run", "cache"))
    write_drawn_release(tmp_path / "release")
    compat = ["--compat", "upstream"]
    assert main(["prepare", "mosei", release, "--out", data, "--workers", "2", *compat]) == 0
    train = ["--preset", "tiny", "--epochs", "1", "--threads", "1", "--cache", cache, "--out", run]
    assert main(["train", "mosei", "--data", data, *train, *compat]) == 0
    assert load_checkpoint(tmp_path / "run/ckpt.pt").compat == "upstream"
    assert main(["export", f"{run}/ckpt.pt"]) == 0
    assert Bundle.open(tmp_path / "run/ckpt.mmx").manifest.preprocessing.compat == "upstream"
    capsys.readouterr()
    only = ["--backends", "onnxruntime"]
    assert main(["eval", f"{run}/ckpt.mmx", "--data", data, "--cache", cache, "--no-speed", "--json", *only]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["samples"] == CLIPS  # one video
    assert {row["name"].split()[0] for row in scores["rows"]} >= {"PyTorch", "onnxruntime"}
    assert all(0 <= row["mean"]["f1"] <= 1 and row["flips"] == 0 for row in scores["rows"])


@pytest.mark.slow
def test_training_on_a_release_beats_chance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """People of the test split are in no other. Always predicting every emotion has an F1 of 28.6 %, guessing an AUC
    of 50 %."""
    write_drawn_release(tmp_path / "release", MANY_VIDEOS)
    data, run, cache = (str(tmp_path / name) for name in ("data", "run", "cache"))
    assert main(["prepare", "mosei", str(tmp_path / "release"), "--out", data, "--workers", "2"]) == 0
    train = ["--preset", "tiny", "--epochs", "8", "--threads", "1", "--cache", cache, "--out", run, "--balanced"]
    assert main(["train", "mosei", "--data", data, *train, "--augment", "noise:20,dark:2,flip"]) == 0
    capsys.readouterr()
    assert main(["eval", f"{run}/ckpt.pt", "--data", data, "--cache", cache, "--no-speed", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["samples"] == MANY_VIDEOS // 5 * CLIPS
    assert scores["rows"][0]["mean"]["f1"] > 0.45 and scores["rows"][0]["mean"]["auc"] > 0.7
