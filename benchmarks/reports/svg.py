"""Charts as inline SVG: bars, dots in rows, lines. Numbers in, a string out; colours come from the page's style sheet.

A series has the class ``c0``, ``c1``...; text and axes take the page's own colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 1080
RIGHT, TOP, BOTTOM = 70, 34, 44
ROW = 26
LINE_HEIGHT = 320
CHARACTER = 7.0  # pixels, roughly, of a character


@dataclass(frozen=True)
class Scale:
    """Values from ``low`` to ``high`` on the pixels from ``start`` to ``end``, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values inside the scale: 1, 2, 5 times powers of ten."""
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            steps = (1, 2, 5) if self.high / self.low < 3000 else (1,)
            values = [step * 10.0**power for power in range(first, last + 1) for step in steps]
        else:
            raw = (self.high - self.low) / 6
            power = 10.0 ** math.floor(math.log10(raw))
            step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw)
            values = [i * step for i in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        return [v for v in values if self.low * (1 - 1e-9) <= v <= self.high * (1 + 1e-9)]


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


def bars(groups: Sequence[Bar], series: Sequence[str], axis: str) -> str:
    """Horizontal bars from zero, grouped by label, on a linear axis."""
    thick = 15
    pitch = len(series) * thick + 14
    height = TOP + BOTTOM + pitch * len(groups)
    highest = max((v for group in groups for v in group.values if v is not None), default=1.0)
    left = _beside([group.label for group in groups])
    x = Scale(0, highest * 1.05, left, WIDTH - RIGHT - 40)
    parts = [_legend(left, series), _x_axis(x, height, axis)]
    for i, group in enumerate(groups):
        top = TOP + i * pitch + 7
        parts.append(_text(left - 10, top + (pitch - 14) / 2 + 4, group.label, "end"))
        for j, (value, text) in enumerate(zip(group.values, group.texts, strict=True)):
            y = top + j * thick
            if value is None:
                continue
            parts.append(
                f'<rect class="c{j}" x="{left}" y="{y:.1f}" width="{x(value) - left:.1f}" height="{thick - 3}" rx="2"/>'
            )
            parts.append(_text(x(value) + 6, y + thick - 5, text, "start", "value"))
    return _svg(parts, height, axis)


def stacked(groups: Sequence[Bar], series: Sequence[str], axis: str) -> str:
    """One horizontal bar for each label, its values stacked."""
    pitch = 40
    height = TOP + BOTTOM + pitch * len(groups)
    highest = max(sum(v or 0 for v in group.values) for group in groups)
    start = _beside([group.label for group in groups])
    x = Scale(0, highest * 1.02, start, WIDTH - RIGHT)
    parts = [_legend(start, series), _x_axis(x, height, axis)]
    for i, group in enumerate(groups):
        y = TOP + i * pitch + 8
        parts.append(_text(start - 10, y + 17, group.label, "end"))
        reached = 0.0
        for j, (value, text) in enumerate(zip(group.values, group.texts, strict=True)):
            if not value:
                continue
            left, right = x(reached), x(reached + value)
            parts.append(f'<rect class="c{j}" x="{left:.1f}" y="{y}" width="{right - left:.1f}" height="24"/>')
            if right - left > CHARACTER * len(text) + 6:
                parts.append(_text((left + right) / 2, y + 16, text, "middle", "inside"))
            reached += value
    return _svg(parts, height, axis)


def strips(rows: Sequence[Strip], series: Sequence[str], axis: str) -> str:
    """Every value as a dot on a logarithmic axis, the median as a tick, a bar from it to the 90th percentile."""
    height = TOP + BOTTOM + ROW * len(rows)
    values = [v for row in rows for v in row.values]
    left = _beside([row.label for row in rows])
    x = Scale(min(values) * 0.85, max(values) * 1.15, left, WIDTH - RIGHT, log=True)
    parts = [_legend(left, series), _x_axis(x, height, axis)]
    for i, row in enumerate(rows):
        y = TOP + i * ROW + ROW / 2
        parts.append(_text(left - 10, y + 4, row.label, "end"))
        parts += [f'<circle class="c{row.series} dot" cx="{x(v):.1f}" cy="{y}" r="3.4"/>' for v in row.values]
        middle, far = x(row.median), x(row.p90)
        parts.append(f'<line class="l{row.series} thick" x1="{middle:.1f}" x2="{far:.1f}" y1="{y}" y2="{y}"/>')
        parts.append(f'<line class="tick" x1="{middle:.1f}" x2="{middle:.1f}" y1="{y - 8}" y2="{y + 8}"/>')
        parts.append(_text(WIDTH - RIGHT + 8, y + 4, f"{row.median:.0f}", "start", "value"))
    return _svg(parts, height, axis)


def lines(series: Sequence[Line], x_axis: str, y_axis: str, *, log_x: bool = False, log_y: bool = False) -> str:
    """Lines with a dot at each point."""
    height = TOP + LINE_HEIGHT + BOTTOM
    xs = [x for line in series for x, _ in line.points]
    ys = [y for line in series for _, y in line.points]
    left = 76
    x = Scale(min(xs) * 0.9 if log_x else 0, max(xs) * 1.1 if log_x else max(xs) * 1.03, left, WIDTH - 30, log_x)
    y = Scale(min(ys) * 0.8 if log_y else 0, max(ys) * (1.25 if log_y else 1.08), TOP + LINE_HEIGHT, TOP, log_y)
    ticks = sorted(set(xs)) if log_x else x.ticks()
    parts = [_legend(left, [line.label for line in series], [line.series for line in series])]
    for value in y.ticks():
        at = y(value)
        parts.append(f'<line class="grid" x1="{left}" x2="{WIDTH - 30}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(_text(left - 8, at + 4, _number(value), "end", "axis"))
    parts += [_text(x(value), TOP + LINE_HEIGHT + 18, _number(value), "middle", "axis") for value in ticks]
    parts.append(_text((left + WIDTH - 30) / 2, height - 6, x_axis, "middle", "axis"))
    turned = f"translate(16 {TOP + LINE_HEIGHT / 2}) rotate(-90)"
    parts.append(f'<text class="axis" text-anchor="middle" transform="{turned}">{escape(y_axis)}</text>')
    for line in series:
        i = line.series
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in line.points)
        parts.append(f'<polyline class="l{i}" points="{path}"/>')
        parts += [f'<circle class="c{i}" cx="{x(a):.1f}" cy="{y(b):.1f}" r="3"/>' for a, b in line.points]
    return _svg(parts, height, y_axis)


def _svg(parts: Sequence[str], height: float, name: str) -> str:
    body = "\n".join(parts)
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(name)}">\n{body}\n</svg>'


def _text(x: float, y: float, text: str, anchor: str, kind: str = "label") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _beside(labels: Sequence[str]) -> float:
    """Where the axis begins, labels standing to its left."""
    return 20 + CHARACTER * max(map(len, labels))


def _legend(left: float, names: Sequence[str], series: Sequence[int] | None = None) -> str:
    parts, x = [], left
    for i, name in zip(series or range(len(names)), names, strict=True):
        parts.append(f'<rect class="c{i}" x="{x:.0f}" y="8" width="12" height="12" rx="2"/>')
        parts.append(_text(x + 17, 18, name, "start", "axis"))
        x += 34 + CHARACTER * len(name)
    return "\n".join(parts)


def _x_axis(x: Scale, height: float, name: str) -> str:
    bottom = height - BOTTOM
    parts = []
    for value in x.ticks():
        at = x(value)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(_text(at, bottom + 16, _number(value), "middle", "axis"))
    parts.append(_text((x.start + x.end) / 2, height - 6, name, "middle", "axis"))
    return "\n".join(parts)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:g}"
