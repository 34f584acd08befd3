"""Charts by matplotlib: bars, dots in rows, lines; and a figure as inline SVG in the colours of the page."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

WIDTH_IN, ROW_IN, LINES_IN, AROUND_IN = 11.0, 0.28, 3.4, 1.1
PANELS = 4  # in a row
SERIES = ("#8a94a6", "#d9822b", "#1f6feb", "#2a9d70", "#a855c7")
INK, SOFT, RULE = "#1d2430", "#667085", "#e4e7ec"
VARIABLES = {INK: "--ink", SOFT: "--soft", RULE: "--rule"} | {colour: f"--c{i}" for i, colour in enumerate(SERIES)}
STYLE: Any = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "mmx",  # the same figures give the same file
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": RULE,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "ytick.labelcolor": INK,
    "grid.color": RULE,
}


@dataclass(frozen=True)
class Bar:
    """A labelled group of bars: a value for each series (None: there is none) and what stands beside it."""

    label: str
    values: tuple[float | None, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Strip:
    """A row of single values, with the median and the 90th percentile marked."""

    label: str
    values: tuple[float, ...]
    median: float
    p90: float
    series: int


@dataclass(frozen=True)
class Line:
    """A series of points, joined in order."""

    label: str
    points: tuple[tuple[float, float], ...]
    series: int


def bars(groups: Sequence[Bar], series: Sequence[str], axis: str) -> Figure:
    """Horizontal bars from zero, grouped by label, on a linear axis."""
    thick = 0.8 / len(series)
    figure, axes = _rows([group.label for group in groups], axis, ROW_IN * (len(series) + 0.5))
    for j, name in enumerate(series):
        shown = [(i, group) for i, group in enumerate(groups) if group.values[j] is not None]
        at = [i + (j - (len(series) - 1) / 2) * thick for i, _ in shown]
        made = axes.barh(at, [group.values[j] or 0.0 for _, group in shown], thick * 0.9, color=SERIES[j], label=name)
        axes.bar_label(made, [group.texts[j] for _, group in shown], padding=4, color=SOFT)
    axes.margins(x=0.15)
    axes.set_xlim(left=0)
    _legend(axes)
    return figure


def stacked(groups: Sequence[Bar], series: Sequence[str], axis: str) -> Figure:
    """One horizontal bar for each label, its values stacked; a value's text stands in its part where that is wide."""
    figure, axes = _rows([group.label for group in groups], axis, ROW_IN * 1.5)
    highest = max(sum(value or 0 for value in group.values) for group in groups)
    reached = [0.0] * len(groups)
    for j, name in enumerate(series):
        values = [group.values[j] or 0.0 for group in groups]
        made = axes.barh(range(len(groups)), values, 0.6, left=reached, color=SERIES[j % len(SERIES)], label=name)
        texts = [group.texts[j] if value > 0.07 * highest else "" for group, value in zip(groups, values, strict=True)]
        axes.bar_label(made, texts, label_type="center", color="white", fontweight="bold")
        reached = [before + value for before, value in zip(reached, values, strict=True)]
    _legend(axes)
    return figure


def strips(rows: Sequence[Strip], series: Sequence[str], axis: str) -> Figure:
    """Every value as a dot on a logarithmic axis, the median as a tick, a band from it to the 90th percentile."""
    figure, axes = _rows([row.label for row in rows], axis, ROW_IN)
    axes.set_xscale("log")
    _round_numbers(axes.xaxis)
    for i, row in enumerate(rows):
        axes.plot([row.median, row.p90], [i, i], color=SERIES[row.series], linewidth=5, alpha=0.45)
        axes.plot(row.values, [i] * len(row.values), "o", color=SERIES[row.series], markersize=4, alpha=0.5)
        axes.plot([row.median] * 2, [i - 0.3, i + 0.3], color=INK, linewidth=1.5)
        axes.text(1.01, i, f"{row.median:.0f}", transform=axes.get_yaxis_transform(), va="center", color=SOFT)
    for i, name in enumerate(series):
        axes.plot([], [], "o", color=SERIES[i], label=name)
    _legend(axes)
    return figure


def lines(series: Sequence[Line], x_axis: str, y_axis: str, *, log_x: bool = False, log_y: bool = False) -> Figure:
    """Lines with a dot at each point."""
    figure, axes = _axes(LINES_IN + AROUND_IN)
    for line in series:
        x, y = zip(*line.points, strict=True)
        axes.plot(x, y, "o-", color=SERIES[line.series % len(SERIES)], markersize=4, label=line.label)
    if log_x:
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({x for line in series for x, _ in line.points}))
        axes.xaxis.set_major_formatter(ScalarFormatter())
    if log_y:
        axes.set_yscale("log")
        _round_numbers(axes.yaxis)
    else:
        axes.set_ylim(bottom=0)
    axes.set(xlabel=x_axis, ylabel=y_axis)
    axes.grid(axis="y")
    _legend(axes)
    return figure


def panels(series: Sequence[Sequence[Line]], titles: Sequence[str], x_axes: Sequence[str], y_axis: str) -> Figure:
    """Charts of lines side by side, four in a row, with one vertical axis from 0 to 1."""
    rows = -(-len(series) // PANELS)
    columns = min(len(series), PANELS)
    with matplotlib.rc_context(STYLE):
        size = (WIDTH_IN * max(columns, 2) / PANELS, LINES_IN * rows)
        figure = Figure(figsize=size, layout="constrained", facecolor="white")
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(series):
            axes.set_visible(False)
            continue
        for line in series[place]:
            x, y = zip(*line.points, strict=True)
            axes.plot(x, y, "o-", color=SERIES[line.series % len(SERIES)], markersize=3, label=line.label)
        axes.set(title=titles[place], xlabel=x_axes[place], ylim=(0, 1))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y")
    grid[0, 0].set_ylabel(y_axis)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, labelcolor=SOFT)
    return figure


def inline_svg(figure: Figure, name: str) -> str:
    """The figure as an ``<svg>`` element that needs nothing else and follows the page's colours.

    Args:
        name: what the chart is called for those who cannot see it; also keeps its ids apart from other charts'.
    """
    out = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    key = re.sub(r"\W+", "-", name)
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{key}-", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{name}" ', 1).strip()


def _axes(height: float) -> tuple[Figure, Axes]:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, height), layout="constrained", facecolor="none")
        axes = figure.add_subplot(facecolor="none")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
    axes.set_axisbelow(True)
    return figure, axes


def _rows(labels: Sequence[str], axis: str, row: float) -> tuple[Figure, Axes]:
    """Axes with a labelled row for each label, the first on top."""
    figure, axes = _axes(AROUND_IN + row * len(labels))
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlabel(axis)
    axes.grid(axis="x")
    return figure, axes


def _round_numbers(axis: Axis) -> None:
    """Ticks at 1, 2 and 5 times powers of ten, as plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(ScalarFormatter())
    axis.set_minor_locator(NullLocator())


def _legend(axes: Axes) -> None:
    columns = len(axes.get_legend_handles_labels()[0])
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False, borderaxespad=0, labelcolor=SOFT)
