"""Tables and progress for people at a terminal, by rich: one way to show each, for every command."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Sequence

from rich.box import Box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from mmx.runtime.closing import Closing

LINE_EVERY_S = 15.0  # where stderr is no terminal
REDRAWN_S = 0.1
_RULE_BELOW_THE_HEAD = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, never wrapped: the first to the left, columns of numbers to the right."""
    table = Table(box=_RULE_BELOW_THE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for i, name in enumerate(header):
        numeric = i > 0 and all(_is_number(row[i]) for row in rows)
        table.add_column(Text(name), justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    out = io.StringIO()
    console = Console(file=out, width=10_000, color_system=None, force_terminal=False)
    console.print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


class Progress(Closing):
    """What is being done, on stderr: a bar on a terminal; elsewhere a line when something begins, ends, or goes on."""

    def __init__(self, *, quiet_elsewhere: bool = False) -> None:
        """``quiet_elsewhere``: print nothing where stderr is no terminal (but ``say`` does).

        Nothing is ever printed where mmx logs errors alone (``mmx --quiet``).
        """
        quiet = not logging.getLogger("mmx").isEnabledFor(logging.WARNING)
        self._console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=quiet)
        self._live = self._console.is_terminal
        self._quiet = quiet_elsewhere
        columns = (TextColumn("  {task.description}", markup=False), BarColumn(20), MofNCompleteColumn())
        # Nothing is drawn between updates: a thread that does would take time from what is being measured.
        self._bars = Bars(*columns, TimeElapsedColumn(), console=self._console, transient=True, auto_refresh=False)
        self._task: TaskID | None = None
        self._kind = ""
        self._began = self._last = time.monotonic()

    def say(self, message: str) -> None:
        """Print a line that stays, with the seconds since the start."""
        self.close()
        self._console.print(f"[{time.monotonic() - self._began:4.0f} s] {message}", markup=False)

    def update(self, what: str, done: int, total: int) -> None:
        """Show how far it is; what follows a comma in ``what`` may change while the same thing goes on."""
        kind = what.partition(",")[0]
        now = time.monotonic()
        begins, ends = kind != self._kind or done == 0, done >= total
        if self._live:
            self._draw(what, done, total, begins or ends or now - self._last > REDRAWN_S)
        elif not self._quiet and (begins or ends or now - self._last > LINE_EVERY_S):
            self._last = now
            self._console.print(f"[{now - self._began:4.0f} s] {kind}: {done} of {total}", markup=False)
        self._kind = kind
        if ends:
            self.close()

    def share(self, what: str, part: float) -> None:
        """Show how far it is, as a part of 1."""
        self.update(what, round(100 * min(part, 1.0)), 100)

    def close(self) -> None:
        """Take the bar away."""
        if self._task is not None:
            self._bars.stop()
            self._bars.remove_task(self._task)
            self._task = None

    def _draw(self, what: str, done: int, total: int, now: bool) -> None:
        if self._task is None:
            self._task = self._bars.add_task(what)
            self._bars.start()
        self._bars.update(self._task, description=what, completed=done, total=total)
        if now:
            self._last = time.monotonic()
            self._bars.refresh()


def _is_number(cell: str) -> bool:
    return not cell.strip("-") or cell[0].isdigit()
