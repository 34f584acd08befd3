"""The options with which a command reads a data set of one's own: --columns, --files and --map."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mmx.cli.command import note
from mmx.cli.options import shared
from mmx.runtime.errors import UsageError

if TYPE_CHECKING:
    from mmx.datasets.dataset import DataSet

Command = TypeVar("Command", bound=Callable[..., Any])
SHOWN_ROWS = 5


@dataclass(frozen=True)
class Reading:
    """How the user wants data read; each as given."""

    columns: str | None = None
    files: str | None = None
    mapping: str | None = None

    def labels(self) -> dict[str, str]:
        """--map by label."""
        from mmx.datasets.labels import parse_map

        return parse_map(self.mapping) if self.mapping else {}

    def find(self, what: str | Path, data: Path | None = None, *, mapped: bool = True) -> DataSet:
        """The data set that the user named, with labels mapped unless that is for later.

        Raises:
            UsageError, BadDataError: see ``find_dataset``.
        """
        from mmx.datasets.dataset import find_dataset

        found = find_dataset(what, data, columns=self._columns(), files=self.files)
        return found.mapped(self.labels()) if mapped and self.mapping else found

    def _columns(self) -> dict[str, str]:
        pairs = [part.split("=", 1) for part in (self.columns or "").split(",") if part.strip()]
        if any(len(pair) != 2 or not all(each.strip() for each in pair) for pair in pairs):
            raise UsageError(f"--columns {self.columns} is not a list of columns", "--columns file=clip,label=emotion")
        return {kind.strip(): name.strip() for kind, name in pairs}

    @property
    def again(self) -> str:
        """These options as a command takes them, with a space before; "" for none."""
        given = {"--columns": self.columns, "--files": self.files, "--map": self.mapping}
        return "".join(f" {name} {shlex.quote(value)}" for name, value in given.items() if value)


def reads_data(command: Command) -> Command:
    """Give a command --columns, --files and --map, which it gets as ``reading``."""

    @functools.wraps(command)
    def with_reading(*, columns: str | None, pattern: str | None, mapping: str | None, **rest: Any) -> Any:
        return command(reading=Reading(columns, pattern, mapping), **rest)

    for option in (shared("--map", "mapping"), shared("--files", "pattern"), shared("--columns")):
        with_reading = option(with_reading)
    return with_reading  # type: ignore[return-value]


def say_wrong_rows(data: DataSet) -> None:
    """A sample of the table's rows that were left out."""
    wrong = data.table.wrong if data.table else ()
    for line, why in wrong[:SHOWN_ROWS]:
        note(f"{data.root} line {line} is left out: {why}")
    if len(wrong) > SHOWN_ROWS:
        note(f"and {len(wrong) - SHOWN_ROWS} more")
