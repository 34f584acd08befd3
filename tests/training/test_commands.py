"""The commands as a user types them: synth, train, resume, eval, each with its one-line errors."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest

from mmx.cli.main import main
from mmx.datasets.dataset import find_dataset
from mmx.datasets.processed import LABELS, read_processed
from mmx.models.checkpoint import load_checkpoint


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

    # A bundle of the faces alone, without a tokenizer: PyTorch is scored without the other modalities too.
    assert main(["export", str(out / "ckpt.pt"), "--modalities", "visual"]) == 0
    capsys.readouterr()
    scored = ["eval", str(out / "ckpt.mmx"), "--data", str(drawn), "--backends", "onnxruntime", "--cache", cache]
    assert main([*scored, "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["rows"]
    assert (first["name"], second["name"]) == ("PyTorch", "onnxruntime fp32")
    assert second["error"] < 1e-4 and first["mean"] == second["mean"] != row["mean"]
    assert first["milliseconds"] > 0 and second["milliseconds"] > 0


def as_iemocap(drawn: Path, root: Path) -> Path:
    """The same utterances in IEMOCAP's layout and under its labels."""
    raw, meta = root / "IEMOCAP_RAW_PROCESSED", {}
    (root / "IEMOCAP_SPLIT").mkdir(parents=True)
    for split in ("train", "valid", "test"):
        names = []
        for number, item in enumerate(read_processed(drawn, "mosei", split)):
            name = f"Ses01F_{split}{number:02}_F000"
            folder = raw / f"Ses01F_{split}{number:02}" / name
            folder.mkdir(parents=True)
            for place, image in enumerate(item.images):
                shutil.copy(image, folder / f"image_L_{place}.jpg")
            shutil.copy(item.audio, folder / "audio_L.wav")
            label = LABELS["iemocap"][item.target.index(1)]
            meta[name] = {"start_time": 0.0, "end_time": 1.0, "text": item.text, "sr": 16000, "fps": 2, "label": label}
            names.append(name)
        (root / "IEMOCAP_SPLIT" / f"{split}_split.txt").write_text("\n".join(names) + "\n")
    (raw / "meta.pkl").write_bytes(pickle.dumps(meta))
    return root


@pytest.mark.slow
def test_a_data_set_by_its_name(drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``mmx train iemocap --data DIR`` and ``mosei``, where one folder holds both, then scores on the right one."""
    both = as_iemocap(drawn, shutil.copytree(drawn, tmp_path / "both"))
    options = ["--preset", "tiny", "--epochs", "1", "--cache", str(tmp_path / "cache"), "--threads", "1"]
    assert main(["train", str(both), *options]) == 2
    assert "mmx train iemocap|mosei --data" in capsys.readouterr().err
    for name in ("iemocap", "mosei"):
        out = tmp_path / name
        assert main(["train", name, "--data", str(both), "--out", str(out), *options]) == 0
        assert load_checkpoint(out / "ckpt.pt").labels == LABELS[name]
        arguments = ["eval", str(out / "ckpt.pt"), "--data", str(both), "--dataset", name, "--samples", "3"]
        capsys.readouterr()
        assert main([*arguments, "--cache", str(tmp_path / "cache"), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["samples"] == 3 and found["rows"][0]["milliseconds"] > 0
