"""A report for the terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from mmx.benchmarks.paper import DATASETS
from mmx.benchmarks.reports.tables import Table, tables
from mmx.benchmarks.results import Report
from mmx.view.terminal import text_table


def header(report: Report) -> list[str]:
    """What must be known before the figures, a line each."""
    work = report.workload
    name = work.dataset.upper() if work.dataset in DATASETS else work.dataset
    used = "all" if not report.extrapolated else f"{report.used} of"
    return [
        f"{name} test set, {work.source}: {used} {work.total} utterances, "
        f"{work.media_seconds:.0f} s of media; scope {report.scope}",
        *report.notes,
        *report.environment.lines(),
        f"{report.command}   ({report.created}, {report.seconds / 60:.1f} minutes"
        + (f", peak memory {report.peak_rss_mb / 1024:.1f} GB)" if report.peak_rss_mb else ")"),
    ]


def as_text(report: Report) -> str:
    """The whole report for a terminal."""
    blocks = ["\n".join(header(report))]
    for table in tables(report):
        blocks.append("\n".join([table.title, text_table(table.header, table.rows), *table.notes]))
    return "\n\n".join(blocks)


def as_markdown(report: Report) -> str:
    """The whole report as Markdown."""
    lines = [f"# mmx bench {report.workload.dataset}", ""]
    lines += [f"- {_escaped(line)}" for line in header(report)]
    for table in tables(report):
        lines += ["", f"## {table.title}", "", *_markdown_rows(table), ""]
        lines += [f"{_escaped(note)}  " for note in table.notes]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_rows(table: Table) -> list[str]:
    def row(cells: Sequence[str]) -> str:
        return f"| {' | '.join(_escaped(cell) for cell in cells)} |"

    return [row(table.header), row(["---"] * len(table.header)), *map(row, table.rows)]


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("~", "\\~").replace("<", "&lt;")
