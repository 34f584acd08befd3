"""What a user writes down of a checkpoint that does not say it itself: labels, thresholds, config. Needs no torch."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmx.runtime.errors import BadDataError

LARGEST = 2**20


def read_description(labels: Path | None, config: Path | None) -> dict[str, Any]:
    """``labels``, ``thresholds`` and ``config`` out of the two files, as ``load_checkpoint`` takes them (unchecked).

    Args:
        labels: one label a line; or JSON: a list of labels, or an object with ``labels`` and perhaps ``thresholds``.
        config: a JSON object, or TOML (``.toml``); the keys of a checkpoint's config, all of them or some.

    Raises:
        BadDataError: a file that is missing, too large, or none of these.
    """
    found: dict[str, Any] = {}
    if labels is not None:
        found |= _labels(labels, _text(labels))
    if config is not None:
        text = _text(config)
        try:
            content = tomllib.loads(text) if config.suffix.lower() == ".toml" else json.loads(text)
        except (ValueError, RecursionError) as e:
            kind = "TOML" if config.suffix.lower() == ".toml" else "JSON"
            raise BadDataError(f"{config} is no {kind}: {e!s:.200}", "write a JSON object, or TOML as FILE.toml") from e
        if not isinstance(content, Mapping):
            raise BadDataError(f"{config} holds a {type(content).__name__}", 'write an object: {"text": {"heads": 12}}')
        found["config"] = content
    return found


def _labels(path: Path, text: str) -> dict[str, Any]:
    if not text.lstrip().startswith(("[", "{")):
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if not lines:
            raise BadDataError(f"{path} holds no labels", "write one label a line")
        return {"labels": lines}
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise BadDataError(f"{path} is not JSON: {e!s:.200}", "write one label a line, or a JSON list") from e
    found = content if isinstance(content, dict) else {"labels": content}
    if "labels" not in found or set(found) - {"labels", "thresholds"}:
        raise BadDataError(
            f"{path} must hold labels, and may hold thresholds", '{"labels": [...], "thresholds": [...]}'
        )
    return found


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as e:
        raise BadDataError(f"{path} cannot be read: {e.strerror}", "check the path") from e
    if len(content) > LARGEST:
        raise BadDataError(f"{path} is larger than {LARGEST // 2**20} MB", "name the file that was meant")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise BadDataError(f"{path} is not text in UTF-8", "save it as UTF-8") from e
