"""Many files -> records: with the runtime's pipeline, here; or, behind the same function, on Ray (``on_ray``)."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmx.runtime.bundle import Bundle
from mmx.runtime.scratch import Scratch
from mmx.runtime.throughput import Pipeline
from mmx.runtime.workers.task import Task
from mmx.serving.batch.fetch import Fetched, fetch_all
from mmx.serving.batch.inputs import Asked, with_keys
from mmx.serving.batch.results import Record, Results, left_to_do

FETCH_AHEAD = 8  # downloads under way
FORMATS = ("jsonl", "csv", "parquet")
SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}
Records = Generator[Record, None, None]


@dataclass
class Progress:
    """How far a run is. ``worst`` is the exit code of the worst error so far, of earlier runs too."""

    total: int
    skipped: int = 0
    failed_before: int = 0
    answered: int = 0
    failed: int = 0
    segments: int = 0
    worst: int = 0
    started: float = 0.0

    @property
    def done(self) -> int:
        """Files that have a record, those of earlier runs included."""
        return self.skipped + self.answered + self.failed

    @property
    def per_second(self) -> float:
        """Files of this run per second."""
        return (self.answered + self.failed) / max(time.monotonic() - self.started, 1e-9)

    def count(self, record: Record) -> None:
        """Take one more file into account."""
        self.failed += record.error is not None
        self.answered += record.error is None
        self.segments += len(record.predictions)
        self.worst = max(self.worst, record.error.exit_code if record.error else 0)


def open_results(
    path: Path, form: str, bundle: Bundle, made_with: dict[str, Any], *, resume: bool, **shards: Any
) -> Results:
    """The results at a path, in one of ``FORMATS``.

    Raises:
        MmxError: see ``LinesFile`` and ``ParquetFolder``.
    """
    if form == "parquet":
        from mmx.serving.batch.parquet import ParquetFolder

        return ParquetFolder(path, bundle.manifest, made_with, **shards)
    from mmx.serving.batch.lines import Csv, JsonLines, LinesFile

    return LinesFile(path, made_with, JsonLines() if form == "jsonl" else Csv(bundle.manifest), resume=resume)


def collect(
    tasks: Sequence[Task],
    predict: Callable[[Sequence[Asked]], Records],
    results: Results,
    *,
    retry: bool = False,
) -> Iterator[tuple[Progress, Record | None]]:
    """Do what is not done yet; yield how far the run is, at first without a record and then after each that was added.

    Args:
        predict: gives the record of each task, in any order.
        retry: do those again that had an error.
    """
    asked = with_keys(tasks)
    left = left_to_do(asked, results, retry=retry)
    before = [results.done[each.key].exit_code for each in asked if each.key in results.done]
    progress = Progress(
        len(tasks),
        skipped=len(before),
        failed_before=sum(code > 0 for code in before),
        worst=max(before, default=0),
        started=time.monotonic(),
    )
    yield progress, None
    if left:
        with closing(predict(left)) as records:
            for record in records:
                results.add(record)
                progress.count(record)
                yield progress, record


def predict_here(pipeline: Pipeline, asked: Iterable[Asked], *, private: bool = False) -> Records:
    """The record of each task, in their order, with the pipeline of this process (``private``: see ``fetch``)."""
    under_way: deque[Fetched] = deque()
    lost: deque[Fetched] = deque()

    def tasks() -> Generator[Task, None, None]:
        with closing(fetch_all(asked, FETCH_AHEAD, scratch.path, private=private)) as all_fetched:
            for fetched in all_fetched:
                if fetched.error is not None:
                    lost.append(fetched)
                    continue
                under_way.append(fetched)
                yield fetched.task

    with Scratch("batch") as scratch:
        try:
            with closing(tasks()) as source, closing(pipeline.run(source)) as results:
                for result in results:
                    yield from _lost(lost)
                    fetched = under_way.popleft()
                    fetched.discard()
                    yield Record(fetched.asked.key, result.file, fetched.content, result.predictions, result.error)
            yield from _lost(lost)
        finally:
            for fetched in under_way:
                fetched.discard()


def _lost(lost: deque[Fetched]) -> Iterator[Record]:
    while lost:
        fetched = lost.popleft()
        yield Record(fetched.asked.key, fetched.asked.task.shown, "", (), fetched.error)
