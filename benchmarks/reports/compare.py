"""``--compare``: this run against an earlier one, by ratios to the baseline of each run.

Seconds of two runs differ with the machine's mood; how many times faster than V2EM upstream-style a contender was in
its own run does not. A contender of mmx is slower when that fell by more than the limit and the two intervals do not
overlap, or when its answers are wrong now. The peers are shown: their speed is not mmx's to keep.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmx.benchmarks.results import OK, PARITY_FAILED, Report, Row, read_report
from mmx.runtime.errors import BadDataError, UsageError
from mmx.view.terminal import text_table

RATIOS = ("vs_baseline", "vs_own")  # the second where a run had no baseline


@dataclass(frozen=True)
class Comparison:
    """A table of what changed, and the keys of what became slower."""

    text: str
    slower: tuple[str, ...]


def comparable(old_file: Path, dataset: str, scope: str, preset: str, real_data: bool) -> dict[str, Any]:
    """An earlier report, as plain data, if its run was of the same kind as the one described.

    Raises:
        BadDataError: the file is not a report. UsageError: it is of another data set, scope or preset, or one of the
            two ran real data and the other synthetic.
    """
    report = read_report(old_file)
    then = report["workload"]
    kinds = {
        "data set": (then.get("dataset"), dataset),
        "scope": (report.get("scope"), scope),
        "preset": (then.get("preset", "full"), preset),
        "source of samples": tuple("a data set" if real else "synthetic" for real in (_is_real(then), real_data)),
    }
    for what, (old, new) in kinds.items():
        if old != new:
            raise UsageError(f"{old_file} has the {what} {old}, this run {new}", "compare runs of the same kind")
    return report


def compare_reports(old_file: Path, new: Report, limit_percent: float) -> Comparison:
    """Compare the rows that both runs have a speed for.

    Raises:
        BadDataError: the file is not a report. UsageError: the runs are of different kinds or have nothing in common.
    """
    work = new.workload
    earlier = comparable(old_file, work.dataset, new.scope, work.preset, work.source != "synthetic")
    old = {_key(row): row for row in earlier["rows"] if row.get("status") == OK}
    lines, slower = [], []
    for row in new.rows:
        before = old.get((row.system, row.runner, row.precision, row.threads))
        if before is None:
            continue
        line, is_slower = _compared(before, row, old_file, limit_percent)
        lines += line
        if is_slower and row.is_mmx:
            slower.append(row.key)
    if not lines:
        raise UsageError(f"{old_file} has no contender in common with this run", "run the same systems and threads")
    head = ("contender", "threads", "then", "now", "change", "")
    title = (
        f"Against {old_file}: speed-up over the baseline of each run; slower = by more than {limit_percent:g} % and "
        "outside both intervals\n"
    )
    environment = earlier.get("environment")
    if isinstance(environment, dict) and (cpu := environment.get("cpu")) != new.environment.cpu:
        title += f"Another machine then ({cpu}): a ratio may differ because its CPU does.\n"
    return Comparison(title + text_table(head, lines), tuple(dict.fromkeys(slower)))


def _compared(
    before: dict[str, Any], row: Row, old_file: Path, limit_percent: float
) -> tuple[list[tuple[str, ...]], bool]:
    """The line of one row (none where the two have no ratio in common), and whether it is slower."""
    if row.status != OK:  # not run this time, or not to be had here, says nothing of its speed
        return [(row.key, str(row.threads), "", "", "", row.status)], row.status == PARITY_FAILED
    for name in RATIOS:
        now, then = getattr(row, name), before.get(name)
        if now is None or then is None:
            continue
        median, low, high = _ratio(then, old_file)
        change = 100 * (now.median / median - 1)
        apart = now.high < low or now.low > high
        is_slower = change < -limit_percent and apart
        verdict = "slower" if is_slower else "faster" if change > limit_percent and apart else "same"
        shown = verdict.upper() if is_slower and row.is_mmx else verdict
        return [
            (row.key, str(row.threads), f"{median:.2f}x", f"{now.median:.2f}x", f"{change:+.1f}%", shown)
        ], is_slower
    return [], False


def _is_real(workload: dict[str, Any]) -> bool:
    return workload.get("source") != "synthetic"


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in ("system", "runner", "precision", "threads"))


def _ratio(value: Any, file: Path) -> tuple[float, float, float]:
    given = [value.get(name) for name in ("median", "low", "high")] if isinstance(value, dict) else []
    numbers = [float(number) for number in given if isinstance(number, (int, float)) and number > 0]
    if len(numbers) != 3:
        raise BadDataError(f"{file} holds a damaged ratio", "make the report again")
    return numbers[0], numbers[1], numbers[2]
