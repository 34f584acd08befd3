"""``mmx bench``: systems and engines against each other, on this machine."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import click
from click.core import ParameterSource

from mmx.benchmarks.options import (
    DEFAULT_PEERS,
    DEFAULT_SYSTEMS,
    PIPELINE_SCENARIOS,
    SCENARIOS,
    SCOPES,
    Options,
)
from mmx.benchmarks.paper import DATASETS
from mmx.benchmarks.results import PEERS, UNAVAILABLE, Report
from mmx.cli.out_file import OutFile
from mmx.models.registry import SYSTEMS
from mmx.runtime.backends import MODULES, NAMES
from mmx.runtime.errors import EnvironmentMissing, MmxError, UsageError


def names(known: tuple[str, ...]) -> Callable[[click.Context, click.Parameter, str], tuple[str, ...]]:
    """A callback that splits ``a,b``, rejects what is not ``known`` and knows what ``all`` are."""

    def split(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
        found = tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))
        if found == ("all",):
            return known
        for name in found:
            if name not in known:
                raise UsageError(f"{param.opts[0]} {name} does not exist", f"choose from {', '.join(known)}, or all")
        return found

    return split


def numbers(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """A callback that reads ``1,4``."""
    try:
        return tuple(dict.fromkeys(int(part) for part in value.split(",")))
    except ValueError:
        raise UsageError(f"{param.opts[0]} {value} is no list of numbers", f"{param.opts[0]} 1 or 1,4") from None


def checkpoints(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, Path]:
    """A callback that reads ``SYSTEM=FILE``."""
    found = {}
    for entry in value:
        system, equals, file = entry.partition("=")
        if not equals or not Path(file).is_file():
            raise UsageError(f"--checkpoint {entry} names no file", "--checkpoint ours=ckpt.pt")
        found[system] = Path(file)
    return found


def bundles_of(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, Path]:
    """A callback that reads ``SYSTEM=BUNDLE``."""
    found = {}
    for entry in value:
        system, equals, folder = entry.partition("=")
        if not equals or not Path(folder).is_dir():
            raise UsageError(f"--bundle {entry} names no bundle", "--bundle ours=ckpt.mmx")
        found[system] = Path(folder)
    return found


def percent(ctx: click.Context, param: click.Parameter, value: str) -> float:
    """A callback that reads ``5%`` or ``5``."""
    try:
        found = float(value.removesuffix("%"))
    except ValueError:
        found = -1
    if not 0 <= found < 100:
        raise UsageError(f"{param.opts[0]} {value} is no percentage from 0 to 99", f"{param.opts[0]} 5%")
    return found


@click.command(name="bench")
@click.argument("dataset", type=click.Choice(DATASETS))
@click.option("--systems", default="", callback=names(tuple(SYSTEMS)), help=f"[default: {','.join(DEFAULT_SYSTEMS)}]")
@click.option("--backends", default=",".join(MODULES), show_default=True, callback=names(NAMES))
@click.option(
    "--peers",
    default=",".join(DEFAULT_PEERS),
    show_default=True,
    callback=names(PEERS),
    help="compile takes minutes more.",
)
@click.option(
    "--scenario", "scenarios", default="", callback=names(SCENARIOS), help=f"[default: {','.join(SCENARIOS)}]"
)
@click.option(
    "--scope",
    type=click.Choice(SCOPES),
    default="model",
    show_default=True,
    help="Tensors to logits, or video files to labels.",
)
@click.option(
    "--samples", type=click.IntRange(1), help="A stratified part of the set.  [default: what fits in --minutes]"
)
@click.option("--passes", type=click.IntRange(1), default=1, show_default=True, help="Timed visits of each sample.")
@click.option("--threads", default="1", show_default=True, callback=numbers, help="CPU threads; 1,4 measures both.")
@click.option(
    "--minutes",
    type=click.FloatRange(0),
    default=8.5,
    show_default=True,
    help="What the run may take, roughly; 0: no limit.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Processed data set (IEMOCAP_RAW_PROCESSED...).",
)
@click.option(
    "--checkpoint", "trained", multiple=True, callback=checkpoints, metavar="SYSTEM=FILE", help="Trained weights."
)
@click.option(
    "--bundle",
    "bundles",
    multiple=True,
    callback=bundles_of,
    metavar="SYSTEM=BUNDLE",
    help="A bundle made from that checkpoint (INT8 and engines included), in place of a fresh export.",
)
@click.option(
    "--clip",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Video that --scope pipeline cuts its clips from.",
)
@click.option(
    "--bound-ms", type=click.FloatRange(1), default=500.0, show_default=True, help="p99 bound of the server scenario."
)
@click.option("--preset", default="full", show_default=True, help="Size of the systems with seeded weights.")
@click.option("--json", "json_file", type=OutFile(), help="Write everything to this file.")
@click.option("--markdown", "markdown_file", type=OutFile(), help="Write the tables to this file.")
@click.option("--html", "html_file", type=OutFile(), help="Write the tables and charts to this file.")
@click.option(
    "--compare", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="An earlier --json to compare with."
)
@click.option(
    "--fail-if-slower",
    default="5%",
    show_default=True,
    callback=percent,
    help="With --compare: exit with 1 if anything is.",
)
def bench(
    dataset: str,
    scope: str,
    systems: tuple[str, ...],
    scenarios: tuple[str, ...],
    trained: dict[str, Path],
    data: Path | None,
    json_file: Path | None,
    markdown_file: Path | None,
    html_file: Path | None,
    compare: Path | None,
    fail_if_slower: float,
    **asked: object,
) -> None:
    """Measure the systems on DATASET the way the paper's tables do: upstream-style, through mmx, and side by side.

    Without --data the workload is synthetic: as many utterances as the real test set, as long as its are.
    """
    from mmx.benchmarks.reports.compare import compare_reports, earlier_rows
    from mmx.benchmarks.reports.text import as_markdown, as_text
    from mmx.benchmarks.run import run
    from mmx.runtime.files import write_text
    from mmx.view.terminal import Progress

    if html_file:  # said before minutes of measuring if matplotlib is missing
        from mmx.benchmarks.reports.html import as_html

    source = click.get_current_context().get_parameter_source
    if compare is None and source("fail_if_slower") is not ParameterSource.DEFAULT:
        raise UsageError("--fail-if-slower needs an earlier run", "--compare old.json --fail-if-slower 5%")
    scenarios = scenarios or (SCENARIOS if scope == "model" else PIPELINE_SCENARIOS)
    first = () if SCENARIOS[0] in scenarios else SCENARIOS[:1]
    options = Options(
        dataset=dataset,
        scope=scope,
        systems=systems or Options.systems_for(scope, data),
        scenarios=(*first, *scenarios),
        checkpoints=trained,
        data=data,
        **asked,  # type: ignore[arg-type]
    )
    options.check()
    if compare:
        earlier_rows(compare, dataset)
    terminal = Progress()
    if first:
        terminal.say(f"{first[0]} runs as well: {', '.join(scenarios)} need its times")
    report = run(options, command_line(), terminal)
    click.echo(as_text(report))
    if json_file:
        write_text(json_file, report.to_json())
    if markdown_file:
        write_text(markdown_file, as_markdown(report))
    if html_file:
        write_text(html_file, as_html(report))
    if source("backends") is not ParameterSource.DEFAULT and options.backends != NAMES:
        _check_asked(report, options.backends)
    if compare:
        outcome = compare_reports(compare, report, fail_if_slower)
        click.echo("\n" + outcome.text)
        if outcome.slower:
            raise MmxError(f"slower than {compare} by more than {fail_if_slower:g} %: {', '.join(outcome.slower)}")


def _check_asked(report: Report, backends: tuple[str, ...]) -> None:
    """Raise EnvironmentMissing if a backend that was asked for by name ran nothing here."""
    for name in backends:
        rows = [row for row in report.rows if row.runner == name]
        if rows and all(row.status == UNAVAILABLE for row in rows):
            raise EnvironmentMissing(
                f"--backends {name}: {rows[0].reason}", "mmx doctor says what this machine can run"
            )


def command_line() -> str:
    """The command as the user gave it, without the path of the program."""
    return shlex.join(["mmx", *sys.argv[1:]])
