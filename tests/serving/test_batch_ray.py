"""mmx batch --ray: the rows of mmx batch, each file's once, whatever is killed.

The workers' own code runs in every test run, on a stand-in of Ray; a real cluster needs Ray (pip install 'mmx[ray]').
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
import wave
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mmx.cli.main import main
from mmx.runtime import Bundle
from mmx.runtime.errors import EnvironmentMissing

pytest.importorskip("pyarrow", reason="pip install 'mmx[batch]'")

import pyarrow as pa
import pyarrow.parquet as pq

from mmx.runtime.extras import install_command
from mmx.runtime.throughput import Pipeline
from mmx.runtime.workers.task import Task
from mmx.serving.batch import on_ray
from mmx.serving.batch.chunks import chunks_in, joined
from mmx.serving.batch.inputs import with_keys
from mmx.serving.batch.on_ray import Answer, Attempts, RayWorkers, Read, predict_on_ray, task_row
from mmx.serving.batch.parquet import ParquetFolder
from mmx.serving.batch.results import Record
from mmx.serving.batch.run import Progress, collect, predict_here


def sound(path: Path, seconds: float, hertz: float) -> Path:
    time = np.arange(int(16000 * seconds)) / 16000
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16000)
        out.writeframes((9000 * np.sin(2 * np.pi * hertz * time)).astype("<i2").tobytes())
    return path


@pytest.fixture
def tasks(tmp_path: Path, black: Path) -> list[Task]:
    (tmp_path / "broken.mp4").write_text("nothing of the kind")
    sounds = [sound(tmp_path / f"{number}.wav", 0.5 + 0.3 * number, 200 * (number + 1)) for number in range(4)]
    files = [*sounds[:2], tmp_path / "broken.mp4", *sounds[2:], black]
    tasks = [Task(str(path), "Ever tried." if path in sounds[1:3] else None, window=0.4) for path in files]
    return [*tasks, Task("memory://nowhere/a.mp4")]


class StandIn:
    """As much of Ray as the workers use: an actor that is called at once."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self._actor, name))


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get=lambda value: value))
    return StandIn(Attempts())


def table(tasks: Sequence[Task]) -> pa.Table:
    return pa.table({"task": [task_row(asked) for asked in with_keys(tasks)]})


def records_of(tables: Sequence[pa.Table]) -> dict[str, Record]:
    """By the file's name."""
    chunks: dict[str, dict[int, str]] = {}
    for chunk in pa.concat_tables(tables).to_pylist():
        chunks.setdefault(chunk["task"], {})[chunk["number"]] = chunk["part"]
    records = [joined(parts) for parts in chunks.values()]
    return {record.file: record for record in records}


def same(ours: Record, reference: Record) -> None:
    """Compare records in everything but the times."""
    assert (ours.task, ours.file, ours.content) == (reference.task, reference.file, reference.content)
    assert str(ours.error) == str(reference.error)
    assert len(ours.predictions) == len(reference.predictions)
    for one, other in zip(ours.predictions, reference.predictions, strict=True):
        for name in ("file", "start", "end", "labels", "modalities", "left_out", "text", "flags"):
            assert getattr(one, name) == getattr(other, name), name
        assert one.logits == pytest.approx(other.logits, rel=1e-5, abs=1e-6)


def here(bundle: Path, tasks: Sequence[Task]) -> dict[str, Record]:
    with Pipeline(bundle, workers=1, threads=1, backend="onnxruntime") as pipeline:
        return {record.file: record for record in predict_here(pipeline, with_keys(tasks))}


def test_the_workers_give_the_rows_of_one_machine(
    tasks: list[Task], tiny_bundle: Path, attempts: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "CHUNK_ROWS", 2)  # so that every file with windows comes in parts
    workers = RayWorkers(tiny_bundle, backend="onnxruntime", threads=1)
    read = list(Read(workers, attempts)(table(tasks)))
    chunks = [chunk for part in read for chunk in chunks_in(part)]
    assert max(chunk.number for chunk in chunks) > 0
    found = records_of([Answer(workers, attempts)(pa.concat_tables(read))])
    expected = here(tiny_bundle, tasks)
    assert found.keys() == expected.keys() == {task.shown for task in tasks}
    for task in tasks:
        same(found[task.shown], expected[task.shown])
    assert len(found[tasks[4].shown].predictions) == 3
    assert "memory://nowhere/a.mp4 cannot be read" in str(found[tasks[-1].shown].error)


def test_a_file_that_kills_its_workers_gets_an_error_and_the_others_their_answers(
    tasks: list[Task], tiny_bundle: Path, attempts: StandIn
) -> None:
    workers = RayWorkers(tiny_bundle, backend="onnxruntime", threads=1)
    reader, network = Read(workers, attempts), Answer(workers, attempts)
    keys = [asked.key for asked in with_keys(tasks)]
    alive = list(reader(table(tasks)))
    for _ in range(on_ray.TRIES):
        attempts.begin.remote([f"read {keys[0]}"])  # an actor that began and never ended
    (dead, fine) = reader(table(tasks[:2]))
    assert "3 actors crashed on it" in str(records_of([network(dead)])[tasks[0].shown].error)
    assert chunks_in(fine)[0].error is None

    key = f"answer {keys[1]} 0"
    attempts.begin.remote([key])  # a network died once with a batch that held this file
    for _ in range(on_ray.TRIES):
        attempts.begin.remote([f"{key} alone"])  # and then with it alone
    found = records_of([network(pa.concat_tables(alive))])
    assert "3 actors crashed on it" in str(found[tasks[1].shown].error)
    expected = here(tiny_bundle, tasks)
    for task in (tasks[0], *tasks[2:]):
        same(found[task.shown], expected[task.shown])


def test_without_ray_the_command_says_what_to_install(
    tasks: list[Task],
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    code = main(["batch", str(tiny_bundle), tasks[0].path, "--out", str(tmp_path / "out"), "--ray"])
    assert code == EnvironmentMissing.exit_code
    assert install_command("ray") in capsys.readouterr().err


# A real cluster from here on: several nodes on this machine.


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="pip install 'mmx[ray]'")
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 200 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=small)
    for _ in range(2):
        cluster.add_node(**small)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def many(clip: Path, folder: Path, sounds: int, clips: int) -> list[Task]:
    for number in range(clips):
        shutil.copy(clip, folder / f"clip{number}.mp4")
    for number in range(sounds):
        sound(folder / f"sound{number}.wav", 0.5 + 0.02 * number, 200 + 10 * number)
    (folder / "broken.mp4").write_text("nothing of the kind")
    return [Task(str(path)) for path in sorted(folder.iterdir())]


def run(bundle: Path, tasks: Sequence[Task], out: Path, report: Any = lambda *_: None, **options: Any) -> Progress:
    workers = RayWorkers(bundle, backend="onnxruntime", threads=1, readers=(1, 3), networks=(1, 2), **options)
    with ParquetFolder(out, Bundle.open(bundle).manifest, {"model": 1}, shard_files=8) as results:
        for progress, record in collect(tasks, lambda todo: predict_on_ray(workers, None, todo), results):
            report(progress, record)
        return progress


def files_in(out: Path) -> list[str]:
    return sorted(pq.read_table(out, columns=["file"])["file"].to_pylist())


def workers_of(stage: str, nodes: Sequence[Any]) -> list[int]:
    """Process ids of the cluster's own workers of a stage."""
    raylets = {node.all_processes["raylet"][0].process.pid for node in nodes}
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent in raylets and f"MapBatches({stage})" in (folder / "cmdline").read_text():
                found.append(int(folder.name))
    return found


@pytest.mark.slow
def test_workers_and_a_node_are_killed_and_every_file_is_answered_once(
    cluster: Any, tiny_bundle: Path, clip: tuple[Path, str], tmp_path: Path
) -> None:
    (tmp_path / "media").mkdir()
    tasks = many(clip[0], tmp_path / "media", sounds=40, clips=9)
    killed: list[str] = []

    def kill(progress: Progress, _record: Record | None) -> None:
        done = progress.answered + progress.failed
        nodes = cluster.list_all_nodes()
        if done == 4:
            os.kill(workers_of("Read", nodes)[0], signal.SIGKILL)
            killed.append("reader")
        if done == 12:
            os.kill(workers_of("Answer", nodes)[0], signal.SIGKILL)
            killed.append("network")
        if done == 20:
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
            killed.append("node")

    progress = run(tiny_bundle, tasks, tmp_path / "out", kill)
    assert killed == ["reader", "network", "node"]
    assert (progress.answered, progress.failed) == (len(tasks) - 1, 1)
    assert files_in(tmp_path / "out") == [task.shown for task in tasks]  # nothing lost, nothing twice

    expected = here(tiny_bundle, tasks)
    for row in pq.read_table(tmp_path / "out").to_pylist():
        reference = expected[row["file"]]
        assert row["error"] == (reference.error.message if reference.error else None)
        logits = reference.predictions[0].logits if reference.predictions else {}
        assert (row["logits"] or {}) == pytest.approx(logits, rel=1e-5, abs=1e-6)


@pytest.mark.slow
def test_a_broken_off_run_goes_on_where_it_was(cluster: Any, tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    tasks = many(Path(__file__), tmp_path / "media", sounds=30, clips=0)

    def stop(progress: Progress, _record: Record | None) -> None:
        if progress.answered == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tiny_bundle, tasks, tmp_path / "out", stop)
    kept = files_in(tmp_path / "out")
    assert len(kept) == len(set(kept)) >= 12
    progress = run(tiny_bundle, tasks, tmp_path / "out")
    assert progress.skipped == len(kept)
    assert files_in(tmp_path / "out") == [task.shown for task in tasks]


class Deadly(Read):
    """A reader that a certain file kills, though it is read in a process of its own."""

    def _chunks(self, fetched: Any) -> Any:
        if fetched.error is None and "sound3" in str(fetched.task.path):
            time.sleep(0.2)  # let what was read before it leave the process
            os._exit(1)
        return super()._chunks(fetched)


@pytest.mark.slow
def test_a_file_that_crashes_its_reader_does_not_stop_the_run(
    cluster: Any, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(on_ray, "Read", Deadly)
    (tmp_path / "media").mkdir()
    tasks = many(Path(__file__), tmp_path / "media", sounds=10, clips=0)
    try:
        progress = run(tiny_bundle, tasks, tmp_path / "out")
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    assert (progress.answered, progress.failed) == (9, 2)
    errors = {row["file"]: row["error"] for row in pq.read_table(tmp_path / "out").to_pylist() if row["error"]}
    assert "3 actors crashed on it" in errors[str(tmp_path / "media" / "sound3.wav")]
    assert files_in(tmp_path / "out") == [task.shown for task in tasks]


@pytest.mark.slow
def test_a_worker_that_cannot_start_is_told(cluster: Any, tiny_bundle: Path, tmp_path: Path) -> None:
    sound(tmp_path / "a.wav", 1, 300)
    with pytest.raises(EnvironmentMissing, match="TensorRT"):
        list(
            predict_on_ray(
                RayWorkers(tiny_bundle, backend="tensorrt"), None, with_keys([Task(str(tmp_path / "a.wav"))])
            )
        )
