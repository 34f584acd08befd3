"""The one table and the one progress of the command line."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from mmx.view.terminal import Progress, text_table

WORK = """
import time
from mmx.view.terminal import Progress
with Progress() as shown:
    shown.say("reading [red]a.txt")
    for done in range(4):
        shown.update(f"measuring, part {done}", done, 3)
    shown.say("done")
"""


def test_a_table_is_never_wrapped_and_its_cells_are_no_markup() -> None:
    long = "x" * 300
    head, rule, first, second = text_table(("name", "n", "[b]"), [(long, "1", "[bold]"), ("b", "12", "-")]).splitlines()
    assert first == f"{long}   1  [bold]"
    assert second == f"b{' ' * 299}  12  -"
    assert head.split() == ["name", "n", "[b]"] and set(rule) == {"-"}


def test_elsewhere_than_on_a_terminal_progress_is_lines(capsys: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, check=True)
    said = [line.partition("] ")[2] for line in done.stderr.splitlines()]
    assert said == ["reading [red]a.txt", "measuring: 0 of 3", "measuring: 3 of 3", "done"]
    assert not done.stdout
    with Progress(quiet_elsewhere=True) as shown:
        shown.update("measuring", 0, 3)
    assert capsys.readouterr().err == ""


def test_on_a_terminal_a_bar_comes_and_goes_and_the_cursor_is_back() -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    subprocess.run([sys.executable, "-c", WORK], stderr=theirs, env=environment, check=True)
    os.close(theirs)
    seen = b""
    try:
        while part := os.read(ours, 65536):
            seen += part
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    text = seen.decode()
    assert "measuring, part 3" in text and "3/3" in text
    assert text.rstrip().endswith("done")
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
