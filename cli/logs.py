"""What the command line shows of mmx's own logging, on stderr."""

from __future__ import annotations

import logging
from collections.abc import Callable

import click

LEVELS = ("debug", "info", "warning", "error")
LOGGER = logging.getLogger("mmx")
PREFIXES = {logging.WARNING: "note: ", logging.ERROR: "error: "}


class ToStderr(logging.Handler):
    """One line for each record; with debugging, also its time and the module that wrote it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record."""
        try:
            line = f"mmx: {PREFIXES.get(record.levelno, '')}{record.getMessage()}"
            if LOGGER.isEnabledFor(logging.DEBUG):
                time = logging.Formatter().formatTime(record)
                line = f"{time} {record.levelname.lower():7} {record.name}: {record.getMessage()}"
            if record.exc_info:
                line += "\n" + logging.Formatter().formatException(record.exc_info)
            click.echo(line, err=True)
        except Exception:
            self.handleError(record)


def show(level: int) -> Callable[[], None]:
    """Print what mmx logs from ``level`` up; the function that is returned ends it."""
    handler, before = ToStderr(), LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(level)

    def end() -> None:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(before)

    return end


def level_of(*, quiet: bool, verbose: bool, named: str | None) -> int:
    """The lowest level that is shown: --log-level if it is given; else errors, notes, or with -v what is being done."""
    if named:
        return logging.getLevelNamesMapping()[named.upper()]
    return logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING
