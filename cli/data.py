"""``mmx data``: look at a data set of one's own before training on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmx.cli.command import Group, note
from mmx.cli.options import shared
from mmx.cli.paths import InPath
from mmx.cli.reading import Reading, reads_data

if TYPE_CHECKING:
    from mmx.datasets.check import Findings, Looked
    from mmx.datasets.table import Table
    from mmx.runtime.media.faces import FaceDetector

SHOWN = 10
BAR = 30
STEPS = 16  # of a histogram
BLOCKS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"


@click.group(cls=Group)
def data() -> None:
    """Look at your own clips."""


@data.command()
@click.argument("path", metavar="TABLE|DIR", type=InPath())
@shared(
    "--samples",
    type=click.IntRange(min=0),
    default=200,
    show_default=True,
    help="Clips to decode, evenly from all, for faces and silence; 0: none.",
)
@reads_data
def check(path: Path, samples: int, reading: Reading) -> None:
    """Show what a table or folder of clips holds and what is wrong with it.

    Rows, lengths, words, labels, faces, silence, and what is in several splits. Exits with 5 if a row cannot be used.
    """
    from mmx.datasets.check import check_table, look_into
    from mmx.runtime.errors import BadDataError, UsageError
    from mmx.view.terminal import Progress

    found = reading.find(path)
    table = found.table
    if table is None:
        raise UsageError(f"{path} is a processed data set", "mmx data check is for clips of your own")
    with Progress(quiet_elsewhere=True) as shown:
        checked = check_table(table, lambda done, total: shown.update("headers", done, total))
        looked = None
        if samples:
            detector = _detector()
            looked = look_into(table, samples, detector, lambda done, total: shown.update("clips", done, total))
    for line in render(table, checked, looked):
        click.echo(line)
    wrong = sorted({*table.wrong, *checked.problems, *(looked.problems if looked else ())})
    for number, why in wrong[:SHOWN]:
        click.echo(f"  line {number:6} {why}")
    if len(wrong) > SHOWN:
        click.echo(f"  and {len(wrong) - SHOWN} more rows")
    if wrong:
        rows = len({number for number, _ in wrong})
        raise BadDataError(f"{path} has {rows} rows that cannot be used as they are", "correct or remove them")


def _detector() -> FaceDetector | None:
    """What finds faces; None, with a note, where what it needs is not installed."""
    from mmx.runtime.errors import EnvironmentMissing

    try:
        from mmx.export.face_nets import face_nets
        from mmx.runtime.manifest import Preprocessing
        from mmx.runtime.media.faces import FaceDetector

        return FaceDetector(face_nets(), Preprocessing().faces)
    except (EnvironmentMissing, ModuleNotFoundError) as e:
        note(f"no face is looked for: {e}; pip install 'mmx[training]'")
        return None


def render(table: Table, checked: Findings, looked: Looked | None) -> list[str]:
    """What was found, for people."""
    from mmx.view.terminal import text_table

    counts = {split: len(clips) for split, clips in table.splits.items()}
    drawn = " (drawn by mmx: no column of splits)" if table.drawn else ""
    lines = [
        f"{table.path}: {sum(counts.values())} rows, {', '.join(f'{n} {s}' for s, n in counts.items())}{drawn}",
        f"  seconds     {_spread(checked.seconds)}, {sum(checked.seconds) / 60:.1f} minutes in all",
        f"  words       {_spread(checked.words)}, {sum(count == 0 for count in checked.words)} rows have none",
        f"  no sound    {checked.silent} rows; no video {checked.unseen}",
    ]
    if looked is not None:
        lines += _looked(looked)
    most = max(max(mine.values()) for mine in checked.labels.values()) or 1
    rows = [
        [label, *(str(checked.labels[split][label]) for split in table.splits), _bar(checked.labels, label, most)]
        for label in table.labels
    ]
    lines += ["", text_table(["label", *table.splits, "train"], rows), ""]
    for kind, pairs in checked.shared.items():
        for pair, names in pairs.items():
            shown = ", ".join(name[:60] for name in names[:3])
            lines.append(f"  shared      {len(names)} {kind} are in {pair}: {shown}")
    return lines


def _looked(looked: Looked) -> list[str]:
    """Faces and silence."""
    of = f"of {looked.clips} clips that were decoded"
    share = (
        f"{looked.faces} of {looked.frames} frames ({looked.faces / looked.frames:.0%})" if looked.frames else "none"
    )
    lines = [
        f"  faces       {share}; no face at all in {_at(looked.faceless)} {of}",
        f"  silence     {_at([line for line, _ in looked.silent])} {of}, or steady noise alone",
    ]
    return [*lines, *(f"              line {line}: {why}" for line, why in looked.silent[:3])]


def _at(lines: Sequence[int]) -> str:
    """How many, and where the first are."""
    first = ", ".join(map(str, lines[:3]))
    return f"{len(lines)} (lines {first}{', ...' if len(lines) > 3 else ''})" if lines else "0"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "not known"
    ordered = sorted(values)
    return f"{ordered[0]:.4g} to {ordered[-1]:.4g}, median {ordered[len(ordered) // 2]:.4g} {_histogram(values)}"


def _histogram(values: Sequence[float]) -> str:
    """How many values there are from the least to the largest, in blocks."""
    low, width = min(values), (max(values) - min(values)) / STEPS
    if not width:
        return ""
    counts = [0] * STEPS
    for value in values:
        counts[min(int((value - low) / width), STEPS - 1)] += 1
    return "".join(BLOCKS[-(-count * (len(BLOCKS) - 1) // max(counts))] if count else " " for count in counts)


def _bar(labels: dict[str, dict[str, int]], label: str, most: int) -> str:
    return BLOCKS[-1] * round(BAR * labels["train"][label] / most)
