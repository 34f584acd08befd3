"""What every command shares: environment variables, mmx.toml, old names of options, --quiet and --verbose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from mmx.cli import config, logs

QUIET, VERBOSE, LEVEL = "mmx_quiet", "mmx_verbose", "mmx_log_level"  # keys of ``Context.meta``


@dataclass(frozen=True)
class Renamed:
    """What an option was called before, and the name it has now.

    ``ending``: the old name took a value with this ending where today's option of that name takes none.
    """

    old: str
    new: str
    ending: str = ""


def _keep(key: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    """A callback that keeps an option's value, given before the command or behind it, in ``Context.meta``."""

    def keep(ctx: click.Context, option: click.Parameter, value: Any) -> None:
        if value:
            ctx.meta[key] = value

    return keep


def output_options() -> list[click.Option]:
    """--quiet, --verbose and --log-level; each command has them, and ``mmx`` itself."""
    return [
        _output(QUIET, "-q", "--quiet", is_flag=True, help="Print results and errors only."),
        _output(VERBOSE, "-v", "--verbose", is_flag=True, help="Also print what is done and why."),
        _output(
            LEVEL, "--log-level", type=click.Choice(logs.LEVELS), help="What mmx logs to stderr.  [default: warning]"
        ),
    ]


def _output(key: str, *names: str, **attrs: Any) -> click.Option:
    """An option that may stand before the command and behind it."""
    return click.Option(names, expose_value=False, callback=_keep(key), envvar=key.upper(), show_envvar=True, **attrs)


def verbose() -> bool:
    """Whether the running command was asked for more, by -v."""
    ctx = click.get_current_context(silent=True)
    return bool(ctx and ctx.meta.get(VERBOSE))


def quiet() -> bool:
    """Whether the running command was asked for less, by -q."""
    ctx = click.get_current_context(silent=True)
    return bool(ctx and ctx.meta.get(QUIET))


def say(message: str) -> None:
    """A line on stderr about the run; --quiet leaves it out."""
    if not quiet():
        click.echo(message, err=True)


def note(message: str) -> None:
    """Something that a user should know, on stderr; --quiet leaves it out."""
    logs.LOGGER.warning("%s", message)


class Command(click.Command):
    """A command whose options are also environment variables (MMX_COMMAND_OPTION) and keys of mmx.toml."""

    def __init__(self, *args: Any, renamed: Sequence[Renamed] = (), **attrs: Any) -> None:
        super().__init__(*args, **attrs)
        self.renamed = {each.old: each for each in renamed}
        self.params += output_options()

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Translate old names, take what mmx.toml and the environment say, then parse as click does."""
        path = list(_path(ctx)) or [self.name or ""]
        for option in self.params:
            if isinstance(option, click.Option) and not option.hidden:
                _name_variable(option, path)
        settings = config.table(ctx.meta.get(config.KEY), path)
        if settings:
            ctx.default_map = config.defaults(settings, self.params, ctx)
        args, notes = self._translated(args)
        rest = super().parse_args(ctx, args)
        if not ctx.resilient_parsing:
            start_logging(ctx)
            for old, new in notes:
                note(f"{old} is called {new} now")
        return rest

    def _translated(self, args: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
        """The arguments with today's names of options, and what was translated."""
        takes_value = {
            name for each in self.params if isinstance(each, click.Option) and not each.is_flag
            for name in each.opts
        } | {each.old for each in self.renamed.values() if not each.ending}  # fmt: skip
        found, notes = list(args), []
        for i, given in enumerate(args):
            if given == "--":
                break
            name, equals, value = given.partition("=")
            each = self.renamed.get(name)
            if each is None or (i > 0 and args[i - 1] in takes_value):
                continue
            following = args[i + 1] if i + 1 < len(args) else ""
            if each.ending and not equals and not following.endswith(each.ending):
                continue  # today's flag
            found[i] = each.new + equals + value
            notes.append((f"{each.old} FILE" if each.ending else each.old, each.new))
        return found, list(dict.fromkeys(notes))


class Group(click.Group):
    """A group of such commands."""

    command_class = Command


def command(
    name: str | None = None, *, renamed: Sequence[Renamed] = (), **attrs: Any
) -> Callable[[Callable[..., Any]], Command]:
    """``click.command`` with what every command of mmx shares; ``renamed``: what its options were called before."""
    return click.command(name, cls=Command, renamed=renamed, **attrs)


def start_logging(ctx: click.Context) -> None:
    """Show what is logged, as --quiet, --verbose and --log-level say, until the command ends."""
    meta: Mapping[str, Any] = ctx.meta
    if meta.get(QUIET) and meta.get(VERBOSE):
        raise click.UsageError("--quiet and --verbose were both given", ctx)
    level = logs.level_of(quiet=bool(meta.get(QUIET)), verbose=bool(meta.get(VERBOSE)), named=meta.get(LEVEL))
    ctx.call_on_close(logs.show(level))


def _path(ctx: click.Context) -> Iterator[str]:
    """The names of the command, from the outermost, without ``mmx``."""
    if ctx.parent is not None:
        yield from _path(ctx.parent)
        yield ctx.info_name or ""


def _name_variable(option: click.Option, path: Sequence[str]) -> None:
    """Give the option its environment variable, beside one that it may have."""
    option.show_envvar = True
    own = "_".join(["MMX", *path, config.long_name(option)]).upper().replace("-", "_")
    if option.envvar is None:
        option.envvar = own
    elif isinstance(option.envvar, str) and option.expose_value and option.envvar != own:
        option.envvar = [own, option.envvar]
