"""Opening contenders one after the other: those that are ready, and why the others are not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mmx.benchmarks.results import EAGER, NO_TIME, UNAVAILABLE, Row
from mmx.evaluation.timing import Contender
from mmx.runtime.errors import MmxError


@dataclass(frozen=True)
class Opened:
    """A contender that is ready, and the seconds it took to get there."""

    contender: Contender
    load_s: float


def open_contenders(
    makers: Iterable[tuple[str, Callable[[], Contender]]],
    threads: int,
    say: Callable[[str], None],
    leave_out: Callable[[str], bool] = lambda key: False,
) -> tuple[list[Opened], list[Row]]:
    """Open contenders by key, one after the other.

    Args:
        leave_out: whether there is no time left for a contender. A system whose eager is left out goes with all it has.

    Returns:
        Those that opened, and a row that says why for each that did not.

    Raises:
        MmxError: eager PyTorch, without which nothing can be compared, did not open.
    """
    opened: list[Opened] = []
    rejected: list[Row] = []
    without_reference: set[str] = set()
    for key, make in makers:
        system, runner, precision = key.split("/")
        if system in without_reference or leave_out(key):
            rejected.append(Row(system, runner, precision, threads, NO_TIME, "--minutes were running short"))
            if runner == EAGER:
                without_reference.add(system)
            continue
        say(f"opening {key}")
        start = time.perf_counter()
        try:
            contender = make()
        except MmxError as e:
            if runner == EAGER:
                raise
            rejected.append(Row(system, runner, precision, threads, UNAVAILABLE, e.message))
            continue
        opened.append(Opened(contender, time.perf_counter() - start))
    return opened, rejected
