"""mmx batch: every file answered once, as ``mmx predict`` answers it, whatever breaks and however often it is run."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import wave
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmx.cli.main import main
from mmx.runtime import Bundle, Prediction, Predictor
from mmx.runtime.errors import BadDataError, EnvironmentMissing, UsageError
from mmx.runtime.extras import install_command

pytest.importorskip("pyarrow", reason="pip install 'mmx[batch]'")
pytest.importorskip("fsspec", reason="pip install 'mmx[batch]'")

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.registry import known_implementations

from mmx.runtime.workers.task import Task
from mmx.serving.batch.fetch import fetch, fetch_all
from mmx.serving.batch.inputs import Asked, find_tasks, with_keys
from mmx.serving.batch.lines import LinesFile
from mmx.serving.batch.parquet import ParquetFolder, Row
from mmx.serving.batch.results import Record, Results, made_with
from mmx.serving.batch.run import collect, open_results


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
    (out / ".part-00001-dead.parquet.tmp-1234.parquet").write_bytes(b"half a shard")  # what a kill leaves
    assert run(*command) == 5
    assert run(*command) == 5  # nothing left to do, and the error is still one
    assert not list(out.glob(".*"))
    assert {name: (out / name).read_bytes() for name in before} == before
    assert sorted(row["file"] for row in read(out)) == sorted(
        str(path) for path in media.rglob("*") if path.suffix in (".wav", ".mp4")
    )

    sound(media / "broken.mp4", 1, 300)  # mended: other content is another file
    assert run(*command) == 0
    rows = read(out)
    assert len(rows) == 6 and not any(row["error"] for row in rows)


def record(asked: Asked, content: str = "") -> Record:
    name = asked.task.shown
    return Record(asked.key, name, content, (), BadDataError(f"{name} is broken", "mend it"))


@pytest.fixture(params=["out", "out.jsonl", "out.csv"])
def open_any(request: pytest.FixtureRequest, tiny_bundle: Path, tmp_path: Path) -> Callable[..., Results]:
    """Opens results in each form."""
    bundle = Bundle.open(tiny_bundle)

    def opened(**made: Any) -> Results:
        form = {"": "parquet", ".jsonl": "jsonl", ".csv": "csv"}[Path(request.param).suffix]
        shards = {"shard_files": 3} if form == "parquet" else {}
        made_now = {**made_with(bundle, "fp32", None, "exact"), **made}
        return open_results(tmp_path / request.param, form, bundle, made_now, resume=True, **shards)

    return opened


def test_what_is_done_is_kept_when_a_run_is_broken_off(open_any: Callable[..., Results]) -> None:
    tasks = [Task(f"{number}.mp4") for number in range(10)]
    begun: list[str] = []

    def predict(todo: Sequence[Asked]) -> Any:
        for asked in todo:
            begun.append(asked.task.shown)
            yield record(asked)

    def stop_after_four(results: Results) -> None:
        for progress, _ in collect(tasks, predict, results):
            if progress.failed == 4:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), open_any() as results:
        stop_after_four(results)
    with open_any() as results:
        *_, (progress, _last) = collect(tasks, predict, results)
    assert (progress.skipped, progress.failed, progress.failed_before, progress.worst) == (4, 6, 4, 5)
    assert begun == [task.shown for task in tasks]  # each once
    with open_any() as results:
        assert sorted(done.file for done in results.done.values()) == begun
        with pytest.raises(UsageError, match="another mmx batch or mmx predict is writing"):
            open_any()
    with pytest.raises(UsageError, match="made with another graph, window"):
        open_any(graph="another", window=2.0)


def test_other_words_and_other_content_are_done_again_and_nothing_stands_twice(
    open_any: Callable[..., Results], tmp_path: Path
) -> None:
    files = [tmp_path / f"{number}.wav" for number in range(4)]
    for file in files:
        file.write_bytes(file.name.encode())
    begun: list[str] = []

    def predict(todo: Sequence[Asked]) -> Any:
        for asked in todo:
            begun.append(Path(asked.task.path).name)
            yield record(asked, fetch(asked, tmp_path).content)

    def run_on(*tasks: Task) -> list[str]:
        begun.clear()
        with open_any() as results:
            list(collect(tasks, predict, results))
        with open_any() as results:
            assert sorted(done.file for done in results.done.values()) == sorted(task.shown for task in tasks)
        return list(begun)

    srt = tmp_path / "words.srt"
    srt.write_text("1")
    tasks = [Task(files[0]), Task(files[1], "said"), Task(files[2], transcript=str(srt)), Task(files[3])]
    assert run_on(*tasks) == ["0.wav", "1.wav", "2.wav", "3.wav"]
    assert run_on(*tasks) == []
    stat = files[0].stat()
    files[0].write_bytes(b"other")  # as long as before, and as old
    os.utime(files[0], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    files[3].unlink()  # what is gone keeps its answer
    assert run_on(*tasks) == ["0.wav"]
    assert run_on(tasks[0], Task(files[1], "said otherwise"), *tasks[2:]) == ["1.wav"]
    srt.write_text("2")
    assert run_on(tasks[0], Task(files[1], "said otherwise"), *tasks[2:]) == ["2.wav"]


def test_a_record_that_was_cut_off_is_done_again(tiny_bundle: Path, media: Path, tmp_path: Path) -> None:
    """Cut the file where a kill could have: what was whole is kept, the rest done again."""
    bundle = Bundle.open(tiny_bundle)
    asked = with_keys([Task(str(media / f"{number}.wav")) for number in range(3)])
    made = made_with(bundle, "fp32", None, "exact")
    for form in ("jsonl", "csv"):
        path = tmp_path / f"whole.{form}"
        ends = []
        with open_results(path, form, bundle, made, resume=True) as results:
            for each in asked:
                results.add(record(each, 'with\n"quotes", and a comma'))
                ends.append(path.stat().st_size)
        whole = path.read_bytes()
        near_ends = {end - back for end in [0, *ends] for back in range(-3, 9)}
        for cut in sorted({*range(0, len(whole), 211), *near_ends} & set(range(len(whole)))):
            path.write_bytes(whole[:cut])
            with open_results(path, form, bundle, made, resume=True) as results:
                assert isinstance(results, LinesFile)
                assert len(results.done) == sum(end <= cut for end in ends), (form, cut)
                if cut % 50 == 0:
                    for each in asked:
                        results.add(record(each, 'with\n"quotes", and a comma'))
            if cut % 50 == 0:
                assert path.read_bytes() == whole


def test_csv_and_json_lines_hold_what_parquet_holds(media: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    options = ("--window", "0.8", "--backend", "onnxruntime", "--threads", "1", "--workers", "1")
    for out in ("out", "out.jsonl", "out.csv"):
        assert run(tiny_bundle, media, *options, "--out", tmp_path / out) == 5
        assert run(tiny_bundle, media, *options, "--out", tmp_path / out) == 5
    rows = read(tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    with (tmp_path / "out.csv").open(newline="") as file:
        flat = list(csv.DictReader(file))
    assert [row["file"] for row in flat] == [row["file"] for row in rows]
    predictions = iter([prediction for line in lines for prediction in line["predictions"]])
    for row, one in zip(rows, flat, strict=True):
        assert (one["error"] or None) == row["error"]
        if row["error"]:
            continue
        prediction = next(predictions)
        assert prediction["file"] == row["file"] and prediction["start"] == row["start"] == float(one["start"])
        for label, value in (row["probabilities"] or {}).items():
            assert float(one[f"probabilities.{label}"]) == pytest.approx(value, abs=1e-5)
            assert prediction["probabilities"][label] == pytest.approx(value, abs=1e-5)
        assert one["labels"] == ";".join(row["labels"])
        assert set(Prediction.from_dict(prediction).to_flat()) - {"schema_version"} <= set(one)
        assert one["audio_tracks"] == ("0" if row["file"].endswith("black.mp4") else "1")


def test_the_filter_of_the_docs_gives_rows_without_an_error(tiny_bundle: Path, media: Path, tmp_path: Path) -> None:
    assert run(tiny_bundle, media, "--out", tmp_path / "results", "--threads", "1") == 5
    docs = (Path(__file__).parents[2] / "docs" / "batch.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(import pyarrow.*?)```", docs, re.DOTALL)
    found: dict[str, Any] = {}
    exec(example.replace('"results"', repr(str(tmp_path / "results"))), found)
    files = found["table"]["file"].to_pylist()
    assert len(files) == 5 and not any("broken" in file for file in files)


@pytest.mark.parametrize("name", ["out", "out.jsonl", "out.csv"])
def test_a_full_disk_is_one_line(
    name: str,
    media: Path,
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From the start, and in the middle; then with room again the same command goes on."""
    full = OSError(errno.ENOSPC, "No space left on device")
    command = (tiny_bundle, media, "--out", tmp_path / name, "--threads", "1", "--backend", "onnxruntime")
    true_write, true_table = os.write, pq.write_table
    room = 0

    def write(file: int, data: Any) -> int:
        nonlocal room
        if not os.path.samestat(os.fstat(file), (tmp_path / name).stat()):
            return true_write(file, data)
        if room <= 0:
            raise full
        taken = true_write(file, data[:room])
        room -= taken
        return taken

    def write_table(*args: Any, **options: Any) -> None:
        if room <= 0:
            raise full
        true_table(*args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", write)
        patched.setattr(pq, "write_table", write_table)
        for room in (0, 2000):
            if name == "out" and room:
                continue
            assert run(*command) == EnvironmentMissing.exit_code
            error = capsys.readouterr().err
            assert f"{tmp_path / name}" in error and "cannot be written" in error and "free some space" in error
            assert "Traceback" not in error
    assert run(*command) == 5
    if name == "out":
        assert len(read(tmp_path / "out")) == 6


def test_no_room_for_temporary_files_is_one_line(
    media: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    assert run(tiny_bundle, media, "--out", tmp_path / "out", "--threads", "1") == UsageError.exit_code
    assert f"{tmp_path / 'none'} cannot be written: No such file" in capsys.readouterr().err

    def full() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr("tempfile.gettempdir", full)
    assert run(tiny_bundle, media, "--out", tmp_path / "out", "--threads", "1") == EnvironmentMissing.exit_code
    assert "no temporary file can be written: No usable temporary directory" in capsys.readouterr().err


def test_results_of_another_model_or_another_run_are_not_mixed(
    media: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(tiny_bundle, media / "0.wav", "--out", out, "--threads", "1") == 0
    assert run(tiny_bundle, media, "--out", out, "--window", "1") == UsageError.exit_code
    assert "made with another window" in capsys.readouterr().err
    with ParquetFolder(out, Bundle.open(tiny_bundle).manifest, json.loads((out / "_run.json").read_text())):
        assert run(tiny_bundle, media, "--out", out) == UsageError.exit_code
    assert "another mmx batch or mmx predict is writing" in capsys.readouterr().err
    assert run(tiny_bundle, media, "--out", media) == UsageError.exit_code
    assert "which mmx batch did not write" in capsys.readouterr().err


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

    allow = ("memory",)
    assert find_tasks([str(tmp_path / "list.txt")]) == [Task(one), Task(two)]
    assert find_tasks([str(tmp_path / "list.csv")]) == [Task(one, "said"), Task(two)]
    assert find_tasks([str(tmp_path / "list.parquet")], allow=allow) == [
        Task(one),
        Task("memory://bucket/b.mp4", None, "memory://bucket/b.srt"),
    ]
    found = find_tasks(["memory://videos/*.mp4"], allow=allow)
    assert found == [Task("memory:///videos/x.mp4"), Task("memory:///videos/y.mp4")]
    assert find_tasks([str(media / "*.wav"), one, str(tmp_path / "list.txt")]) == [
        Task(str(media / f"{number}.wav")) for number in range(3)
    ]
    names = [Path(str(task.path)).name for task in find_tasks([str(media)])]
    assert names == ["0.wav", "1.wav", "2.wav", "black.mp4", "broken.mp4", "3.wav"]
    (media / "1.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nWords\n")
    assert find_tasks([one, two], beside=True) == [Task(one, None, str(media / "1.srt")), Task(two)]
    assert find_tasks([one], window=2.0) == [Task(one, window=2.0)]

    monkeypatch.setitem(known_implementations, "far", {"class": "no_such_package.Far", "err": "install it"})
    with pytest.raises(EnvironmentMissing, match="far:// URLs cannot be read: install it"):
        find_tasks([one, "far://b.mp4"], allow=("far",))

    monkeypatch.setattr("sys.stdin", (tmp_path / "list.txt").open(encoding="utf-8-sig"))
    assert find_tasks(["-"]) == [Task(one), Task(two)]
    asked = with_keys([Task(one), Task(two), Task(one, "said"), Task(one, None, "said"), Task(one)])
    assert len({each.key for each in asked}) == 5


def test_hidden_files_and_links_in_circles_are_passed_over(media: Path) -> None:
    (media / ".hidden").mkdir()
    for hidden in (media / "._0.wav", media / ".hidden" / "0.wav", media / "deep" / "._3.wav"):
        shutil.copy(media / "0.wav", hidden)
    for name in ("up", "again"):
        (media / "deep" / name).symlink_to(media)
    names = ["0.wav", "1.wav", "2.wav", "3.wav"]
    assert sorted(Path(str(task.path)).name for task in find_tasks([str(media)]))[:4] == names
    assert len(find_tasks([str(media)])) == 6
    found = find_tasks([str(media / "**" / "*.wav")])
    assert sorted(Path(str(task.path)).name for task in found) == names


SECRET = "open-sesame"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://[::1/x.mp4", "is no URL"),
        (f"http://user:{SECRET}@host:port/x.mp4", "is no URL"),
        (f"zip://a.mp4::file:///x/{'y'}.zip", "zip:// URLs are not followed"),
        (f"simplecache::s3://{SECRET}@bucket/a.mp4", "simplecache:// URLs are not followed"),
        ("reference://a.mp4", "not followed"),
        ("memory://a.mp4", "not followed"),
        (f"ftp://user:{SECRET}@host/a.mp4", "not followed"),
    ],
)
def test_urls_that_are_not_followed(url: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(url)
    for given in (url, str(tmp_path / "list.txt")):
        with pytest.raises(UsageError, match=says) as error:
            find_tasks([given])
        assert SECRET not in str(error.value)


def test_http_is_bounded_and_its_passwords_are_kept_secret(media: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    asked: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers.get("Authorization")))
            if self.path.startswith("/round"):
                self.send_response(302)
                self.send_header("Location", "/round")
            elif self.path.startswith("/file"):
                self.send_response(302)
                self.send_header("Location", "file:///etc/passwd")
            elif self.path.startswith("/1.wav"):
                self.send_response(200)
            else:
                self.send_response(404)
            self.end_headers()
            if self.path.startswith("/1.wav"):
                self.wfile.write((media / "1.wav").read_bytes())

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_port}"
        with_password = f"http://user:{SECRET}@{host}"
        urls = [f"{with_password}/{name}?token={SECRET}&n=1" for name in ("1.wav", "round", "file", "none")]
        (tmp_path / "list.txt").write_text("\n".join(urls))
        out = tmp_path / "out.jsonl"
        assert run(tiny_bundle, tmp_path / "list.txt", "--out", out, "--threads", "1", "--allow-private") == 5
        asked_before = len(asked)
        small = fetch(with_keys(find_tasks([urls[0]]))[0], tmp_path, max_bytes=100, private=True)
        kept_out = fetch(with_keys(find_tasks([urls[0]]))[0], tmp_path)
        server.shutdown()
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    found = {line["file"]: line["error"] and line["error"]["message"] for line in lines}
    name = f"http://***@{host}/{{}}?token=***&n=1"
    assert found.keys() == {name.format(each) for each in ("1.wav", "round", "file", "none")}
    assert found[name.format("1.wav")] is None
    assert "HTTP 404" in found[name.format("none")]
    assert "or to no HTTP" in found[name.format("file")]
    assert sum(path.startswith("/round") for path, _ in asked) <= 12
    assert asked[0][1] == "Basic dXNlcjpvcGVuLXNlc2FtZQ=="
    assert SECRET not in out.read_text()
    assert kept_out.error is not None and "private address" in kept_out.error.message
    assert len(asked) == asked_before + 1
    assert small.error is not None and "larger than" in small.error.message and SECRET not in str(small.error)


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

    asked = with_keys([Task(f"{there}/1.wav")] * 5)
    first = next(iter(downloads := fetch_all(asked, 3, tmp_path / "scratch")))
    downloads.close()
    first.discard()
    assert not list((tmp_path / "scratch").iterdir())


KILLED = """
import os, signal, sys
from mmx.serving.batch.lines import LinesFile
from mmx.serving.batch.parquet import ParquetFolder
count = 0
def killing(true):
    def add(self, record):
        global count
        true(self, record)
        count += 1
        if count == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)
    return add
LinesFile.add, ParquetFolder.add = killing(LinesFile.add), killing(ParquetFolder.add)
from mmx.cli.main import main
main(sys.argv[2:])
"""


@pytest.mark.parametrize("name", ["out", "out.csv"])
def test_a_killed_batch_leaves_nothing_and_is_gone_on_with(
    name: str, media: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    out = tmp_path / name
    command = ["batch", str(tiny_bundle), str(media), "--out", str(out), "--threads", "1", "--workers", "2"]
    command += ["--backend", "onnxruntime", *(["--shard-files", "2"] if name == "out" else [])]
    env = {**os.environ, "TMPDIR": str(scratch)}
    for after in ("1", "3"):
        killed = subprocess.run([sys.executable, "-c", KILLED, after, *command], env=env, capture_output=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = subprocess.run([sys.executable, "-m", "mmx.cli.main", *command], env=env, capture_output=True, text=True)
    assert done.returncode == 5, done.stderr
    assert list(scratch.iterdir()) == []
    files = sorted(str(path) for path in media.rglob("*") if path.suffix in (".wav", ".mp4"))
    if name == "out":
        assert sorted(row["file"] for row in read(out)) == files
    else:
        with out.open(newline="") as file:
            assert sorted(row["file"] for row in csv.DictReader(file)) == files


def test_a_missing_extra_is_named(
    media: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert run(tiny_bundle, media, "--out", tmp_path / "out") == EnvironmentMissing.exit_code
    assert install_command("batch") in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_bundle_of_the_current_folder_is_found(
    media: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here.mmx").symlink_to(tiny_bundle)
    monkeypatch.chdir(tmp_path)
    assert run("media/0.wav", "--out", "results/", "--threads", "1") == 0
    assert [row["file"] for row in read(tmp_path / "results")] == ["media/0.wav"]
