"""Answers as one HTML file that needs nothing else: player, face boxes and timeline, as on the server's page."""

from __future__ import annotations

import base64
import json
import mimetypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from mmx.runtime.files import write_text
from mmx.runtime.manifest import Manifest
from mmx.runtime.prediction import Prediction
from mmx.view.model import describe_model

EMBED_BYTES = 24 * 2**20  # of all media together: a page of this size still opens at once
# Of the page, in order.
SCRIPTS = ("flags.js", "basics.js", "timeline.js", "detail.js", "words.js", "boxes.js", "view.js")
PAGE, STANDALONE = (files("mmx.view") / name for name in ("page", "standalone"))


@dataclass(frozen=True)
class FileAnswers:
    """One media file, its predictions in order of time, and why it broke off (None: it did not)."""

    path: Path
    predictions: Sequence[Prediction]
    error: str | None = None


def write_report(out: Path, manifest: Manifest, answers: Sequence[FileAnswers]) -> None:
    """Write the report. Media go into it up to ``EMBED_BYTES`` in all; others are linked, relative to the report."""
    room = EMBED_BYTES
    shown = []
    for each in answers:
        source = each.path.absolute()
        size = source.stat().st_size if source.is_file() else 0
        embedded = 0 < size <= room
        room -= size if embedded else 0
        media = None if not size else _data_url(source) if embedded else _relative_url(source, out)
        segments = [prediction.to_dict() for prediction in each.predictions]
        shown.append({"name": each.path.name, "media": media, "segments": segments, "error": each.error})
    report = {"model": describe_model(manifest), "files": shown}
    html = (STANDALONE / "report.html").read_text(encoding="utf-8")
    scripts = [PAGE / name for name in SCRIPTS] + [STANDALONE / "report.js"]
    html = html.replace("/*{view.css}*/", (PAGE / "view.css").read_text(encoding="utf-8"))
    html = html.replace("/*{scripts}*/", "\n".join(part.read_text(encoding="utf-8") for part in scripts))
    write_text(out, html.replace("{report}", _json_in_script(report)))


def _json_in_script(value: object) -> str:
    """JSON that cannot end the script element it stands in, whatever its strings hold."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")


def _data_url(path: Path) -> str:
    kind = mimetypes.guess_type(path.name)[0] or "video/mp4"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def _relative_url(path: Path, out: Path) -> str:
    return quote(os.path.relpath(path, out.absolute().parent))
