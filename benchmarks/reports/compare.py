"""``--compare``: this run against an earlier one, by ratios to the baseline of each run.

Seconds of two runs differ with the machine's mood; how many times faster than V2EM upstream-style a contender was in
its own run does not. A contender is slower when that fell by more than the limit and the two intervals do not
overlap.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmx.benchmarks.results import OK, Report, read_rows
from mmx.runtime.errors import BadDataError, UsageError
from mmx.view.terminal import text_table

RATIOS = ("vs_baseline", "vs_own")  # the second where a run had no baseline


@dataclass(frozen=True)
class Comparison:
    """A table of what changed, and the keys of what became slower."""

    text: str
    slower: tuple[str, ...]


def earlier_rows(old_file: Path, dataset: str) -> list[dict[str, Any]]:
    """The rows of an earlier run on ``dataset``.

    Raises:
        BadDataError: the file is not a report. UsageError: it is of another data set.
    """
    workload, rows = read_rows(old_file)
    if workload.get("dataset") != dataset:
        raise UsageError(f"{old_file} is of {workload.get('dataset')}, this run of {dataset}")
    return rows


def compare_reports(old_file: Path, new: Report, limit_percent: float) -> Comparison:
    """Compare the rows that both runs have a speed for.

    Raises:
        BadDataError: the file is not a report. UsageError: the runs have nothing in common.
    """
    old_rows = earlier_rows(old_file, new.workload.dataset)
    old = {_key(row): row for row in old_rows if row.get("status") == OK}
    lines, slower = [], []
    for row in new.rows:
        before = old.get((row.system, row.runner, row.precision, row.threads))
        if before is None:
            continue
        if row.status != OK:
            lines.append((row.key, str(row.threads), "", "", "", row.status))
            slower.append(row.key)
            continue
        for name in RATIOS:
            now, then = getattr(row, name), before.get(name)
            if now is None or then is None:
                continue
            median, low, high = _ratio(then, old_file)
            change = 100 * (now.median / median - 1)
            apart = now.high < low or now.low > high
            is_slower = change < -limit_percent and apart
            verdict = "SLOWER" if is_slower else "faster" if change > limit_percent and apart else "same"
            lines.append(
                (row.key, str(row.threads), f"{median:.2f}x", f"{now.median:.2f}x", f"{change:+.1f}%", verdict)
            )
            if is_slower:
                slower.append(row.key)
            break
    if not lines:
        raise UsageError(f"{old_file} has no contender in common with this run", "run the same systems and threads")
    head = ("contender", "threads", "then", "now", "change", "")
    title = (
        f"Against {old_file}: speed-up over the baseline of each run; slower = by more than {limit_percent:g} % and "
    )
    return Comparison(title + "outside both intervals\n" + text_table(head, lines), tuple(dict.fromkeys(slower)))


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in ("system", "runner", "precision", "threads"))


def _ratio(value: Any, file: Path) -> tuple[float, float, float]:
    given = [value.get(name) for name in ("median", "low", "high")] if isinstance(value, dict) else []
    numbers = [float(number) for number in given if isinstance(number, (int, float)) and number > 0]
    if len(numbers) != 3:
        raise BadDataError(f"{file} holds a damaged ratio", "make the report again")
    return numbers[0], numbers[1], numbers[2]
