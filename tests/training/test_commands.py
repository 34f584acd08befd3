"""The commands as a user types them: synth, train, resume, eval, each with its one-line errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmx.cli.main import main
from mmx.models.checkpoint import load_checkpoint
from mmx.training.data import find_dataset


def test_errors_are_one_line(tmp_path: Path, drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        (["train", "mosei"], "where is mosei?"),
        (["train", str(tmp_path)], "holds no data set"),
        (["train", str(drawn), "--system", "mult"], "takes extracted features"),
        (["train", str(drawn), "--preset", "huge"], "no preset 'huge'"),
        (["train", str(drawn), "--preset", "tiny", "--form", "deployed"], "not trained in the form 'deployed'"),
        (["train", str(drawn), "--modalities", "smell"], "modalities are"),
        (["synth", str(drawn), "--samples", "40"], "not empty"),
    ):
        assert main(arguments) == 2
        assert said in capsys.readouterr().err


def test_what_synth_made_is_told_from_the_real_thing(drawn: Path) -> None:
    found = find_dataset(drawn)
    assert (found.layout, found.name) == ("mosei", "synthetic")
    assert find_dataset("mosei", drawn).root == drawn


@pytest.mark.slow
@pytest.mark.parametrize("form", ["residual", "reserved"])
def test_train_resume_and_eval(drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    cache, out = str(tmp_path / "cache"), tmp_path / "run"
    options = [
        "--preset",
        "tiny",
        "--form",
        form,
        "--cache",
        cache,
        "--out",
        str(out),
        "--threads",
        "1",
        "--epochs",
        "2",
    ]
    assert main(["train", str(drawn), *options]) == 0
    record = json.loads((out / "training.json").read_text())
    assert len(record["epochs"]) == 2 and record["data"]["name"] == "synthetic"
    loaded = load_checkpoint(out / "ckpt.pt")
    assert loaded.form == form and loaded.dataset == "synthetic" and loaded.labels[0] == "anger"
    assert main(["train", str(drawn), *options]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(["train", str(drawn), *options, "--resume"]) == 0
    capsys.readouterr()
    assert main(["eval", str(out / "ckpt.pt"), "--data", str(drawn), "--cache", cache, "--no-speed", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["name"] == "PyTorch" and 0 <= row["mean"]["f1"] <= 1
