"""``mmx data``: look at a data set of one's own before training on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from mmx.cli.command import Group
from mmx.cli.paths import InPath

SHOWN = 10
BAR = 30


@click.group(cls=Group)
def data() -> None:
    """Look at a table of your own clips."""


@data.command()
@click.argument("table", type=InPath())
def check(table: Path) -> None:
    """Show what TABLE holds and what is wrong with it: rows, lengths, words, labels, and what is in several splits.

    Reads the table and each file's header; faces and silence are found when the samples are made. Exits with 5 if a row
    cannot be used.
    """
    from mmx.datasets.check import check_table
    from mmx.datasets.table import read_table
    from mmx.runtime.errors import BadDataError
    from mmx.view.terminal import Progress, text_table

    found = read_table(table)
    with Progress(quiet_elsewhere=True) as shown:
        checked = check_table(found, lambda done, total: shown.update("headers", done, total))
    counts = {split: len(clips) for split, clips in found.splits.items()}
    drawn = " (drawn by mmx: the table has no column of splits)" if found.drawn else ""
    click.echo(f"{table}: {sum(counts.values())} rows, {', '.join(f'{n} {s}' for s, n in counts.items())}{drawn}")
    click.echo(f"  seconds     {_spread(checked.seconds)}, {sum(checked.seconds) / 60:.1f} minutes in all")
    click.echo(f"  words       {_spread(checked.words)}, {sum(count == 0 for count in checked.words)} rows have none")
    click.echo(f"  no sound    {checked.silent} rows; no video {checked.unseen}")
    most = max(max(counts.values()) for counts in checked.labels.values()) or 1
    rows = [
        [label, *(str(checked.labels[split][label]) for split in found.splits), _bar(checked.labels, label, most)]
        for label in found.labels
    ]
    click.echo("\n" + text_table(["label", *found.splits, "train"], rows) + "\n")
    for kind, pairs in checked.shared.items():
        for pair, names in pairs.items():
            click.echo(f"  shared      {len(names)} {kind} are in {pair}: {', '.join(n[:60] for n in names[:3])}")
    wrong = sorted([*found.wrong, *checked.problems])
    for line, why in wrong[:SHOWN]:
        click.echo(f"  line {line:6} {why}")
    if len(wrong) > SHOWN:
        click.echo(f"  and {len(wrong) - SHOWN} more rows")
    if wrong:
        raise BadDataError(f"{table} has {len(wrong)} rows that cannot be used as they are", "correct or remove them")


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "not known"
    ordered = sorted(values)
    return f"{ordered[0]:.4g} to {ordered[-1]:.4g}, median {ordered[len(ordered) // 2]:.4g}"


def _bar(labels: dict[str, dict[str, int]], label: str, most: int) -> str:
    return "\u2588" * round(BAR * labels["train"][label] / most)
