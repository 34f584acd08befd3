"""Live answers at a terminal, by rich: the newest in bars, those before it in a strip, and how well it keeps up."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live as Screen
from rich.table import Table
from rich.text import Text

from mmx.runtime.live.session import LivePrediction

BAR, STRIP = 24, 48  # columns
SHADES = " ▁▂▃▄▅▆▇█"
COLOURS = ("red", "yellow", "magenta", "green", "white", "blue", "cyan", "bright_black")


class LiveView:
    """The newest answer, drawn over the one before it; where stdout is no terminal, a line for each.

    Args:
        labels: of the bundle. title: what stands above.
    """

    def __init__(self, labels: Sequence[str], title: str, console: Console | None = None) -> None:
        self._labels, self._title = tuple(labels), title
        self._console = console or Console(highlight=False)
        self._past: dict[tuple[int | None, str], deque[float]] = defaultdict(lambda: deque(maxlen=STRIP))
        self._window: list[LivePrediction] = []  # the newest: one, or one for each person
        self._screen: Screen | None = None
        if self._console.is_terminal:
            self._screen = Screen(console=self._console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        if self._screen:
            self._screen.start()
            self._screen.update(Text(f"{self._title}: waiting for the first window"), refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._screen:
            self._screen.stop()

    def show(self, each: LivePrediction) -> None:
        """Draw an answer."""
        if not self._screen:
            self._console.print(line(each), markup=False, soft_wrap=True)
            return
        prediction = each.prediction
        if self._window and self._window[-1].prediction.end != prediction.end:
            self._window.clear()
        self._window.append(each)
        for label in self._labels:
            self._past[prediction.person, label].append(prediction.probabilities.get(label, 0.0))
        head = Text(f"{self._title}  {prediction.start:.1f}-{prediction.end:.1f} s", style="bold")
        people = [part for one in self._window for part in self._drawn(one)]
        self._screen.update(Group(head, *people, Text(_pace(each), style="dim")), refresh=True)

    def _drawn(self, each: LivePrediction) -> list[RenderableType]:
        prediction = each.prediction
        bars = Table.grid(padding=(0, 1))
        for number, label in enumerate(self._labels):
            value = prediction.probabilities.get(label, 0.0)
            style, colour = "bold" if label in prediction.labels else "", COLOURS[number % len(COLOURS)]
            full, past = round(BAR * value), self._past[prediction.person, label]
            bars.add_row(
                Text(label, style=style),
                Text("█" * full + "·" * (BAR - full), style=colour),
                Text(f"{value:4.0%}{'*' if style else ' '}", style=style),
                Text("".join(SHADES[round((len(SHADES) - 1) * each)] for each in past), style=colour),
            )
        who = [Text(f"person {prediction.person}", style="bold")] if prediction.person else []
        return [*who, bars, Text(_said(each))]


def line(each: LivePrediction) -> str:
    """An answer on one line."""
    prediction = each.prediction
    ranked = sorted(prediction.probabilities.items(), key=lambda one: -one[1])
    shown = ", ".join(f"{label} {value:.2f}{'*' * (label in prediction.labels)}" for label, value in ranked)
    pace = _pace(each)
    behind = f"  ({pace})" if pace else ""
    who = f"person {prediction.person}: " if prediction.person else ""
    return f"{prediction.start:8.2f}-{prediction.end:.2f} s  {who}{shown or _said(each)}{behind}"


def _said(each: LivePrediction) -> str:
    prediction = each.prediction
    if prediction.uncertain:
        return f"uncertain: {prediction.uncertain}"
    if not prediction.modalities:
        return "nothing to predict from: " + "; ".join(prediction.left_out.values())
    return f"emotions: {', '.join(prediction.labels) or 'none over its threshold'}"


def _pace(each: LivePrediction) -> str:
    parts = [] if each.lag_s is None else [f"{each.lag_s:.2f} s behind"]
    counts = {"frames dropped": each.dropped, "windows skipped": each.skipped, "times lost": each.reconnects}
    return ", ".join(parts + [f"{count} {what}" for what, count in counts.items() if count])
