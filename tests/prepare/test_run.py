"""A run of mmx prepare: killed and resumed, split as asked, and no half-written output whatever happens."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import releases

from mmx.cli.main import main
from mmx.datasets.prepare.run import Options, prepare
from mmx.runtime.errors import BadDataError, EnvironmentMissing, UsageError

KILLED = """
import os, pickle, signal, sys
from pathlib import Path
from mmx.datasets.prepare import run

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[3] == "cutting":
    progress = die
else:
    progress = None
    pickle.dumps = die
run.prepare(Path(sys.argv[1]), Path(sys.argv[2]), run.Options("iemocap"), progress=progress)
"""


def content(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("when", ["cutting", "collecting"])
def test_killed_and_resumed_it_writes_the_same_bytes(tmp_path, iemocap, prepared, when) -> None:
    out = tmp_path / "out"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(iemocap[0]), str(out), when])
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in out.iterdir()] == [".prepare-iemocap"]
    with pytest.raises(UsageError, match="not finished"):
        prepare(iemocap[0], out, Options("iemocap"))
    with pytest.raises(UsageError, match="another --compat"):
        prepare(iemocap[0], out, Options("iemocap", "upstream"), resume=True)
    prepare(iemocap[0], out, Options("iemocap"), resume=True)
    assert content(out) == content(prepared("iemocap", "correct")[0])


def test_a_finished_set_is_not_written_over(iemocap, prepared) -> None:
    with pytest.raises(UsageError, match="exists"):
        prepare(iemocap[0], prepared("iemocap", "correct")[0], Options("iemocap"))


def test_a_dry_run_says_what_is_missing_and_writes_nothing(tmp_path, iemocap, capsys) -> None:
    assert main(["prepare", "iemocap", str(iemocap[0]), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "would write 15 utterances" in said and "no line in the transcript: Ses01F_impro01_F002" in said
    assert not (tmp_path / "out").exists()


def test_published_lists_keep_their_order(tmp_path, iemocap) -> None:
    lists = {
        "train": ["Ses02M_impro03_M001", "Ses01F_impro01_M000", "Ses01F_impro01_F002", "Ses02M_impro03_M001"],
        "valid": ["Ses02M_impro03_F000", "Ses01F_impro01_F001"],  # the second is xxx
        "test": ["Ses01F_impro01_F000", "Ses05M_impro01_F000"],
    }
    for split, names in lists.items():
        (tmp_path / f"{split}_split.txt").write_text("\r\n".join([*names, ""]))
    prepare(iemocap[0], tmp_path / "out", Options("iemocap", lists=tmp_path, workers=2))
    made = {s: (tmp_path / f"out/IEMOCAP_SPLIT/{s}_split.txt").read_text() for s in lists}
    assert made == {
        "train": "Ses02M_impro03_M001\nSes01F_impro01_M000\n",
        "valid": "Ses02M_impro03_F000\n",
        "test": "Ses01F_impro01_F000\n",
    }


def test_by_session_no_speaker_is_tested_that_was_trained_on(tmp_path, iemocap, capsys) -> None:
    out = tmp_path / "out"
    assert main(["prepare", "iemocap", str(iemocap[0]), "--out", str(out), "--split", "session", "--workers", "2"]) == 0
    names = {s: (out / f"IEMOCAP_SPLIT/{s}_split.txt").read_text().split() for s in ("train", "valid", "test")}
    assert {name[:5] for name in names["test"]} == {"Ses02"}
    assert {name[:5] for name in names["train"] + names["valid"]} == {"Ses01"}
    said = capsys.readouterr()
    assert "0 speakers are in train and test" in said.out and "Traceback" not in said.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["iemocap", "{empty}"], 5, "holds no Session1"),
        (["mosei", "{empty}"], 5, "holds no Transcript/Combined"),
        (["iemocap", "{empty}/nowhere"], 2, "does not exist"),
        (["mosei", "{empty}", "--split", "session"], 2, "for IEMOCAP"),
        (["iemocap", "{empty}", "--people", "left"], 2, "for MOSEI"),
        (["mosei", "{empty}", "--people", "each"], 2, "a part of the frame, and people each is none"),
        (["mosei", "{empty}", "--people", "left", "--compat", "upstream"], 2, "whole frames"),
        (["mosei", "{empty}", "--people", "region=0,0,2,1"], 2, "not a part of the frame"),
        (["iemocap", "{empty}", "--splits", "{empty}"], 5, "train_split.txt is missing"),
    ],
)
def test_what_cannot_be_done_is_one_line(tmp_path, capsys, arguments, code, message) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    asked = [part.replace("{empty}", str(empty)) for part in arguments]
    assert main(["prepare", *asked, "--out", str(tmp_path / "out")]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_said_and_the_run_can_go_on(tmp_path, iemocap, monkeypatch) -> None:
    from mmx.datasets.prepare import confined, run

    answer = json.dumps({"error": "No space left on device", "code": 5, "errno": 28})
    with monkeypatch.context() as patch:
        done = subprocess.CompletedProcess([], 0, stdout=answer.encode())
        patch.setattr(confined.subprocess, "run", lambda *_, **__: done)
        with pytest.raises(EnvironmentMissing, match="No space left"):
            prepare(iemocap[0], tmp_path / "out", Options("iemocap"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".prepare-iemocap"]
    assert run.prepare(iemocap[0], tmp_path / "out", Options("iemocap", workers=2), resume=True).written == 13


@pytest.mark.parametrize(
    ("code", "why"), [(-signal.SIGSEGV, "crashed on it (SIGSEGV)"), (-signal.SIGALRM, "gave nothing")]
)
def test_a_crash_of_the_decoder_leaves_out_its_recording_only(tmp_path, iemocap, monkeypatch, code, why) -> None:
    from mmx.datasets.prepare import confined

    real = subprocess.run

    def run(command, *, input: bytes, **options):
        if b"Ses01F_impro01.avi" in input:
            return subprocess.CompletedProcess(command, code, stdout=b"")
        return real(command, input=input, **options)

    monkeypatch.setattr(confined.subprocess, "run", run)
    account = prepare(iemocap[0], tmp_path / "out", Options("iemocap", workers=2))
    assert account.recordings == 3
    assert sum(why in item.why for item in account.left_out) == 6
    assert not list((tmp_path / "out").rglob("Ses01F_impro01_*"))


def test_too_little_for_three_splits(tmp_path) -> None:
    release = tmp_path / "release"
    name = "Ses01F_impro01"
    releases.write_dialogue(release, name, [releases.said(f"{name}_F000", 0.1, 0.5, "neu", "One.")], seconds=1)
    with pytest.raises(BadDataError, match="too few for three splits"):
        prepare(release, tmp_path / "out", Options("iemocap"))
    assert not (tmp_path / "out").exists()
