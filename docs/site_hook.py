"""What the documentation site takes from outside docs/: the README as its first page, the project's pages, results.

Links stay as they are on a repository page (``../studies/results/x.md``, ``docs/predict.md``); here they become the
site's own.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"index.md": "README.md"} | {name: name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")}
LINK = re.compile(r"\]\(([^)#\s:]+)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of ``PAGES``, and every file of the repository that a page of docs/ links to."""
    for page, source in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    docs = [ROOT / "docs" / file.src_uri for file in files.documentation_pages() if file.src_uri not in PAGES]
    sources = [*docs, *(ROOT / name for name in PAGES.values())]
    linked = {(page.parent / link).resolve() for page in sources for link in LINK.findall(page.read_text("utf-8"))}
    for path in sorted(linked - set(sources)):
        if path.is_file() and path.is_relative_to(ROOT):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    files.append(File.generated(config, "options.md", content=_options()))
    return files


def _options() -> str:
    """A page with the help of every command, as the installed mmx prints it."""
    from click.testing import CliRunner

    from mmx.cli.main import ENTRIES, mmx

    parts = []
    for name in ENTRIES:
        text = CliRunner().invoke(mmx, [name, "--help"], terminal_width=110).output
        parts.append(f"## mmx {name}\n\n```text\n{text}```\n")
    return "# Every option\n\n" + "\n".join(parts)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links of the repository into links of the site."""
    if page.file.src_uri in PAGES:
        return re.sub(r"\]\(docs/", "](", markdown)
    return markdown.replace("](../", "](") if "/" not in page.file.src_uri else markdown
