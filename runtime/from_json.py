"""JSON that somebody else wrote -> frozen dataclasses, believed only as far as their types and bounds say.

A field's bound stands beside its type: ``Annotated[float, Within(0, 1)]``. What a type leaves open (``Any``) is still
plain: finite numbers of 64 bits, nested no deeper than ``DEEPEST``.
"""

from __future__ import annotations

import json
import math
import reprlib
import stat
from collections.abc import Collection
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from mmx.runtime.errors import BadDataError

DEEPEST = 32
LONGEST_NAME = 200


@dataclass(frozen=True)
class Within:
    """The least and the greatest value of a number."""

    low: float
    high: float

    def problem(self, value: float) -> str | None:
        """What is wrong with the value; None where nothing is."""
        return None if self.low <= value <= self.high else f"is not within {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class OneOf:
    """The only values that a text or a number may have."""

    values: tuple[Any, ...]

    def problem(self, value: Any) -> str | None:
        """What is wrong with the value; None where nothing is."""
        return None if value in self.values else f"is not one of: {', '.join(map(str, self.values))}"


@dataclass(frozen=True)
class Printable:
    """A name that is safe to print: not empty, at most ``LONGEST_NAME`` characters, none that moves a cursor."""

    def problem(self, value: str) -> str | None:
        """What is wrong with the value; None where nothing is."""
        if 0 < len(value) <= LONGEST_NAME and value.isprintable():
            return None
        return f"is not a name of 1 to {LONGEST_NAME} printable characters"


BOUNDS = (Within, OneOf, Printable)
Name = Annotated[str, Printable()]


def read_limited(path: Path, limit: int, hint: str) -> bytes:
    """The bytes of a small file.

    Raises:
        FileNotFoundError: there is no such file.
        BadDataError: not a plain file, not readable, or over ``limit`` bytes.
    """
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise BadDataError(f"{path} is not a plain file", hint)
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except FileNotFoundError:
        raise
    except OSError as e:
        raise BadDataError(f"{path} cannot be read: {e.strerror}", hint) from e
    if len(content) > limit:
        raise BadDataError(f"{path} is larger than {limit >> 20} MB", hint)
    return content


def parse_object(content: bytes, where: str, hint: str = "") -> dict[str, Any]:
    """The JSON object in some bytes.

    Raises:
        BadDataError: it is none, or nested or large beyond use.
    """
    return _parse(content, where, hint, dict, "object")


def parse_list(content: bytes, where: str, hint: str = "") -> list[Any]:
    """The JSON list in some bytes. Raises as ``parse_object`` does."""
    return _parse(content, where, hint, list, "list")


def _parse(content: bytes, where: str, hint: str, kind: type, name: str) -> Any:
    try:
        value = json.loads(content.decode("utf-8"))
        if not isinstance(value, kind):
            raise ValueError(f"it holds no {name} but {type(value).__name__}")
        _check_plain(value)
    except (ValueError, RecursionError) as e:
        raise BadDataError(f"{where} is not readable JSON: {str(e)[:200]}", hint) from e
    return value


def _check_plain(value: Any) -> None:
    """Raise ValueError for what JSON allows and nobody can use; iterative, so that no depth can end the process."""
    waiting = [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        if depth > DEEPEST:
            raise ValueError(f"it is nested deeper than {DEEPEST}")
        if isinstance(item, dict):
            waiting += ((each, depth + 1) for pair in item.items() for each in pair)
        elif isinstance(item, list):
            waiting += ((each, depth + 1) for each in item)
        elif isinstance(item, float) and not math.isfinite(item):
            raise ValueError("a number is not finite")
        elif isinstance(item, int) and not -(2**63) <= item < 2**63:
            raise ValueError("a number has more than 64 bits")
        elif isinstance(item, str):
            item.encode("utf-8")  # a lone surrogate could never be written again


def from_plain(kind: Any, value: Any, where: str) -> Any:
    """Build ``kind`` (a dataclass, a tuple, dict, list or plain type) from parsed JSON.

    Raises:
        BadDataError: what does not fit, or lies outside its bound, by name.
    """
    if kind is Any:
        return value
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        built = from_plain(args[0], value, where)
        for bound in args[1:]:
            if isinstance(bound, BOUNDS) and (problem := bound.problem(built)):
                raise BadDataError(f"{where}: {reprlib.repr(value)} {problem}")
        return built
    if is_dataclass(kind) and isinstance(kind, type):
        return _dataclass(kind, value, where)
    if origin in (Union, UnionType):
        matching = [option for option in args if _fits(_bare(option), value)]
        if not matching:
            names = " or ".join(_bare(option).__name__ for option in args)
            raise BadDataError(f"{where}: expected {names}, found {reprlib.repr(value)}")
        return from_plain(matching[0], value, where)
    if origin in (tuple, list):
        return _sequence(origin, args, value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise BadDataError(f"{where}: expected an object, found {type(value).__name__}")
        return {from_plain(args[0], k, where): from_plain(args[1], v, f"{where}[{k}]") for k, v in value.items()}
    if not _fits(kind, value):
        raise BadDataError(f"{where}: expected {kind.__name__}, found {reprlib.repr(value)}")
    return float(value) if kind is float else value


def _dataclass(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise BadDataError(f"{where}: expected an object, found {type(value).__name__}")
    hints = get_type_hints(kind, include_extras=True)
    known = {field.name: field for field in fields(kind)}
    if unknown := sorted(set(value) - set(known)):
        raise BadDataError(f"{where}: unknown field {reprlib.repr(unknown[0])}", "it was made by another mmx")
    built = {name: from_plain(hints[name], item, f"{where}: {name}") for name, item in value.items()}
    for name, field in known.items():
        if name not in built and field.default is MISSING and field.default_factory is MISSING:
            raise BadDataError(f"{where}: {name!r} is missing", "make it again")
    return kind(**built)


def _sequence(origin: type, args: Collection[Any], value: Any, where: str) -> Any:
    kinds = tuple(args)
    if not isinstance(value, list):
        raise BadDataError(f"{where}: expected a list, found {type(value).__name__}")
    if origin is list or (len(kinds) == 2 and kinds[1] is Ellipsis):
        return origin(from_plain(kinds[0], item, where) for item in value)
    if len(value) != len(kinds):
        raise BadDataError(f"{where}: expected {len(kinds)} values, found {len(value)}")
    return tuple(from_plain(kind, item, where) for kind, item in zip(kinds, value, strict=True))


def _bare(kind: Any) -> Any:
    """A type without its bounds."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _fits(kind: Any, value: Any) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if is_dataclass(kind):
        return isinstance(value, dict)
    return isinstance(value, kind)
