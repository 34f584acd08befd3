"""What the documentation site takes from outside docs/: the README as its first page, the project's pages, results.

Links stay as they are on a repository page (``../benchmarks/results/x.md``, ``docs/predict.md``); here they become the
site's own.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"index.md": "README.md"} | {name: name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")}
LINKED = re.compile(r"\]\(\.\./([^)#\s]+)")  # from docs/ to a file elsewhere in the repository


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of ``PAGES``, and every file of the repository that a page of docs/ links to."""
    for page, source in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    texts = [(ROOT / "docs" / file.src_uri) for file in files.documentation_pages() if file.src_uri not in PAGES]
    linked = {name for path in texts for name in LINKED.findall(path.read_text(encoding="utf-8"))}
    for name in sorted(linked - set(PAGES.values())):
        if (ROOT / name).is_file():
            files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links of the repository into links of the site."""
    if page.file.src_uri in PAGES:
        return re.sub(r"\]\(docs/", "](", markdown)
    return LINKED.sub(lambda match: f"]({match[1]}", markdown)
