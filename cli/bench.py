"""``mmx bench``: systems and engines against each other, on this machine."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

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
from mmx.cli.command import Renamed, command
from mmx.cli.options import Several, shared
from mmx.cli.paths import BUNDLE, InPath, OutFile
from mmx.cli.reading import Reading, reads_data, say_wrong_rows
from mmx.models.registry import SYSTEMS
from mmx.runtime.backends import MODULES, NAMES
from mmx.runtime.errors import EnvironmentMissing, MmxError, UsageError

if TYPE_CHECKING:
    from mmx.datasets.dataset import DataSet


def numbers(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """A callback that reads ``1,4``."""
    try:
        return tuple(dict.fromkeys(int(part) for part in value.split(",")))
    except ValueError:
        raise UsageError(f"{param.opts[0]} {value} is not a list of numbers", f"{param.opts[0]} 1 or 1,4") from None


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
        path = BUNDLE.convert(folder, param, ctx) if equals else None
        if path is None or not path.is_dir():
            raise UsageError(f"--bundle {entry} names no bundle", "--bundle ours=ckpt.mmx")
        found[system] = path
    return found


def percent(ctx: click.Context, param: click.Parameter, value: str) -> float:
    """A callback that reads ``5%`` or ``5``."""
    try:
        found = float(value.removesuffix("%"))
    except ValueError:
        found = -1
    if not 0 <= found < 100:
        raise UsageError(f"{param.opts[0]} {value} is not a percentage from 0 to 99", f"{param.opts[0]} 5%")
    return found


RENAMED = (
    Renamed("--json", "--out", ending=".json"),
    Renamed("--markdown", "--out"),
    Renamed("--html", "--out"),
    Renamed("--scenario", "--scenarios"),
)


@command(name="bench", renamed=RENAMED)
@click.argument("dataset", type=click.Choice(DATASETS), required=False)
@click.option(
    "--systems", type=Several(*SYSTEMS), default=(), help=f"Systems to compare.  [default: {','.join(DEFAULT_SYSTEMS)}]"
)
@shared("--backends", default=",".join(MODULES), show_default=True, help="Backends to compare.")
@click.option(
    "--peers",
    type=Several(*PEERS),
    default=",".join(DEFAULT_PEERS),
    show_default=True,
    help="Ways to run the system without mmx; compile (torch.compile) takes minutes for each system.",
)
@click.option(
    "--scenarios", type=Several(*SCENARIOS), default=(), help=f"What is measured.  [default: {','.join(SCENARIOS)}]"
)
@click.option(
    "--scope",
    type=click.Choice(SCOPES),
    default="model",
    show_default=True,
    help="Tensors to logits, or video files to labels.",
)
@shared("--samples", help="Use a stratified part of the set.  [default: what fits in --minutes]")
@click.option("--passes", type=click.IntRange(1), default=1, show_default=True, help="Timed runs of each sample.")
@click.option(
    "--threads",
    metavar="LIST",
    default="1",
    show_default=True,
    callback=numbers,
    help="CPU threads of the network; 1,4 measures both.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(0),
    default=8.5,
    show_default=True,
    help="About how long the run may take; 0: no limit.",
)
@shared("--data", help="A data set or a table of clips, in place of synthetic utterances.")
@reads_data
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
@click.option("--clip", type=InPath(folder=False), help="Video that --scope pipeline cuts its clips from.")
@click.option(
    "--bound-ms",
    type=click.FloatRange(1),
    default=500.0,
    show_default=True,
    help="p99 bound of the server scenario, in ms.",
)
@click.option("--preset", default="full", show_default=True, help="Size of the systems with seeded weights.")
@shared("--json", "as_json", help="Print the report as one JSON object.")
@click.option(
    "--out",
    "files",
    type=OutFile(".json", ".md", ".html"),
    multiple=True,
    help="Write the report, as .json, .md or .html with charts (repeat it).",
)
@click.option("--compare", type=InPath(folder=False), help="The .json of an earlier run to compare with.")
@click.option(
    "--fail-if-slower",
    default="5%",
    show_default=True,
    callback=percent,
    help="With --compare: exit with 1 if a row is slower by more.",
)
def bench(
    dataset: str | None,
    scope: str,
    systems: tuple[str, ...],
    scenarios: tuple[str, ...],
    trained: dict[str, Path],
    data: Path | None,
    reading: Reading,
    as_json: bool,
    files: tuple[Path, ...],
    compare: Path | None,
    fail_if_slower: float,
    **asked: object,
) -> None:
    """Compare systems on DATASET as the paper's tables do: upstream-style PyTorch and mmx, measured in turns.

    Without --data the workload is synthetic: as many utterances as the real test set, of the same lengths. With a data
    set of your own, name no DATASET: mmx bench --data clips.csv --checkpoint ours=run/ckpt.pt
    """
    from mmx.benchmarks.reports.compare import comparable, compare_reports
    from mmx.benchmarks.reports.text import as_markdown, as_text
    from mmx.benchmarks.run import run
    from mmx.runtime.files import write_text
    from mmx.view.terminal import Progress

    forms = {".json": Report.to_json, ".md": as_markdown}
    if any(file.suffix.lower() == ".html" for file in files):  # before minutes of measuring, if matplotlib is missing
        from mmx.benchmarks.reports.html import as_html

        forms[".html"] = as_html
    source = click.get_current_context().get_parameter_source
    if compare is None and source("fail_if_slower") is not ParameterSource.DEFAULT:
        raise UsageError("--fail-if-slower needs an earlier run", "--compare old.json --fail-if-slower 5%")
    scenarios = scenarios or (SCENARIOS if scope == "model" else PIPELINE_SCENARIOS)
    first = () if SCENARIOS[0] in scenarios else SCENARIOS[:1]
    if dataset is None and data is None:
        raise UsageError("which data set?", f"mmx bench {'|'.join(DATASETS)}, or mmx bench --data TABLE")
    found = None if data is None else reading.find(dataset or data, data if dataset else None)  # before minutes of work
    options = Options(
        dataset=dataset or _name(found),
        scope=scope,
        systems=systems or Options.systems_for(scope, found),
        scenarios=(*first, *scenarios),
        checkpoints=trained,
        data=found,
        **asked,  # type: ignore[arg-type]
    )
    options.check()
    if found:
        say_wrong_rows(found)
    if compare:
        comparable(compare, options.dataset, scope, options.preset, data is not None)
    terminal = Progress()
    if first:
        terminal.say(f"{first[0]} runs as well: {', '.join(scenarios)} needs its times")
    report = run(options, command_line(), terminal)
    click.echo(report.to_json().rstrip() if as_json else as_text(report))
    for file in files:
        write_text(file, forms[file.suffix.lower()](report))
    if source("backends") is not ParameterSource.DEFAULT and options.backends != NAMES:
        _check_asked(report, options.backends)
    if compare:
        outcome = compare_reports(compare, report, fail_if_slower)
        click.echo("\n" + outcome.text, err=as_json)
        if outcome.slower:
            raise MmxError(f"slower than {compare} by more than {fail_if_slower:g} %: {', '.join(outcome.slower)}")


def _name(data: DataSet | None) -> str:
    """What a report calls a data set that has no name of its own: never one of the paper's for other data."""
    assert data is not None
    return data.layout if data.layout in DATASETS else f"{data.root.resolve().name} (own)"


def _check_asked(report: Report, backends: tuple[str, ...]) -> None:
    """Raise EnvironmentMissing if a backend that was asked for by name ran nothing here."""
    for name in backends:
        rows = [row for row in report.rows if row.runner == name]
        if rows and all(row.status == UNAVAILABLE for row in rows):
            raise EnvironmentMissing(
                f"--backends {name}: {rows[0].reason}", "mmx doctor shows what this machine can run"
            )


def command_line() -> str:
    """The command as the user gave it, without the path of the program."""
    return shlex.join(["mmx", *sys.argv[1:]])
