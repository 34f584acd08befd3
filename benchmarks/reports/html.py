"""A report as one HTML file that needs nothing else: tables, and charts as inline SVG."""

from __future__ import annotations

from html import escape

from matplotlib.figure import Figure

from mmx.benchmarks.paper import ABLATION, COMPARISON, TITLES, published
from mmx.benchmarks.reports.charts import Bar, Line, Strip, bars, inline_svg, lines, stacked, strips
from mmx.benchmarks.reports.tables import ON_FEATURES, Table, seconds, tables
from mmx.benchmarks.reports.text import HOW, facts, headline, summary
from mmx.benchmarks.results import EAGER, PEERS, Report, Row

STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --paper: #ffffff; --soft: #667085; --rule: #e4e7ec; --card: #f8f9fb;
  --c0: #8a94a6; --c1: #d9822b; --c2: #1f6feb; --c3: #2a9d70; --c4: #a855c7; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --paper: #12161c; --soft: #98a2b3; --rule: #2a313c;
  --card: #181d25; --c0: #8a94a6; --c1: #e89a4c; --c2: #5b9bff; --c3: #4cc493; --c4: #c58be0; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1280px;
  margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.6rem; } p.headline { font-size: 1.25rem; font-weight: 600; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
ul.facts { color: var(--soft); padding-left: 1.1rem; overflow-wrap: anywhere; }
.note { color: var(--soft); font-size: .88rem; margin: .3rem 0; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .88rem; }
th, td { padding: .32rem .7rem; text-align: left; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; white-space: normal; }
figure { margin: 0; background: var(--card); border-radius: 8px; padding: 1rem; overflow-x: auto; }
figcaption { color: var(--soft); font-size: .88rem; margin-top: .4rem; }
svg { width: 100%; min-width: 640px; height: auto; }
@media (max-width: 600px) { body { margin: 1rem auto; padding: 0 .7rem; } h1 { font-size: 1.25rem; }
  p.headline { font-size: 1.05rem; } figure { padding: .4rem; } th, td { padding: .3rem .45rem; } }
svg text { font-family: system-ui, sans-serif !important; }
"""


def as_html(report: Report) -> str:
    """The page."""
    name = f"mmx bench {report.workload.dataset}"
    body = [f"<h1>{escape(name)}</h1>", f'<p class="headline">{escape(headline(report))}</p>']
    body += [f'<p class="note">{escape(summary(report))}</p>']
    found = tables(report)
    body += [_table(found[0]), *charts(report), *(_table(table) for table in found[1:])]
    listed = "\n".join(f"<li>{escape(line)}</li>" for line in facts(report))
    body += [f'<h2>{escape(HOW)}</h2>\n<ul class="facts">{listed}</ul>']
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(name)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n" + "\n".join(body) + "\n</body>\n</html>\n"
    )


def charts(report: Report) -> list[str]:
    """Every chart that the report has figures for."""
    made = [_speed(report), _latencies(report), _by_duration(report), _stages(report), _by_batch(report)]
    return [chart for chart in made if chart]


def _speed(report: Report) -> str:
    dataset = report.workload.dataset
    base = published(dataset, "v2em")
    groups = []
    for name in dict.fromkeys((*COMPARISON, *ABLATION)):
        if name in ON_FEATURES:
            continue
        theirs = published(dataset, name)
        paper = theirs.seconds if theirs else None
        eager, best = report.row(f"{name}/{EAGER}/fp32"), report.best(name)
        values = (base.seconds / paper if base and base.seconds and paper else None, _ratio(eager), _ratio(best))
        if values[1] or values[2]:
            texts = (
                f"{values[0]:.2f}x ({paper:.0f} s)" if values[0] and paper else "",
                f"{values[1]:.2f}x ({seconds(eager.set_seconds)} s)" if values[1] and eager else "",
                f"{values[2]:.1f}x ({seconds(best.set_seconds)} s)" if values[2] and best else "",
            )
            groups.append(Bar(TITLES[name], values, texts))
    if not groups:
        return ""
    series = ("paper, RTX 4090", "here, upstream-style", "here, mmx")
    chart = bars(groups, series, "times faster than V2EM upstream-style on the same machine")
    return _figure(
        "Speed against the paper's" if base else "Speed", chart, "In brackets: seconds for the whole test set."
    )


def _ratio(row: Row | None) -> float | None:
    return row.vs_baseline.median if row and row.vs_baseline else None


def _latencies(report: Report) -> str:
    rows = [row for row in report.main_rows if row.points and row.latency and row.system not in ON_FEATURES]
    if not rows:
        return ""
    strip = [
        Strip(
            f"{row.system} · {row.runner} {row.precision}",
            tuple(ms for _, ms in row.points),
            row.latency.p50,
            row.latency.p90,
            1 if row.runner == EAGER else 0 if row.runner in PEERS else 2,
        )
        for row in rows
        if row.latency
    ]
    chart = strips(strip, ("other peers", "upstream-style", "mmx"), "milliseconds for one sample")
    text = (
        "One dot a sample; the tick is the median (its figure on the right), the band reaches to the 90th percentile."
    )
    return _figure("Latency", chart, text)


def _by_duration(report: Report) -> str:
    chosen = [row for name in ("v2em", "ours") for row in (report.row(f"{name}/{EAGER}/fp32"), report.best(name))]
    series = [
        Line(f"{row.system} {row.runner} {row.precision}", tuple(sorted(row.points)), colour)
        for colour, row in enumerate(chosen, start=1)
        if row is not None and row.points
    ]
    if not series:
        return ""
    chart = lines(series, "seconds of speech", "milliseconds", log_y=True)
    return _figure("Scaling with duration", chart, "One sample at a time.")


def _stages(report: Report) -> str:
    if not report.stages:
        return ""
    parts = list(dict.fromkeys(part for stages in report.stages.values() for part in stages))
    groups = [
        Bar(
            key,
            tuple(stages.get(part, 0.0) for part in parts),
            tuple(f"{stages.get(part, 0):.0f} ms" for part in parts),
        )
        for key, stages in report.stages.items()
    ]
    chart = stacked(groups, parts, "milliseconds, an utterance of average length")
    counted = "Mean of all runs." if report.scope == "pipeline" else "As the engine's own profiler counts it."
    return _figure("Where the time goes", chart, counted)


def _by_batch(report: Report) -> str:
    series = [
        Line(key, tuple((float(size), rate) for size, rate in sorted(off.samples_per_second.items())), colour)
        for colour, (key, off) in enumerate(report.offline.items(), start=1)
        if len(off.samples_per_second) > 1
    ]
    if not series or report.scope == "pipeline":
        return ""
    return _figure(
        "Scaling with batch", lines(series, "samples in a batch", "samples a second", log_x=True), "Offline."
    )


def _figure(title: str, chart: Figure, caption: str) -> str:
    svg = inline_svg(chart, title)
    return f"<h2>{escape(title)}</h2>\n<figure>\n{svg}\n<figcaption>{escape(caption)}</figcaption>\n</figure>"


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.header)
    rows = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    notes = "\n".join(f'<p class="note">{escape(note)}</p>' for note in table.notes)
    return (
        f'<h2>{escape(table.title)}</h2>\n<div class="wide"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>\n{notes}"
    )
