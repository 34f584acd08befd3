"""``mmx.toml``: what a user sets once, a table for each command."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from mmx.runtime.errors import BadDataError, MmxError, UsageError

NAME = "mmx.toml"
KEY = "mmx_config"  # of ``Context.meta``
MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Config:
    """A settings file's tables and keys."""

    path: Path
    content: Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """The settings of one command, and where they stand."""

    where: str
    values: Mapping[str, Any]


def read_config(path: Path, commands: Sequence[str]) -> Config:
    """Read a settings file.

    Raises:
        UsageError: it does not exist, or has a table that is no command's.
        BadDataError: it cannot be read, or is not TOML.
    """
    if not path.exists():
        raise UsageError(f"{path} does not exist", "name a settings file with --config")
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise BadDataError(f"{path} is larger than 1 MB", "it is not a settings file")
        content = tomllib.loads(text.decode("utf-8"))
    except OSError as e:
        raise BadDataError(f"{path} cannot be read: {e.strerror}", "mend or remove it") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as e:
        raise BadDataError(f"{path} is not TOML: {e}", "mend or remove it") from e
    for name, value in content.items():
        if isinstance(value, dict) and name not in commands:
            raise UsageError(f"{path}: [{name}] is no command of mmx{_meant(name, commands)}", "mmx --help lists them")
    return Config(path, content)


def long_name(option: click.Parameter) -> str:
    """An option's name in mmx.toml: as users write it, without the dashes in front."""
    return max(option.opts, key=len).lstrip("-")


def table(config: Config | None, path: Sequence[str]) -> Table | None:
    """The settings of the command ``path``, such as ``["asr", "pull"]``; None where there are none."""
    content: Any = config.content if config else {}
    for name in path:
        content = content.get(name) if isinstance(content, dict) else None
    if config is None or not isinstance(content, dict):
        return None
    return Table(f"{config.path}: [{'.'.join(path)}]", content)


def defaults(settings: Table, params: Sequence[click.Parameter], ctx: click.Context) -> dict[str, Any]:
    """The settings as click takes them: values by the name of the parameter.

    Raises:
        UsageError: an option that the command does not have, or a value of another type.
    """
    options = {
        long_name(each): each
        for each in params
        if isinstance(each, click.Option) and not each.hidden and each.name not in ("help", "version")
    }
    found = {}
    for key, value in settings.values.items():
        option = options.get(key.replace("_", "-"))
        if option is None:
            raise UsageError(f"{settings.where} has no option {key!r}{_meant(key, list(options))}", "see --help")
        found[option.name or key] = _checked(option, value, f"{settings.where} {key}", ctx)
    return found


def _checked(option: click.Option, value: Any, where: str, ctx: click.Context) -> Any:
    """The value, if the option can take it."""
    if option.is_flag != isinstance(value, bool):
        raise UsageError(
            f"{where} = {value!r}: " + ("true or false is needed" if option.is_flag else "no true or false")
        )
    if option.is_flag:
        return value
    values = value if isinstance(value, list) and option.multiple else [value]
    if not all(isinstance(each, str | int | float) and not isinstance(each, bool) for each in values):
        takes = "a value or a list of values" if option.multiple else "one value"
        raise UsageError(f"{where} = {value!r}: it takes {takes}")
    try:
        option.type_cast_value(ctx, values if option.multiple else value)
    except MmxError as e:
        raise UsageError(f"{where} = {value!r}: {e.message}", e.hint) from e
    except click.ClickException as e:
        raise UsageError(f"{where} = {value!r}: {e.message}") from e
    return values if option.multiple else value


def _meant(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name.replace("_", "-"), known, 1)
    return f"; did you mean {close[0]!r}?" if close else ""
