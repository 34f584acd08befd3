"""``mmx batch``: tasks -> the runtime's pipeline -> rows -> results. What a run on Ray shares with one here is here."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from mmx.runtime.throughput import Item, Pipeline
from mmx.serving.batch.fetch import Fetched, fetch_all
from mmx.serving.batch.inputs import Task
from mmx.serving.batch.output import Results, Row, rows_of

FETCH_AHEAD = 8  # downloads under way
Answers = Generator[list[Row], None, None]  # the rows of one file after another


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
        """Files that have rows, those of earlier runs included."""
        return self.skipped + self.answered + self.failed

    @property
    def per_second(self) -> float:
        """Files of this run per second."""
        return (self.answered + self.failed) / max(time.monotonic() - self.started, 1e-9)

    def count(self, rows: Sequence[Row]) -> None:
        """Take the rows of one more file into account."""
        codes = [row["exit_code"] for row in rows if row.get("error") is not None]
        self.failed += bool(codes)
        self.answered += not codes
        self.segments += sum(row.get("segment") is not None for row in rows)
        self.worst = max([self.worst, *codes])


def collect(
    tasks: Sequence[Task],
    answer: Callable[[Sequence[Task]], Answers],
    results: Results,
    report: Callable[[Progress, Sequence[Row]], None],
) -> Progress:
    """Answer for the tasks that are not done yet, and write down each file's rows as they come.

    Args:
        answer: gives the rows of each task, in any order.
        report: called after each file, with its rows.
    """
    todo = [task for task in tasks if task.key not in results.done]
    before = [results.done[task.key] for task in tasks if task.key in results.done]
    progress = Progress(
        len(tasks),
        skipped=len(before),
        failed_before=sum(code > 0 for code in before),
        worst=max(before, default=0),
        started=time.monotonic(),
    )
    if not todo:
        return progress
    with closing(answer(todo)) as answers:
        for rows in answers:
            results.add(rows)
            progress.count(rows)
            report(progress, rows)
    return progress


def answer_here(pipeline: Pipeline, window: float | None, tasks: Iterable[Task]) -> Answers:
    """The rows of each task, in their order, with the pipeline of this process."""
    under_way: deque[Fetched] = deque()
    lost: deque[Fetched] = deque()

    def items() -> Generator[Item, None, None]:
        with closing(fetch_all(tasks, FETCH_AHEAD)) as all_fetched:
            for fetched in all_fetched:
                if fetched.error is not None:
                    lost.append(fetched)
                    continue
                under_way.append(fetched)
                yield Item(fetched.path, fetched.task.text, fetched.transcript, window)

    try:
        with closing(items()) as source, closing(pipeline.run(source)) as results:
            for result in results:
                yield from _errors(lost)
                fetched = under_way.popleft()
                fetched.discard()
                yield rows_of(fetched.task, result.predictions, result.error, fetched.path)
        yield from _errors(lost)
    finally:
        for fetched in under_way:
            fetched.discard()


def _errors(lost: deque[Fetched]) -> Iterator[list[Row]]:
    while lost:
        fetched = lost.popleft()
        yield rows_of(fetched.task, (), fetched.error)
