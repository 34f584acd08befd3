"""``mmx predict --workers/--out/--resume``: many files, some bad, killed and gone on with."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path

import numpy as np
import pytest

from mmx.cli.main import main

OPTIONS = ["--backend", "onnxruntime", "--threads", "1", "--workers", "2"]


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Thirty seconds-long noises, and at the fourth place a file that is none.

    They are loud and soft in turn: steady noise would be left out.
    """
    folder = tmp_path_factory.mktemp("sounds")
    paths = [folder / f"{number:02d}.wav" for number in range(30)]
    for number, path in enumerate(paths):
        with wave.open(str(path), "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(8000)
            random = np.random.default_rng(number)
            noise = random.integers(-9000, 9000, 8000 * (1 + number % 3))
            loudness = np.where(np.arange(len(noise)) // 800 % 2, 1.0, 0.2)
            out.writeframes((loudness * noise).astype("<i2").tobytes())
    paths[3].write_text("no sound")
    return [str(path) for path in paths]


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


def logits(line: dict) -> list[float]:
    return [value for prediction in line["predictions"] for value in prediction["logits"].values()]


def test_many_files_give_what_each_gives_alone(tiny_bundle: Path, sounds: list[str], capsys) -> None:
    assert main(["predict", str(tiny_bundle), *sounds, "--json", *OPTIONS]) == 5
    out, err = capsys.readouterr()
    together = [json.loads(line) for line in out.splitlines()]
    assert [line["file"] for line in together] == sounds[:3] + sounds[4:]
    assert err.count("mmx: error: ") == 1 and sounds[3] in err
    assert main(["predict", str(tiny_bundle), *sounds, "--json", *OPTIONS[:4]]) == 5
    alone = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for one, other in zip(together, alone, strict=True):
        assert one["logits"] == pytest.approx(other["logits"], rel=1e-5, abs=1e-6)
        assert {**one, **dict.fromkeys(CHANGING, 0)} == {**other, **dict.fromkeys(CHANGING, 0)}


CHANGING = ("timings_ms", "logits", "probabilities", "modality_logits", "contributions")


def test_a_killed_run_is_gone_on_with(tiny_bundle: Path, sounds: list[str], tmp_path: Path, capsys) -> None:
    """Killed without warning, its last line cut off, and resumed: each file once, as from a run that was left alone."""
    out, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    files = sounds * 20
    command = [sys.executable, "-m", "mmx.cli.main", "predict", str(tiny_bundle), *files, *OPTIONS]
    with subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        wait_for_lines(out, 10, run)
        run.kill()
    with out.open("ab") as file:
        file.write(b'{"schema_version": 1, "file": "')  # what a kill in the middle of a line leaves
    before = out.read_bytes().count(b"\n")
    assert 10 <= before < len(files)
    assert main(["predict", str(tiny_bundle), *files, *OPTIONS, "--out", str(out), "--resume"]) == 5
    done_before = int(capsys.readouterr().err.splitlines()[-1].split()[-3])
    assert before - 2 <= done_before <= before  # the failed one is tried again
    assert main(["predict", str(tiny_bundle), *sounds, *OPTIONS, "--out", str(whole)]) == 5
    found, expected = ({line["file"]: line for line in lines_of(path)} for path in (out, whole))
    assert sorted(line["file"] for line in lines_of(out)) == sorted(files)
    assert [line["file"] for line in lines_of(whole)] == sounds
    for file, line in expected.items():
        assert logits(found[file]) == pytest.approx(logits(line), rel=1e-5, abs=1e-6)
        assert (line["error"] is None) == (file != sounds[3])
    assert expected[sounds[3]]["error"]["exit_code"] == 5 and sounds[3] in expected[sounds[3]]["error"]["message"]


def wait_for_lines(path: Path, count: int, run: subprocess.Popen) -> None:
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert run.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)


def test_control_c_leaves_whole_lines(tiny_bundle: Path, sounds: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "mmx.cli.main", "predict", str(tiny_bundle), *sounds * 20, *OPTIONS]
    with subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as run:
        wait_for_lines(out, 3, run)
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=60)
    assert run.returncode == 130 and b"Traceback" not in err
    assert len(lines_of(out)) >= 3


def test_what_failed_is_tried_again(tiny_bundle: Path, sounds: list[str], tmp_path: Path, capsys) -> None:
    late = tmp_path / "late.wav"
    arguments = ["predict", str(tiny_bundle), sounds[0], str(late), *OPTIONS, "--out", str(tmp_path / "out.jsonl")]
    assert main(arguments) == 2
    late.write_bytes(Path(sounds[1]).read_bytes())
    assert main(arguments) == 2 and "is there already" in capsys.readouterr().err
    for done in (1, 2):
        assert main([*arguments, "--resume"]) == 0
        assert capsys.readouterr().err == f"{arguments[-1]}: {2 - done} files answered, 0 failed, {done} done before\n"
    first, second = lines_of(tmp_path / "out.jsonl")
    assert (first["file"], second["file"], second["error"]) == (sounds[0], str(late), None)
    assert list(tmp_path.glob("*.tmp")) == []


def test_results_of_another_run_are_not_mixed(tiny_bundle: Path, sounds: list[str], tmp_path: Path, capsys) -> None:
    out = tmp_path / "out.jsonl"
    arguments = ["predict", str(tiny_bundle), sounds[0], *OPTIONS, "--out", str(out)]
    assert main(arguments) == 0
    content = out.read_bytes()
    assert main([*arguments, "--resume", "--window", "0.5"]) == 2
    assert "was made with" in capsys.readouterr().err
    for other in (b"a,b\n1,2\n", b"[]\n" + content, b'{"file": 1}\n'):
        out.write_bytes(other)
        assert main([*arguments, "--resume"]) == 5
        assert "is no line of a results file" in capsys.readouterr().err and out.read_bytes() == other
    assert main([*arguments[:-2], "--resume"]) == 2
