"""``mmx batch --ray``: the same work on a Ray cluster.

    driver: tasks in small blocks -> Read (one CPU each): fetch, decode, faces, mel, text
                                  -> Answer (CPU or GPU): the network on the segments of many files
                                  -> driver: each file's rows, in any order

Both stages are pools of actors that grow and shrink with the work. What goes from one to the other is plain arrays and
JSON. Ray repeats what a lost worker or node had not finished; ``Attempts`` notices a file that kills its workers.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import EnvironmentMissing, MmxError, as_error, missing_extra
from mmx.runtime.network import Network, require_media
from mmx.runtime.packing import length, rows, split
from mmx.runtime.prediction import Prediction
from mmx.runtime.preprocess import Segment
from mmx.runtime.probabilities import Certainty
from mmx.runtime.scratch import Scratch
from mmx.runtime.types import Tracks
from mmx.runtime.workers.blocking import Workers
from mmx.runtime.workers.task import Limits, Task
from mmx.serving.batch.chunks import Chunk, chunk_table, chunks_in, joined, part_of
from mmx.serving.batch.fetch import Fetched, fetch
from mmx.serving.batch.inputs import Asked
from mmx.serving.batch.run import Records

BLOCK_FILES = 8  # files that a lost worker loses, and that are done again
CHUNK_ROWS = 1024  # faces and mel pieces that go to the network stage in one row: about 28 MB
BATCH_CHUNKS = 16  # rows that the network stage takes at once
MAX_ROWS, BATCH_SIZE = 256, 32  # of one run of the network, as in the pipeline of one machine
TRIES = 3  # workers that one file may kill


@dataclass(frozen=True)
class RayWorkers:
    """What every actor needs to know, and how many there are of each kind.

    Attributes:
        bundle: a path that every node sees. faces, asr, language, limits, on_mismatch, backend, precision, threads,
            device, certainty: as ``Pipeline``. private: see ``fetch``.
        readers, networks: the fewest and the most actors; None: from one to as many as the cluster has CPUs (for
            readers), nodes or GPUs (for networks).
        gpus: of each network actor; without any it takes no CPU of its own, as readers wait for it when it is behind.
    """

    bundle: Path
    faces: str = "exact"
    limits: Limits = field(default_factory=Limits)
    readers: tuple[int, int] | None = None
    networks: tuple[int, int] | None = None
    gpus: float = 0
    on_mismatch: str = "error"
    backend: str = "auto"
    precision: str = "fp32"
    threads: int | None = None
    device: str | None = None
    asr: str = "none"
    language: str | None = None
    certainty: Certainty | None = None
    private: bool = False


class Attempts:
    """Which files are being worked on, and how often a worker has died with each."""

    def __init__(self) -> None:
        self._begun: dict[str, int] = {}

    def begin(self, keys: Sequence[str]) -> list[int]:
        """How often each was begun and not ended before."""
        before = [self._begun.get(key, 0) for key in keys]
        for key, count in zip(keys, before, strict=True):
            self._begun[key] = count + 1
        return before

    def end(self, keys: Sequence[str]) -> None:
        """These went well."""
        for key in keys:
            self._begun.pop(key, None)


class Read:
    """A reader: one chunk for each file, or several for a long one. The file is read by a worker process of its own."""

    def __init__(self, settings: RayWorkers, attempts: Any) -> None:
        self._attempts, self._private = attempts, settings.private
        self._scratch = Scratch("ray")
        self._workers = Workers(
            Bundle.open(settings.bundle),
            1,
            faces=settings.faces,
            limits=settings.limits,
            asr=settings.asr,
            language=settings.language,
        )

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Read the tasks of a block, see ``task_row``."""
        import ray

        for row in batch["task"].to_pylist():
            asked = _asked(row)
            key = f"read {asked.key}"
            (died,) = ray.get(self._attempts.begin.remote([key]))
            if died >= TRIES:
                fetched = Fetched(asked, asked.task, "", error=_deadly(asked.task.shown))
            else:
                fetched = fetch(asked, self._scratch.path, private=self._private)
            try:
                for chunk in self._chunks(fetched):
                    yield chunk_table(chunk)
            finally:
                fetched.discard()
            self._attempts.end.remote([key])

    def _chunks(self, fetched: Fetched) -> Iterator[Chunk]:
        key, file = fetched.asked.key, fetched.task.shown
        error = fetched.error
        number, segments = 0, list[Segment]()
        try:
            if error is None:
                with closing(self._workers.read(fetched.task)) as reading:
                    for segment in reading:
                        segments.append(segment)
                        if rows([each.sample for each in segments]) > CHUNK_ROWS:
                            yield Chunk(key, file, fetched.content, number, segments, None, last=False)
                            number, segments = number + 1, []
        except Exception as e:
            error = as_error(e, file)
        yield Chunk(key, file, fetched.content, number, segments, error, last=True)


class Answer:
    """A network: for each chunk, its part of the file's record, as JSON."""

    def __init__(self, workers: RayWorkers, attempts: Any) -> None:
        self._attempts = attempts
        self._network = Network.open(
            workers.bundle,
            workers.backend,
            workers.precision,
            threads=workers.threads,
            on_mismatch=workers.on_mismatch,
            device=workers.device,
            certainty=workers.certainty,
        )
        require_media(self._network.bundle)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Answer the segments of many files together; one file after another, if a worker has died with one of them."""
        import ray

        chunks = chunks_in(batch)
        keys = [f"answer {chunk.task} {chunk.number}" for chunk in chunks]
        died = ray.get(self._attempts.begin.remote(keys))
        answers: dict[int, Prediction | MmxError] = {}
        if not any(died):
            answers = self._answer([segment for chunk in chunks for segment in chunk.segments])
        else:
            self._attempts.end.remote(keys)
            for chunk, key in zip(chunks, keys, strict=True):
                (alone,) = ray.get(self._attempts.begin.remote([f"{key} alone"]))
                deadly = alone >= TRIES
                answers |= (
                    {id(s): _deadly(chunk.file) for s in chunk.segments} if deadly else self._answer(chunk.segments)
                )
                self._attempts.end.remote([f"{key} alone"])
        self._attempts.end.remote(keys)
        lines = [self._part(chunk, answers) for chunk in chunks]
        return batch.select(["task", "number", "last"]).append_column("part", pa.array(lines, pa.large_string()))

    def _part(self, chunk: Chunk, answers: dict[int, Prediction | MmxError]) -> str:
        mine = [answers[id(segment)] for segment in chunk.segments]
        faults = [chunk.error, *(answer for answer in mine if isinstance(answer, MmxError))]
        error = next((fault for fault in faults if fault is not None), None)
        return part_of(chunk, [one for one in mine if isinstance(one, Prediction)], error)

    def _answer(self, segments: Sequence[Segment]) -> dict[int, Prediction | MmxError]:
        ordered = sorted(segments, key=lambda segment: length(segment.sample))
        answers: dict[int, Prediction | MmxError] = {}
        for group in split(ordered, MAX_ROWS, BATCH_SIZE, sample_of=lambda segment: segment.sample):
            answers |= zip(map(id, group), self._network.predict(group), strict=True)
        return answers


def predict_on_ray(workers: RayWorkers, address: str | None, tasks: Sequence[Asked]) -> Records:
    """The record of each task, in any order.

    Args:
        address: of a cluster; None: what RAY_ADDRESS names, or the one that this process has joined, or a new one here.

    Raises:
        EnvironmentMissing: Ray is not installed, the cluster can't be joined, or a worker can't start there.
    """
    ray = _import_ray()
    own = not ray.is_initialized()
    if own:
        _join(ray, address)
    try:
        waiting: dict[str, dict[int, str]] = {}
        lengths: dict[str, int] = {}
        for batch in _dataset(workers, tasks).iter_batches(batch_size=None, batch_format="pyarrow"):
            for chunk in batch.to_pylist():
                key, number = chunk["task"], chunk["number"]
                waiting.setdefault(key, {})[number] = chunk["part"]
                if chunk["last"]:
                    lengths[key] = number + 1
                if len(waiting[key]) == lengths.get(key):
                    yield joined(waiting.pop(key))
    except (ray.exceptions.RayError, ray.data.exceptions.UserCodeException) as e:
        raise EnvironmentMissing(f"a worker of the Ray cluster cannot work: {_reason(e)}", "see Ray's logs") from e
    finally:
        if own:
            ray.shutdown()


def _dataset(workers: RayWorkers, tasks: Sequence[Asked]) -> Any:
    """The two stages over the tasks, not started yet."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    cluster = ray.cluster_resources()
    blocks = -(-len(tasks) // BLOCK_FILES)

    def pool(wanted: tuple[int, int] | None, most: int) -> ActorPoolStrategy:
        low, high = wanted or (1, max(1, most))
        return ActorPoolStrategy(min_size=low, max_size=high, initial_size=max(low, min(high, blocks)))

    attempts = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Attempts).remote()
    arguments: dict[str, Any] = {"fn_constructor_args": (workers, attempts), "batch_format": "pyarrow"}
    spread = int(cluster.get("GPU", 0) / workers.gpus) if workers.gpus else len(ray.nodes())
    rows = [{"task": task_row(task)} for task in tasks]
    schema = pa.schema([("task", pa.string())])
    tables = [pa.Table.from_pylist(rows[at : at + BLOCK_FILES], schema) for at in range(0, len(rows), BLOCK_FILES)]
    return (
        ray.data.from_arrow(tables)
        .map_batches(
            Read, batch_size=None, compute=pool(workers.readers, int(cluster.get("CPU", 1))), num_cpus=1, **arguments
        )
        .map_batches(
            Answer,
            batch_size=BATCH_CHUNKS,
            compute=pool(workers.networks, spread),
            num_cpus=1 if workers.gpus else 0,
            num_gpus=workers.gpus or None,
            **arguments,
        )
    )


def task_row(asked: Asked) -> str:
    """A task as it goes to a reader."""
    task = asked.task
    tracks = [task.tracks.video, task.tracks.audio]
    row = [asked.key, str(task.path), task.text, task.transcript, task.window, tracks, task.name, task.people]
    return json.dumps(row, default=str)


def _asked(row: str) -> Asked:
    key, path, text, transcript, window, tracks, name, people = json.loads(row)
    return Asked(key, Task(path, text, transcript, window, Tracks(*tracks), name, people=people))


def _join(ray: Any, address: str | None) -> None:
    """Join a cluster, or start one here; its workers' output stays in its logs."""
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        ray.init(address=address, **quiet) if address else ray.init(include_dashboard=False, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as e:
        raise EnvironmentMissing(f"the Ray cluster {address or ''} cannot be joined: {e}", "ray status") from e
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _reason(error: BaseException) -> str:
    """The error that Ray's long story is about: the last line of it that names one."""
    found = re.findall(r"^\s*(?:[\w.]+\.)?(\w+(?:Error|Missing|Exception): .+)$", str(error), re.MULTILINE)
    return found[-1] if found else f"{type(error).__name__}: {error}"


def _deadly(file: str) -> MmxError:
    return MmxError(f"{file}: {TRIES} actors crashed on it", "see Ray's logs; mmx predict may show more")


def _import_ray() -> Any:
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as e:
        raise missing_extra("ray", "ray") from e
    return ray
