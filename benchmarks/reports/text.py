"""A report for the terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from mmx.benchmarks.paper import DATASETS, TITLES
from mmx.benchmarks.reports.tables import ON_FEATURES, Table, tables
from mmx.benchmarks.results import Report, best_rows
from mmx.view.terminal import text_table


def headline(report: Report) -> str:
    """The result in a sentence: the largest speed-up over V2EM upstream-style, of ours if that was run."""
    best = [row for row in best_rows(report.main_rows).values() if row.vs_baseline and row.system not in ON_FEATURES]
    if not best:
        return f"{len(report.rows)} contenders ran; none has a speed-up over V2EM upstream-style."
    row = max(best, key=lambda each: (each.system == "ours", each.vs_baseline.median if each.vs_baseline else 0))
    name = TITLES.get(row.system, row.system)
    return (
        f"{name} with mmx in {row.precision.upper()} ({row.runner}): {row.vs_baseline} speed-up over V2EM "
        f"upstream-style, {row.threads} thread(s), on this machine."
    )


def summary(report: Report) -> str:
    """What was run, in a line: the data set, whether it is synthetic, and how much of it."""
    work = report.workload
    name = work.dataset.upper() if work.dataset in DATASETS else work.dataset
    used = "all" if not report.extrapolated else f"{report.used} of"
    return (
        f"{name} test set, {work.source}: {used} {work.total} utterances, "
        f"{work.media_seconds:.0f} s of media; scope {report.scope}"
    )


def facts(report: Report) -> list[str]:
    """What the figures hold for, a line each: notes, the machine, the command."""
    return [
        *report.notes,
        *report.environment.lines(),
        f"{report.command}   ({report.created}, {report.seconds / 60:.1f} minutes"
        + (f", peak memory {report.peak_rss_mb / 1024:.1f} GB)" if report.peak_rss_mb else ")"),
    ]


HOW = "What the figures hold for"


def as_text(report: Report) -> str:
    """The whole report for a terminal."""
    blocks = [f"{headline(report)}\n{summary(report)}"]
    for table in tables(report):
        blocks.append("\n".join([table.title, text_table(table.header, table.rows), *table.notes]))
    return "\n\n".join([*blocks, "\n".join([HOW, *facts(report)])])


def as_markdown(report: Report) -> str:
    """The whole report as Markdown."""
    lines = [f"# mmx bench {report.workload.dataset}", ""]
    lines += [f"**{_escaped(headline(report))}**", "", _escaped(summary(report))]
    for table in tables(report):
        lines += ["", f"## {table.title}", "", *_markdown_rows(table), ""]
        lines += [f"{_escaped(note)}  " for note in table.notes]
    lines += ["", f"## {HOW}", "", *(f"- {_escaped(line)}" for line in facts(report))]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_rows(table: Table) -> list[str]:
    def row(cells: Sequence[str]) -> str:
        return f"| {' | '.join(_escaped(cell) for cell in cells)} |"

    return [row(table.header), row(["---"] * len(table.header)), *map(row, table.rows)]


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("~", "\\~").replace("<", "&lt;")
