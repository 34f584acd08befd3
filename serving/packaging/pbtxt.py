"""Protocol buffers' text format, as far as Triton's config.pbtxt needs it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


class Name(str):
    """A value of an enumeration, which is written without quotes."""


def pbtxt(message: Mapping[str, Any], indent: str = "") -> str:
    """A message as text: one field a line; a list of messages is written as a repeated field.

    Values are str, bool, int, float, ``Name``, mappings (messages) and lists of these.
    """
    return "".join(_field(name, value, indent) for name, value in message.items())


def entries(mapping: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A ``map<string, ...>`` field: its entries, in order."""
    return [{"key": key, "value": value} for key, value in mapping.items()]


def _field(name: str, value: Any, indent: str) -> str:
    if isinstance(value, Mapping):
        return f"{indent}{name} {{\n{pbtxt(value, indent + '  ')}{indent}}}\n"
    if isinstance(value, Sequence) and not isinstance(value, str):
        if any(isinstance(item, Mapping) for item in value):
            return "".join(_field(name, item, indent) for item in value)
        return f"{indent}{name}: [{', '.join(map(_scalar, value))}]\n"
    return f"{indent}{name}: {_scalar(value)}\n"


def _scalar(value: Any) -> str:
    return value if isinstance(value, Name) else json.dumps(value)
