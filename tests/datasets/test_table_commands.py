"""A table of video clips is trained on and evaluated, with its own labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmx.cli.main import main
from mmx.models.checkpoint import load_checkpoint
from mmx.training.synthetic.writer import EMOTIONS, write_clip


@pytest.mark.slow
def test_a_table_from_training_to_the_bench(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Columns of other names, a clip that is missing and one that is damaged, and labels mapped on either side."""
    monkeypatch.setenv("MMX_CACHE", str(tmp_path / "cache"))
    lines = ["recording,text,emotion,split"]
    for number, split in enumerate(("train", "train", "valid", "test")):
        for emotion in EMOTIONS[:4]:
            path = write_clip(tmp_path / "clips", emotion, number, seed=1)
            words = path.with_suffix(".txt").read_text().strip()
            lines.append(f'clips/{path.name},"{words}",{emotion},{split}')
    (tmp_path / "clips/noise.mp4").write_bytes(bytes(range(256)) * 40)
    table = tmp_path / "clips.csv"
    table.write_text("\n".join([*lines, "clips/none.mp4,x,happy,train", "clips/noise.mp4,x,happy,train"]))
    run, named = tmp_path / "run", ["--columns", "file=recording"]
    mapping = ["--map", "disgust=anger,fear="]
    options = ["--preset", "tiny", "--epochs", "1", "--threads", "1", "--out", str(run)]
    assert main(["train", str(table), *options, *named, *mapping]) == 0
    said = capsys.readouterr()
    assert "clips.csv line 18 is left out: clips/none.mp4 does not exist" in said.err
    assert "clips.csv line 19 is left out: " in said.err and "noise.mp4 cannot be read as media" in said.err
    assert "--columns file=recording --map disgust=anger,fear=" in said.out  # the next command can be copied
    checkpoint = load_checkpoint(run / "ckpt.pt")
    assert (checkpoint.labels, checkpoint.dataset) == (("anger", "happy"), "clips")

    scored = ["eval", str(run / "ckpt.pt"), "--data", str(table), "--no-speed", "--json", *named]
    assert main([*scored, *mapping]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 3
    assert main([*scored, "--map", "anger=mood,disgust=mood,happy=mood,fear="]) == 0  # the checkpoint's labels too
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["card"]["labels"] == ["mood"]
    assert main(scored) == 2
    assert "predicts anger, happy" in capsys.readouterr().err

    assert main(["export", str(run / "ckpt.pt")]) == 0
    data = ["--data", str(table), *named, *mapping]
    assert main(["calibrate", str(run / "ckpt.mmx"), *data, "--any-speed"]) in (0, 3)
    said = capsys.readouterr()
    assert "held out    3 samples" in said.out and "noise.mp4" in said.err
    what = ["--systems", "ours", "--checkpoint", f"ours={run / 'ckpt.pt'}", "--bundle", f"ours={run / 'ckpt.mmx'}"]
    how = ["--peers", "eager", "--backends", "onnxruntime", "--scenarios", "single-stream", "--minutes", "0"]
    assert main(["bench", *data, *what, *how, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["workload"]["dataset"] == "clips.csv (own)" and report["workload"]["total"] == 3
    assert set(report["scores"]["ours"]) == {"accuracy", "weighted_accuracy", "f1"}
    assert {row["status"] for row in report["rows"]} == {"ok"}
