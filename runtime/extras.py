"""The pip command that adds an extra to this installation of mmx."""

from __future__ import annotations

import json
import shlex
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit


def install_command(extra: str) -> str:
    """``pip install ...`` for an extra (or several, joined by commas), from where this mmx came from.

    That is the checkout or the wheel that it was installed from while that is still there (PEP 610 records it), else
    the package index.
    """
    place, editable = _origin()
    if place is None or not place.exists():
        return f"pip install 'mmx[{extra}]'"
    where = "." if place == Path.cwd() else str(place)
    return f"pip install {'-e ' if editable else ''}{shlex.quote(f'{where}[{extra}]')}"


@cache
def _origin() -> tuple[Path | None, bool]:
    """The folder or file that mmx was installed from, if any, and whether as an editable installation."""
    from importlib.metadata import distributions  # 20 ms that only an error costs

    for found in distributions(name="mmx"):  # an egg-info in the current folder says nothing of it
        if not (text := found.read_text("direct_url.json")):
            continue
        record = json.loads(text)
        url = urlsplit(record.get("url", ""))
        if url.scheme == "file":
            return Path(unquote(url.path)), bool(record.get("dir_info", {}).get("editable"))
    return None, False
