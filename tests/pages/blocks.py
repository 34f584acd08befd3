"""The code of the documentation's pages: fenced blocks, and indented ones that hold commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAMS = (
    *("mmx", "pip", "make", "python", "docker", "curl", "ffmpeg", "head"),
    *("uv", "git", "buildah", "openssl", "export", "eval", "uvicorn", "celery"),
)
COMMAND = re.compile(rf"({'|'.join(PROGRAMS)}) ")
FENCE = re.compile(r"^```(\w*)[^\n]*?(?:title=\"([^\"]+)\")?\n(.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """Code as a page has it. ``title``: the file that a reader saves it as, if any."""

    page: str
    language: str
    title: str | None
    code: str

    def commands(self) -> Iterator[str]:
        """The commands of a bash block, one by one; a line that ends in a backslash goes on in the next one.

        What begins with no known program (a loop, a table of files) is left out.
        """
        for line in re.sub(r"\\\n\s*", "", self.code).splitlines():
            if COMMAND.match(line):
                yield line


def blocks(path: Path) -> list[Block]:
    """All bash and Python blocks of a page, in order."""
    text, page = path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()
    found = []
    for match in FENCE.finditer(text):
        language, title, code = match.groups()
        found.append((match.start(), Block(page, language, title, code)))
        text = text[: match.start()] + re.sub(r"[^\n]", "x", match.group()) + text[match.end() :]
    for match in re.finditer(r"(?:^    [^\n]*\n)+", text, re.M):
        lines = [line[4:] for line in match.group().splitlines()]
        if COMMAND.match(lines[0]):
            found.append((match.start(), Block(page, "bash", None, "\n".join(lines) + "\n")))
    return [block for _, block in sorted(found, key=lambda each: each[0]) if block.language in ("bash", "python")]
