"""The documentation's commands and Python code, run as they are written, in a folder with the files they speak of."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from blocks import PAGES, ROOT, Block, blocks
from not_run import ELSEWHERE, NOT_RUN, reason
from shell import Shell

from mmx.cli.main import ENTRIES, mmx

JOBS = sorted(page for page in PAGES if page.parent.name == "jobs" and page.name != "index.md")
COMMANDS = [
    (block.page, command)
    for page in PAGES
    for block in blocks(page)
    if block.language == "bash"
    for command in block.commands()
]
RUN = {page for page, command in COMMANDS if not page.startswith("docs/jobs/") and reason(command) is None}
READ = [ROOT / page for page in sorted(RUN - set(ELSEWHERE))]


def read(page: Path, desk: Callable[[str], Shell]) -> None:
    """Do what a reader of the page does, from its beginning to its end."""
    shell, before = desk(page.name), ""
    for block in blocks(page):
        if block.language == "bash":
            for command in block.commands():
                if reason(command) is None:
                    shell.run(command)
        elif block.title:
            (shell.folder / block.title).write_text(block.code, encoding="utf-8")
        else:
            before += block.code
            shell.python(before)


@pytest.mark.slow
@pytest.mark.parametrize("page", JOBS, ids=lambda page: page.stem)
def test_a_job_is_done_by_following_its_page(page: Path, desk: Callable[[str], Shell]) -> None:
    read(page, desk)


@pytest.mark.slow
@pytest.mark.parametrize("page", READ, ids=lambda page: page.stem)
def test_a_pages_commands_run_as_they_are_written(page: Path, desk: Callable[[str], Shell]) -> None:
    shell = desk(page.name)
    for block in blocks(page):
        if block.language == "bash":
            for command in block.commands():
                if reason(command) is None:
                    shell.run(command.partition("  #")[0])


def test_no_command_of_a_job_goes_unnoticed() -> None:
    for page in JOBS:
        for block in blocks(page):
            if block.language == "bash":
                assert len(list(block.commands())) == len(block.code.replace("\\\n", "").splitlines()), block.code


def test_the_list_of_jobs_is_complete() -> None:
    listed = re.findall(r"\]\(([\w./]+\.md)\)", (ROOT / "docs" / "jobs" / "index.md").read_text("utf-8"))
    assert set(listed) == {page.name for page in JOBS} | {"../iemocap.md"} and len(listed) == 10


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=lambda each: each[:60])
def test_every_option_in_the_documentation_exists(page: str, command: str) -> None:
    """Also of those that are not run, and in a synopsis: all that looks like an option, against the command's own."""
    for part in re.split(r"\s(?:&&|\|\||\|)\s", command.partition("  #")[0]):
        words = part.replace("[", " ").replace("]", " ").replace("|", " ").split()
        if len(words) < 2 or words[0] != "mmx" or words[1].startswith("-"):
            continue
        assert words[1] in ENTRIES, f"{page}: {command}"
        with click.Context(mmx, info_name="mmx") as context:
            found = mmx.get_command(context, words[1])
        assert found is not None
        known = {name for parameter in found.params for name in (*parameter.opts, *parameter.secondary_opts)}
        known |= {"--help"}
        options = {word.partition("=")[0].rstrip("`,.;") for word in words if word.startswith("--")}
        assert options <= known, f"{page}: {command} has {options - known}"


def test_what_is_not_run_is_still_in_the_documentation() -> None:
    for pattern in NOT_RUN:
        assert any(re.match(pattern, command) for _, command in COMMANDS), f"no page has {pattern}"
    assert set(ELSEWHERE) <= {page for page, _ in COMMANDS}


def test_commands_are_taken_from_pages_as_they_stand() -> None:
    found = blocks(ROOT / "docs" / "jobs" / "rtx.md")
    assert [block.language for block in found] == ["bash"] * 4
    assert list(found[0].commands()) == ["pip install 'mmx[tensorrt-rtx]'", "mmx build-engine --fp16"]
    block = Block("x.md", "bash", None, "mmx predict a \\\n    b\n# a remark\nmmx doctor\n")
    assert list(block.commands()) == ["mmx predict a b", "mmx doctor"]
    assert shlex.split(next(block.commands())) == ["mmx", "predict", "a", "b"]
