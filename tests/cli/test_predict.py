"""``mmx predict`` as a user meets it: lines of JSON, a table, one line per error, exit codes."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmx.cli.main import main
from mmx.cli.render import render
from mmx.runtime.prediction import Prediction

DOCS = Path(__file__).parents[2] / "docs" / "predict.md"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of noise, 8 kHz stereo, loud and soft in turn: steady noise would be left out."""
    path = tmp_path_factory.mktemp("sound") / "noise.wav"
    with wave.open(str(path), "wb") as out:
        out.setnchannels(2)
        out.setsampwidth(2)
        out.setframerate(8000)
        loudness = np.where(np.arange(32000) // 1600 % 2, 1.0, 0.2)
        noise = loudness * np.random.default_rng(0).integers(-9000, 9000, 32000)
        out.writeframes(noise.astype("<i2").tobytes())
    return path


def strict(line: str) -> dict:
    """Parse JSON as the standard has it: no NaN, no Infinity."""

    def reject(constant: str) -> float:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(line, parse_constant=reject)


def test_each_segment_is_one_line_of_the_documented_json(tiny_bundle: Path, sound: Path, capsys) -> None:
    assert main(["predict", str(tiny_bundle), str(sound), "--window", "0.5", "--json", "--threads", "1"]) == 0
    out, err = capsys.readouterr()
    lines = [strict(line) for line in out.splitlines()]
    assert err == "" and [line["start"] for line in lines] == [0, 0.5, 1, 1.5]
    table = DOCS.read_text().split("## `--json`")[1].split("| flag |")[0]
    fields = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", table, re.M)))
    for line in lines:
        assert list(line) == fields
        for label, probability in line["probabilities"].items():
            assert probability == pytest.approx(1 / (1 + math.exp(-line["logits"][label])))


def test_the_table_names_what_matters(tiny_bundle: Path, sound: Path, capsys) -> None:
    assert main(["predict", str(tiny_bundle), str(sound), "--text", "I am so glad.", "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"ours \(iemocap\), (openvino|onnxruntime) fp32 on .* \(chosen by auto; -v says why\)$", out, re.M)
    for words in ("noise.wav  0.00-2.00 s", '"I am so glad."', "visual left out: no video track", "network"):
        assert words in out
    for label in ("ang", "exc", "fru", "hap", "neu", "sad"):
        assert re.search(rf"^  {label} .* \d+\.\d%", out, re.M)


def test_verbose_says_why_the_backend_was_chosen_and_quiet_nothing(tiny_bundle: Path, sound: Path, capsys) -> None:
    command = ["predict", str(tiny_bundle), str(sound), "--threads", "1"]
    assert main(["-v", *command]) == 0
    out, err = capsys.readouterr()
    assert re.search(r" on .* \(auto: (measured|onnx).*; no tensorrt", out) and re.search(r"^mmx: auto: ", err, re.M)
    assert main([*command, "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_one_bad_file_does_not_stop_the_others(tiny_bundle: Path, sound: Path, tmp_path: Path, capsys) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"not a video" * 100)
    code = main(["predict", str(tiny_bundle), str(bad), str(sound), "--json"])
    out, err = capsys.readouterr()
    assert code == 5 and [strict(line)["file"] for line in out.splitlines()] == [str(sound)]
    assert err.startswith("mmx: error: ") and str(bad) in err and "Traceback" not in err
    assert sum(line.startswith("mmx: error: ") for line in err.splitlines()) == 1


@pytest.mark.parametrize("fault", ["hash", "missing", "link", "json", "schema"])
def test_a_hostile_bundle_is_one_line(tiny_bundle: Path, sound: Path, tmp_path: Path, fault: str, capsys) -> None:
    copy = Path(shutil.copytree(tiny_bundle, tmp_path / "bad.mmx"))
    manifest = copy / "manifest.json"
    if fault == "hash":
        manifest.write_text(re.sub(r'("model\.onnx": ")[0-9a-f]{8}', r"\g<1>00000000", manifest.read_text()))
    elif fault == "missing":
        (copy / "model.onnx").unlink()
    elif fault == "link":
        (copy / "model.onnx").unlink()
        (copy / "model.onnx").symlink_to(tiny_bundle / "model.onnx")
    elif fault == "json":
        manifest.write_text(manifest.read_text()[:100])
    else:
        manifest.write_text(manifest.read_text().replace('"schema_version": 2', '"schema_version": 99'))
    assert main(["predict", str(copy), str(sound)]) == 5
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("mmx: error: ") and str(copy) in err.splitlines()[0]
    assert len(err.splitlines()) <= 2


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--backend", "tpu"], 2, "'tpu' is not one of"),
        (["--precision", "int4"], 2, "'int4' is not one of"),
        (["--backend", "onnxruntime", "--precision", "bf16"], 4, "bf16"),
        (["--text", "a", "--transcript", "b.srt"], 2, "--text and --transcript"),
        (["--text", "a", "--text", "b"], 2, "1 files and 2 of text"),
        (["--transcript", "absent.srt"], 2, "absent.srt"),
        (["--threads", "0"], 2, "--threads"),
        (["--window", "-2"], 2, "--window"),
    ],
)
def test_what_cannot_be_done_is_said(
    tiny_bundle: Path, sound: Path, arguments: list[str], code: int, words: str, capsys
) -> None:
    found = main(["predict", str(tiny_bundle), str(sound), *arguments])
    err = capsys.readouterr().err
    assert found == code
    assert err.startswith("mmx: error: ") and words in err.splitlines()[0]


def test_a_checkpoint_in_place_of_a_bundle(tiny_checkpoint: Path, sound: Path, capsys) -> None:
    assert main(["predict", str(tiny_checkpoint), str(sound)]) == 2
    assert f"mmx export {tiny_checkpoint}" in capsys.readouterr().err


def test_a_closed_pipe_is_no_crash(tiny_bundle: Path, sound: Path) -> None:
    many = [str(sound)] * 10  # 200 lines of 1.5 kB: more than a pipe holds
    command = [sys.executable, "-m", "mmx.cli.main", "predict", str(tiny_bundle), *many, "--window", "0.1", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        strict(process.stdout.readline())
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()


def test_any_locale_and_any_file_name(tiny_bundle: Path, sound: Path, tmp_path: Path) -> None:
    """An ASCII terminal, a transcript that is not, and a name that is not even Unicode."""
    name = os.fsencode(tmp_path) + b"/\xff.wav"
    shutil.copyfile(sound, name)
    command = [sys.executable, "-m", "mmx.cli.main", "predict", tiny_bundle, name, "--text", "שלום 😀"]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    table = subprocess.run(command, capture_output=True, env=ascii_only)
    assert table.returncode == 0 and b"hap" in table.stdout, table.stderr
    lines = subprocess.run([*command, "--json"], capture_output=True, env=ascii_only)
    assert lines.returncode == 0, lines.stderr
    answer = strict(lines.stdout.decode("ascii"))
    assert os.fsencode(answer["file"]) == name and answer["text"] == "שלום 😀"


def test_json_rejects_what_json_has_not(prediction: Prediction) -> None:
    prediction.logits["hap"] = math.nan
    with pytest.raises(ValueError):
        prediction.to_json()


def test_a_transcript_cannot_drive_the_terminal(prediction: Prediction) -> None:
    text = render(prediction)
    assert "\x1b[2J" not in text and "\x07" not in text and "שלום" in text
    assert "(> 50%)" in text and "emotions: uncertain: too low" in render(replace(prediction, uncertain="too low"))


@pytest.fixture
def prediction() -> Prediction:
    return Prediction(
        file="talk\x1b[2J.mp4",
        start=0.0,
        end=1.0,
        probabilities={"hap": 0.75},
        thresholds={"hap": 0.5},
        labels=("hap",),
        logits={"hap": 1.1},
        modality_logits={"text": {"hap": 2.2}},
        contributions={"text": {"hap": 1.1}},
        modalities=("text",),
        left_out={"audio": "no audio track"},
        faces_found=0,
        frames_seen=0,
        text="\x07שלום\x1b[2J",
        timings_ms={"network": 1.0},
    )
