"""The workers: a file costs its own answer at most, whatever it does to the process that reads it."""

from __future__ import annotations

import errno
import gc
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from mmx.runtime import Bundle, Limits, Pipeline, Span, Task
from mmx.runtime.errors import BadDataError, EnvironmentMissing, MmxError, UsageError
from mmx.runtime.preprocess import Preprocessor, Segment
from mmx.runtime.scratch import LOCK, Scratch, sweep
from mmx.runtime.workers import worker as worker_module
from mmx.runtime.workers.blocking import Workers
from mmx.runtime.workers.task import Rejected, error_of, error_to_plain
from mmx.runtime.workers.wire import read_frame, unpack_segment

PATIENCE_S = 60.0

# A worker whose decoder does what the name of a file says.
UNRULY = """
import os, signal, time
from pathlib import Path
from mmx.runtime.preprocess import Preprocessor
true = Preprocessor.segments
def segments(self, path, **options):
    name = Path(path).stem
    if name == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "unlucky":  # the first worker is killed while it reads it
        marker = Path(path).with_suffix(".was_here")
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    if name == "breaks off":
        yield next(true(self, path, window=1.0))
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "hangs":
        Path(path).with_suffix(".hangs").touch()
        time.sleep(3600)
    if name == "greedy":
        bytearray(2**40)
    if name == "faulty":
        raise ZeroDivisionError("oh")
    yield from true(self, path, **options)
Preprocessor.segments = segments
from mmx.runtime.workers.process import main
main()
"""


def until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.fixture
def unruly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "command", lambda: [sys.executable, "-c", UNRULY])


@pytest.fixture
def files(tone: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of the tone with that name."""

    def named(name: str) -> Path:
        return Path(shutil.copy(tone, tmp_path / f"{name}.wav"))

    return named


@pytest.fixture(scope="module")
def workers(tiny_bundle: Path) -> Iterator[Workers]:
    with Workers(Bundle.open(tiny_bundle), 1) as opened:
        yield opened


def same(one: Segment, other: Segment) -> None:
    for name in ("file", "span", "absent", "frames_seen", "flags", "faces"):
        assert getattr(one, name) == getattr(other, name), name
    np.testing.assert_array_equal(one.sample.faces, other.sample.faces)
    np.testing.assert_array_equal(one.sample.pieces, other.sample.pieces)
    if one.sample.token_ids is None or other.sample.token_ids is None:
        assert one.sample.token_ids is other.sample.token_ids
    else:
        np.testing.assert_array_equal(one.sample.token_ids, other.sample.token_ids)


def test_segments_are_those_of_the_preprocessor(
    workers: Workers, tiny_bundle: Path, clip: tuple[Path, str], tone: Path, tmp_path: Path
) -> None:
    preprocessor = Preprocessor(Bundle.open(tiny_bundle), threads=1)
    subtitles = tmp_path / "a.srt"
    subtitles.write_text("1\n00:00:00,000 --> 00:00:01,000\nEver tried.\n")
    spans = (Span(0, 2.5, "Ever tried."), Span(2, 6, None))
    tasks = [
        Task(str(clip[0]), text=clip[1]),
        Task(tone, window=0.8),
        Task(tone, transcript=spans),
        Task(tone, transcript=subtitles),
    ]
    for task in tasks:
        expected = preprocessor.segments(task.path, text=task.text, transcript=task.transcript, window=task.window)
        for one, other in zip(workers.read(task), expected, strict=True):
            same(one, other)


def test_messages_and_segments_have_the_name_that_was_given(workers: Workers, tone: Path, tmp_path: Path) -> None:
    (segment,) = workers.read(Task(tone, name="video"))
    assert segment.file == "video"
    with pytest.raises(BadDataError, match=r"^video cannot be read") as error:
        list(workers.read(Task(tmp_path / "none.mp4", name="video")))
    assert str(tmp_path) not in str(error.value)
    (tmp_path / "bad.srt").write_bytes(b"1\n00:00:0")
    with pytest.raises(BadDataError, match=r"^words") as error:
        list(workers.read(Task(tone, transcript=tmp_path / "bad.srt", transcript_name="words")))
    with pytest.raises(UsageError):
        list(workers.read(Task(tone, text="a", transcript="b.srt")))


def test_errors_keep_their_class_on_the_way() -> None:
    for error in (UsageError("a", "b"), BadDataError("c"), EnvironmentMissing("d"), Rejected("too_slow", "e", "f")):
        back = error_of(json.loads(json.dumps(error_to_plain(error))))
        assert (type(back), str(back), back.exit_code) == (type(error), str(error), error.exit_code)


def test_a_file_costs_its_own_answer_alone(
    unruly: None, files: Callable[[str], Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    names = ["fine", "deadly", "unlucky", "greedy", "faulty", "breaks off", "hangs", "also fine"]
    limits = Limits(stall_s=10.0)
    with Pipeline(tiny_bundle, backend="onnxruntime", threads=1, workers=2, limits=limits) as pipeline:
        results = {Path(result.file).stem: result for result in pipeline.run(files(name) for name in names)}
    errors = {name: getattr(result.error, "code", None) for name, result in results.items()}
    assert errors == {
        "fine": None,
        "deadly": "decoder_crashed",
        "unlucky": None,
        "greedy": "too_much_memory",
        "faulty": "decoder_crashed",
        "breaks off": "decoder_crashed",
        "hangs": "too_slow",
        "also fine": None,
    }
    assert "ZeroDivisionError: oh" in str(results["faulty"].error)
    counts = {name: len(result.predictions) for name, result in results.items()}
    assert counts == dict.fromkeys(names, 0) | {"fine": 1, "unlucky": 1, "breaks off": 1, "also fine": 1}
    assert results["unlucky"].predictions[0].logits == pytest.approx(results["fine"].predictions[0].logits, abs=2e-5)


def test_a_worker_that_died_while_it_was_idle_costs_nothing(tiny_bundle: Path, tone: Path) -> None:
    with Workers(Bundle.open(tiny_bundle), 1) as workers:
        workers.wait()
        for wait in (True, False):
            (pid,) = workers.pids
            os.kill(pid, signal.SIGKILL)
            if wait:
                until(lambda pid=pid: gone(pid))
            assert len(list(workers.read(Task(tone)))) == 1


def test_who_leaves_a_file_waits_for_nothing(unruly: None, files: Callable[[str], Path], tiny_bundle: Path) -> None:
    hangs, fine = files("hangs"), files("fine")
    with Workers(Bundle.open(tiny_bundle), 1) as workers:
        reading = workers.read(Task(hangs))
        waiting = threading.Thread(target=lambda: list(reading))
        waiting.start()
        until(hangs.with_suffix(".hangs").exists)
        reading.close()
        waiting.join(PATIENCE_S)
        assert not waiting.is_alive()
        assert len(list(workers.read(Task(fine)))) == 1

    with Pipeline(tiny_bundle, backend="onnxruntime", threads=1, workers=1) as pipeline:
        results = pipeline.run([fine, hangs])
        next(results)
        results.close()
        assert [result.error for result in pipeline.run([fine])] == [None]


def test_a_long_file_is_given_up_at_the_next_frame(workers: Workers, clip: tuple[Path, str], tone: Path) -> None:
    workers.wait()
    before = workers.pids
    with closing(workers.read(Task(str(clip[0]), window=0.5))) as reading:
        next(reading)
    assert len(list(workers.read(Task(tone)))) == 1
    assert workers.pids == before  # it was asked, and not killed


def test_workers_have_no_secrets_and_end_with_their_parent(tiny_bundle: Path, tone: Path) -> None:
    script = f"""
import time
from mmx.runtime import Bundle
from mmx.runtime.workers.blocking import Workers
workers = Workers(Bundle.open({str(tiny_bundle)!r}), 2)
workers.wait()
print(*workers.pids, flush=True)
time.sleep(600)
"""
    env = {**os.environ, "MMX_API_KEY": "a very secret key", "AWS_SECRET_ACCESS_KEY": "another"}
    with subprocess.Popen([sys.executable, "-c", script], env=env, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        for pid in pids:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            assert b"PATH=" in environment and b"secret" not in environment and b"another" not in environment
        os.kill(pids[0], signal.SIGSTOP)  # as one that hangs in a decoder
        parent.kill()
    until(lambda: all(map(gone, pids)))


def test_a_worker_that_cannot_start_says_why(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, tone: Path) -> None:
    monkeypatch.setattr(worker_module, "command", lambda: [sys.executable, "-c", "raise SystemExit(3)"])
    with (
        Workers(Bundle.open(tiny_bundle), 2) as workers,
        pytest.raises(EnvironmentMissing, match="a worker cannot start"),
    ):
        list(workers.read(Task(tone)))


def test_closing_at_once_leaves_nothing_behind(
    tiny_bundle: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncio logs a task that was destroyed before its end; a transport or a process that was not closed warns, or
    fails in its ``__del__`` where no error can be raised.
    """
    failed: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", failed.append)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", ResourceWarning)
        for pause in (0.0, 0.01, 0.05, 0.3):
            workers = Workers(Bundle.open(tiny_bundle), 2)
            time.sleep(pause)
            workers.close()
            assert workers.pids == []
        del workers
        gc.collect()
    assert not [record for record in caplog.records if "was destroyed" in record.getMessage()]
    assert not failed
    assert not [each for each in warned if "transport" in str(each.message) or "subprocess" in str(each.message)]


def test_a_bundle_that_was_replaced_is_not_read_with(tiny_bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_bundle, tmp_path / "copy.mmx")
    bundle = Bundle.open(copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["thresholds"] = [0.25] * len(manifest["thresholds"])
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with Workers(bundle, 1) as workers, pytest.raises(EnvironmentMissing, match="replaced by another bundle"):
        workers.wait()


def test_what_a_worker_says_is_checked() -> None:
    with pytest.raises(BadDataError, match="no segment"):
        unpack_segment({"kind": "segment"}, {})
    arrays = {"faces": np.zeros((1, 3, 48, 48), np.float32), "pieces": np.zeros((0, 128, 32), np.float32)}
    with pytest.raises(BadDataError):
        unpack_segment({"kind": "segment", "about": {"file": 7}}, arrays)
    assert read_frame(io.BytesIO(b"")) is None


def test_what_the_dead_leave_is_removed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    script = """
import os, signal
from mmx.runtime.scratch import Scratch
print(Scratch("serve").path, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    left = Path(subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True).stdout.strip())
    assert (left / LOCK).exists()
    (tmp_path / "mmx-notes").mkdir()
    (tmp_path / "mmx-other-thing").mkdir()
    with Scratch("batch") as mine:
        assert not left.exists()
        sweep(tmp_path)
        assert mine.path.exists() and (tmp_path / "mmx-notes").exists() and (tmp_path / "mmx-other-thing").exists()
        with mine.holding(b"abc", "video") as path:
            assert path.read_bytes() == b"abc"
        assert [each.name for each in mine.path.iterdir()] == [LOCK]
    assert not mine.path.exists()

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "no such folder"))
    with pytest.raises(UsageError, match="no such folder cannot be written: No such file"):
        Scratch("batch")


@pytest.mark.parametrize(
    ("number", "error"),
    [(errno.ENOSPC, EnvironmentMissing), (errno.EDQUOT, EnvironmentMissing), (errno.EACCES, UsageError)],
)
def test_only_a_full_disk_is_a_fault_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[MmxError]
) -> None:
    def reject(*_: object, **__: object) -> str:
        raise OSError(number, os.strerror(number))

    with Scratch("batch", tmp_path) as mine:
        monkeypatch.setattr(Path, "write_bytes", reject)
        with pytest.raises(error, match=os.strerror(number)), mine.holding(b"abc", "video"):
            raise AssertionError("must not be reached")
        assert [each.name for each in mine.path.iterdir()] == [LOCK]
    monkeypatch.setattr("tempfile.mkdtemp", reject)
    with pytest.raises(error, match=os.strerror(number)):
        Scratch("batch", tmp_path)
