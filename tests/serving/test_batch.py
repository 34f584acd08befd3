"""mmx batch: every file answered once, as ``mmx predict`` answers it, whatever breaks and however often it is run."""

from __future__ import annotations

import csv
import json
import shutil
import sys
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmx.cli.main import main
from mmx.runtime import Bundle, Predictor
from mmx.runtime.errors import BadDataError, EnvironmentMissing, MmxError, UsageError

pytest.importorskip("pyarrow", reason="pip install 'mmx[batch]'")
pytest.importorskip("fsspec", reason="pip install 'mmx[batch]'")

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.registry import known_implementations

from mmx.serving.batch.fetch import fetch, fetch_all
from mmx.serving.batch.inputs import Task, find_tasks
from mmx.serving.batch.output import Results, Row, rows_of
from mmx.serving.batch.run import Progress, collect
from mmx.serving.batch.supervised import answer_supervised


def sound(path: Path, seconds: float, hertz: float) -> Path:
    time = np.arange(int(16000 * seconds)) / 16000
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16000)
        out.writeframes((9000 * np.sin(2 * np.pi * hertz * time)).astype("<i2").tobytes())
    return path


@pytest.fixture
def media(tmp_path: Path, black: Path) -> Path:
    """A folder with four sounds, a black video, and a file that is none."""
    folder = tmp_path / "media"
    (folder / "deep").mkdir(parents=True)
    for number in range(3):
        sound(folder / f"{number}.wav", 1 + number, 200 * (number + 1))
    sound(folder / "deep" / "3.wav", 0.5, 440)
    shutil.copy(black, folder / "black.mp4")
    (folder / "broken.mp4").write_text("nothing of the kind")
    (folder / "notes.md").write_text("not media")
    return folder


def run(*arguments: Any) -> int:
    return main(["batch", *map(str, arguments)])


def read(results: Path) -> list[Row]:
    """As any reader of Parquet folders sees it."""
    rows: list[Row] = pq.read_table(results).to_pylist()
    return rows


def test_a_folder_is_answered_as_mmx_predict_answers_it(
    media: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (media / "0.txt").write_text("Ever tried. Ever failed.")
    options = ("--window", "0.8", "--beside", "--backend", "onnxruntime", "--threads", "1")
    assert run(tiny_bundle, media, *options, "--out", tmp_path / "out") == BadDataError.exit_code
    assert "5 files answered" in (shown := capsys.readouterr().err) and "1 failed" in shown
    rows = read(tmp_path / "out")
    files = sorted(str(path) for path in media.rglob("*") if path.suffix in (".wav", ".mp4"))
    assert list(dict.fromkeys(row["file"] for row in rows)) == files

    with Predictor(tiny_bundle, backend="onnxruntime", threads=1) as predictor:
        for file in files:
            mine = [row for row in rows if row["file"] == file]
            if file.endswith("broken.mp4"):
                (row,) = mine
                assert row["error"] == f"{file} cannot be read as media: it is text" and row["exit_code"] == 5
                assert row["segment"] is None and row["probabilities"] is None
                continue
            text = "Ever tried. Ever failed." if file.endswith("0.wav") else None
            expected = list(predictor.predict(file, text=text, window=0.8))
            assert [row["segment"] for row in mine] == list(range(len(expected)))
            for row, prediction in zip(mine, expected, strict=True):
                assert (row["start"], row["end"], row["text"]) == (prediction.start, prediction.end, prediction.text)
                assert row["labels"] == list(prediction.labels) and row["flags"] == list(prediction.flags)
                assert dict(row["left_out"]) == prediction.left_out
                assert (row["logits"] or {}) == pytest.approx(prediction.logits, rel=1e-5, abs=1e-6)
                assert (row["probabilities"] or {}) == pytest.approx(prediction.probabilities, rel=1e-5, abs=1e-6)
                for modality, logits in prediction.modality_logits.items():
                    assert row["modality_logits"][modality] == pytest.approx(logits, rel=1e-5, abs=1e-6)
                assert row["error"] is None


def test_the_same_command_again_does_what_is_left(media: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = (tiny_bundle, media, "--out", out, "--threads", "1", "--backend", "onnxruntime")
    assert run(tiny_bundle, *sorted(media.glob("[01].wav")), *command[2:]) == 0
    before = {shard.name: shard.read_bytes() for shard in out.glob("part-*")}
    (out / ".part-00001-dead.parquet.tmp").write_bytes(b"half a shard")  # what a kill leaves
    assert run(*command) == 5
    assert run(*command) == 5  # nothing left to do, and the error is still one
    assert not list(out.glob(".*.tmp"))
    assert {name: (out / name).read_bytes() for name in before} == before
    assert sorted(row["file"] for row in read(out)) == sorted(
        str(path) for path in media.rglob("*") if path.suffix in (".wav", ".mp4")
    )

    sound(media / "broken.mp4", 1, 300)  # mended
    assert run(*command) == 5
    assert run(*command, "--retry") == 0
    rows = read(out)
    assert len(rows) == 6 and not any(row["error"] for row in rows)


def test_what_is_answered_is_kept_when_a_run_is_broken_off(tiny_bundle: Path, tmp_path: Path) -> None:
    manifest = Bundle.open(tiny_bundle).manifest
    tasks = [Task(f"{number}.mp4") for number in range(10)]
    asked: list[str] = []

    def answer(todo: Sequence[Task]) -> Any:
        for task in todo:
            asked.append(task.path)
            yield rows_of(task, (), BadDataError(f"{task.path} is broken", "mend it"))

    def stop_after_four(progress: Progress, _rows: Sequence[Row]) -> None:
        if progress.failed == 4:
            raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        Results(tmp_path / "out", manifest, {"model": 1}, shard_files=3) as results,
    ):
        collect(tasks, answer, results, stop_after_four)
    with Results(tmp_path / "out", manifest, {"model": 1}, shard_files=3) as results:
        progress = collect(tasks, answer, results, lambda *_: None)
    assert (progress.skipped, progress.failed, progress.failed_before, progress.worst) == (4, 6, 4, 5)
    assert asked == [task.path for task in tasks]  # each once
    assert [row["file"] for row in read(tmp_path / "out")] == asked
    assert len(list((tmp_path / "out").glob("part-*.parquet"))) == 4  # 3 + 1, 3 + 3


def test_results_of_another_model_or_another_run_are_not_mixed(
    media: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(tiny_bundle, media / "0.wav", "--out", out, "--threads", "1") == 0
    assert run(tiny_bundle, media, "--out", out, "--window", "1") == UsageError.exit_code
    assert "made with another window" in capsys.readouterr().err
    with Results(out, Bundle.open(tiny_bundle).manifest, _made_with(out)):
        assert run(tiny_bundle, media, "--out", out) == UsageError.exit_code
    assert "another mmx batch is writing" in capsys.readouterr().err
    assert run(tiny_bundle, media, "--out", media) == UsageError.exit_code
    assert "which mmx batch did not write" in capsys.readouterr().err


def _made_with(out: Path) -> dict[str, Any]:
    known = json.loads((out / "_run.json").read_text())
    return {name: value for name, value in known.items() if name != "schema_version"}


def test_inputs_of_every_kind_name_each_file_once(media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = str(media / "1.wav"), str(media / "2.wav")
    (tmp_path / "list.txt").write_text(f"\ufeff{one}\n\n{two}\n", encoding="utf-8")
    with (tmp_path / "list.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["id", "path", "text"], ["7", one, "said"], ["8", two, ""]])
    table = pa.table({"path": [one, "memory://bucket/b.mp4"], "transcript": [None, "memory://bucket/b.srt"]})
    pq.write_table(table, tmp_path / "list.parquet")
    memory = fsspec.filesystem("memory")
    memory.pipe("/videos/x.mp4", b"x")
    memory.pipe("/videos/y.mp4", b"y")

    assert find_tasks([str(tmp_path / "list.txt")]) == [Task(one), Task(two)]
    assert find_tasks([str(tmp_path / "list.csv")]) == [Task(one, "said"), Task(two)]
    assert find_tasks([str(tmp_path / "list.parquet")]) == [
        Task(one),
        Task("memory://bucket/b.mp4", None, "memory://bucket/b.srt"),
    ]
    assert find_tasks(["memory://videos/*.mp4"]) == [Task("memory:///videos/x.mp4"), Task("memory:///videos/y.mp4")]
    assert find_tasks([str(media / "*.wav"), one, str(tmp_path / "list.txt")]) == [
        Task(str(media / f"{number}.wav")) for number in range(3)
    ]
    names = [Path(task.path).name for task in find_tasks([str(media)])]
    assert names == ["0.wav", "1.wav", "2.wav", "black.mp4", "broken.mp4", "3.wav"]
    (media / "1.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nWords\n")
    assert find_tasks([one, two], beside=True) == [Task(one, None, str(media / "1.srt")), Task(two)]

    assert find_tasks(["nowhere://b.mp4"]) == [Task("nowhere://b.mp4")]  # whose error will be its own
    monkeypatch.setitem(known_implementations, "far", {"class": "no_such_package.Far", "err": "install it"})
    with pytest.raises(EnvironmentMissing, match="far:// URLs cannot be read: install it"):
        find_tasks([one, "far://b.mp4"])

    monkeypatch.setattr("sys.stdin", (tmp_path / "list.txt").open(encoding="utf-8-sig"))
    assert find_tasks(["-"]) == [Task(one), Task(two)]
    assert len({task.key for task in (Task(one), Task(one, "said"), Task(one, None, "said"), Task(two))}) == 4


@pytest.mark.parametrize(
    ("name", "content", "error", "says"),
    [
        ("missing.mp4", None, UsageError, "there is no file"),
        ("none*.mp4", None, UsageError, "there is no file"),
        ("empty", "", UsageError, "holds no media files"),
        ("list.csv", "name\na.mp4\n", BadDataError, "row 1 has no path"),
        ("list.csv", "path,text,transcript\na.mp4,words,a.srt\n", BadDataError, "both a text and a transcript"),
        ("list.csv", 'path\n"a.mp4\n', BadDataError, "cannot be read as a list"),
        ("list.parquet", "no parquet", BadDataError, "cannot be read as a list"),
        ("list.txt", "", UsageError, "name no files"),
    ],
)
def test_inputs_that_name_nothing_are_told(
    tmp_path: Path, name: str, content: str | None, error: type[Exception], says: str
) -> None:
    path = tmp_path / name
    if name == "empty":
        path.mkdir()
    elif content is not None:
        path.write_text(content)
    with pytest.raises(error, match=says):
        find_tasks([str(path)])


def test_urls_are_downloaded_answered_and_removed(
    media: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    there = (tmp_path / "there").as_uri()
    (tmp_path / "there").mkdir()
    shutil.copy(media / "1.wav", tmp_path / "there" / "1.wav")
    (tmp_path / "there" / "1.txt").write_text("Ever tried.")
    (tmp_path / "there" / "2.mp4").write_text("nothing of the kind")
    listed = pa.table(
        {
            "path": [f"{there}/{name}" for name in ("1.wav", "2.mp4", "3.wav")],
            "transcript": [f"{there}/1.txt", None, None],
        }
    )
    pq.write_table(listed, tmp_path / "list.parquet")
    out = tmp_path / "out"
    assert run(tiny_bundle, tmp_path / "list.parquet", "--out", out, "--threads", "1") == 5
    found = {row["file"]: row for row in read(out)}
    assert found[f"{there}/1.wav"]["text"] == "Ever tried."
    assert found[f"{there}/2.mp4"]["error"] == f"{there}/2.mp4 cannot be read as media: it is text"
    assert found[f"{there}/3.wav"]["error"].startswith(f"{there}/3.wav cannot be read: FileNotFoundError")
    assert not list((tmp_path / "scratch").iterdir())

    refused = fetch(Task(f"{there}/1.wav"), max_bytes=100)
    assert refused.error is not None and "larger than" in refused.error.message
    first = next(iter(downloads := fetch_all([Task(f"{there}/1.wav")] * 5, ahead=3)))
    downloads.close()
    first.discard()
    assert not list((tmp_path / "scratch").iterdir())


DEADLY = """
import os, sys
from mmx.runtime.preprocess import Preprocessor
true = Preprocessor.segments
def segments(self, path, **options):
    if "deadly" in str(path):
        os.kill(os.getpid(), 9)
    return true(self, path, **options)
Preprocessor.segments = segments
from mmx.serving.batch.worker import main
main()
"""


def test_a_file_that_crashes_the_decoder_costs_its_own_answer(media: Path, tiny_bundle: Path) -> None:
    files = [media / "0.wav", media / "deadly 1.wav", media / "1.wav", media / "broken.mp4", media / "deadly 2.wav"]
    for name in ("deadly 1.wav", "deadly 2.wav"):
        shutil.copy(media / "0.wav", media / name)
    tasks = [Task(str(file)) for file in [*files, media / "2.wav"]]
    options = {"bundle": str(tiny_bundle), "window": None, "backend": "onnxruntime", "jobs": 2, "threads": 1}
    answers = list(answer_supervised(options, tasks, command=(sys.executable, "-c", DEADLY)))
    assert sorted(rows[0]["task"] for rows in answers) == sorted(task.key for task in tasks)  # each once
    errors = {Path(row["file"]).name: row["error"] for rows in answers for row in rows if row.get("error")}
    assert errors.keys() == {"deadly 1.wav", "deadly 2.wav", "broken.mp4"}
    assert errors["deadly 1.wav"] == f"{media / 'deadly 1.wav'} crashes the decoder (SIGKILL)"
    assert "it is text" in errors["broken.mp4"]


def test_a_worker_that_cannot_work_ends_the_run(media: Path, tiny_bundle: Path) -> None:
    options = {"bundle": str(tiny_bundle), "window": None, "backend": "tpu"}
    with pytest.raises(MmxError, match="no backend 'tpu'") as told:
        list(answer_supervised(options, [Task(str(media / "0.wav"))]))
    assert told.value.exit_code == UsageError.exit_code
    with pytest.raises(EnvironmentMissing, match="cannot start: exit code 3"):
        list(answer_supervised(options, [Task("a")], command=(sys.executable, "-c", "raise SystemExit(3)")))


def test_a_missing_extra_is_named(
    media: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert run(tiny_bundle, media, "--out", tmp_path / "out") == EnvironmentMissing.exit_code
    assert "pip install 'mmx[batch]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_bundle_of_the_current_folder_is_found(
    media: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here.mmx").symlink_to(tiny_bundle)
    monkeypatch.chdir(tmp_path)
    assert run("media/0.wav", "--out", "results/", "--threads", "1") == 0
    assert [row["file"] for row in read(tmp_path / "results")] == ["media/0.wav"]
