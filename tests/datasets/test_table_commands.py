"""A table of video clips is trained on and evaluated, with its own labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmx.cli.main import main
from mmx.models.checkpoint import load_checkpoint
from mmx.training.synthetic.writer import EMOTIONS, write_clip


@pytest.mark.slow
def test_train_and_eval_on_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["file,text,emotion,split"]
    for number, split in enumerate(("train", "train", "valid", "test")):
        for emotion in EMOTIONS[:4]:
            path = write_clip(tmp_path / "clips", emotion, number, seed=1)
            words = path.with_suffix(".txt").read_text().strip()
            lines.append(f'clips/{path.name},"{words}",{emotion},{split}')
    table = tmp_path / "clips.csv"
    table.write_text("\n".join([*lines, "clips/none.mp4,x,happy,train"]))
    options = ["--preset", "tiny", "--epochs", "1", "--threads", "1", "--cache", str(tmp_path / "cache")]
    mapping = ["--map", "disgust=anger,fear="]
    assert main(["train", str(table), *options, *mapping, "--out", str(tmp_path / "run")]) == 0
    assert "clips.csv line 18 is left out: clips/none.mp4 does not exist" in capsys.readouterr().err
    checkpoint = load_checkpoint(tmp_path / "run/ckpt.pt")
    assert (checkpoint.labels, checkpoint.dataset) == (("anger", "happy"), "clips")
    scored = ["eval", str(tmp_path / "run/ckpt.pt"), "--data", str(table), "--no-speed", "--json"]
    assert main([*scored, *mapping, "--cache", str(tmp_path / "cache")]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 3
    assert main(scored) == 2
    assert "predicts anger, happy" in capsys.readouterr().err
