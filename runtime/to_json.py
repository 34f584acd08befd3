"""JSON that every reader takes: a number that is not finite becomes null, never NaN or Infinity."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def to_json(content: Any, indent: int | None = 2) -> str:
    """``content`` (mappings, lists and tuples of what JSON holds) as JSON; text is written as it is, in UTF-8."""
    return json.dumps(finite(content), indent=indent, ensure_ascii=False, allow_nan=False)


def finite(value: Any) -> Any:
    """``value`` with None in place of every NaN and infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return value
