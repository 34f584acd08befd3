"""A dataclass -> its JSON Schema and its Arrow schema, made from its fields, so that neither can lag behind.

Understood: bool, int, float, str, Optional, tuples, dicts with string keys, and dataclasses of these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, is_dataclass
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin, get_type_hints

from mmx.runtime.errors import missing_extra

if TYPE_CHECKING:
    import pyarrow as pa

_JSON_NAMES = {bool: "boolean", int: "integer", float: "number", str: "string"}
_ARROW_NAMES = {bool: "bool_", int: "int32", float: "float64", str: "string"}


@dataclass(frozen=True)
class KeyedBy:
    """In ``Annotated[dict[str, V], KeyedBy("label")]``: whose names the keys are. Arrow then has a struct for a map."""

    what: str


def described(description: str, **options: Any) -> Any:
    """A dataclass field with the description that its schemas show."""
    return field(metadata={"description": description}, **options)


def json_schema(kind: type) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a dataclass as ``to_plain`` writes it, nested dataclasses written out in place."""
    hints = get_type_hints(kind, include_extras=True)
    properties = {each.name: _json(hints[each.name]) | _description(each) for each in fields(kind)}
    return {
        "type": "object",
        "description": (kind.__doc__ or "").partition("\n\n")[0],
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def arrow_fields(kind: type, keys: Mapping[str, Sequence[str]]) -> list[pa.Field]:
    """The Arrow fields of a dataclass.

    Args:
        keys: the names that a dict ``KeyedBy`` something may hold, by what it is keyed by. Such a dict is a struct
            with these fields; any other is a map.

    Raises:
        EnvironmentMissing: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
    except ModuleNotFoundError as e:
        raise missing_extra("pyarrow", "batch") from e
    hints = get_type_hints(kind, include_extras=True)
    return [pa.field(each.name, _arrow(hints[each.name], keys)) for each in fields(kind)]


def to_plain(value: Any) -> Any:
    """A dataclass, and all that is in it, as JSON has it: dicts, lists, strings and numbers."""
    if is_dataclass(value):
        return {each.name: to_plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value


def _description(each: Field) -> dict[str, str]:
    return {"description": each.metadata["description"]} if "description" in each.metadata else {}


def _json(kind: Any) -> dict[str, Any]:
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _json(args[0])
    if origin in (Union, UnionType):
        return {"anyOf": [{"type": "null"} if option is NoneType else _json(option) for option in args]}
    if origin is dict:
        return {"type": "object", "additionalProperties": _json(args[1])}
    if origin is tuple:
        sized = {} if args[1:] == (...,) else {"minItems": len(args), "maxItems": len(args)}
        return {"type": "array", "items": _json(args[0]), **sized}
    return json_schema(kind) if isinstance(kind, type) and is_dataclass(kind) else {"type": _JSON_NAMES[kind]}


def _arrow(kind: Any, keys: Mapping[str, Sequence[str]]) -> pa.DataType:
    import pyarrow as pa

    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        names = keys.get(args[1].what)
        if names is None:
            return _arrow(args[0], keys)
        value = _arrow(get_args(args[0])[1], keys)
        return pa.struct([(name, value) for name in names])
    if origin in (Union, UnionType):
        return _arrow(next(option for option in args if option is not NoneType), keys)
    if origin is dict:
        return pa.map_(pa.string(), _arrow(args[1], keys))
    if origin is tuple:
        return pa.list_(_arrow(args[0], keys))
    if isinstance(kind, type) and is_dataclass(kind):
        return pa.struct(arrow_fields(kind, keys))
    return getattr(pa, _ARROW_NAMES[kind])()
