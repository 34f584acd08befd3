"""``mmx prepare``: a raw release of IEMOCAP or CMU-MOSEI becomes the processed data set that training reads."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from mmx.cli.command import command
from mmx.cli.options import shared
from mmx.cli.paths import InPath

if TYPE_CHECKING:
    from mmx.datasets.prepare.plan import Plan
    from mmx.datasets.prepare.run import Options


@command()
@click.argument("dataset", type=click.Choice(["iemocap", "mosei"]))
@click.argument("release", type=InPath(folder=True))
@click.option("--out", required=True, metavar="DIR", type=click.Path(path_type=Path), help="Folder to write.")
@click.option(
    "--compat",
    type=click.Choice(["correct", "upstream"]),
    default="correct",
    show_default=True,
    help="upstream: as the public notebooks do it where they err, for a checkpoint that was trained so.",
)
@click.option("--splits", metavar="DIR", type=InPath(), help="Published train, valid and test lists.")
@click.option(
    "--split",
    type=click.Choice(["random", "session"]),
    default="random",
    show_default=True,
    help="Without --splits. session (IEMOCAP): each session is in one split, so no speaker is in two.",
)
@shared("--seed", help="Of the splits.")
@click.option("--labels", metavar="PATH", type=InPath(), help="MOSEI: CSV tables or the .csd file.")
@shared(
    "--people",
    metavar="left|right|region=X,Y,W,H",
    show_default=False,
    help="MOSEI: the part of the frame that images show (docs/people.md).  [default: all of it]",
)
@shared("--workers")
@shared("--resume")
@click.option("--dry-run", is_flag=True, help="Print what would be done and what is missing; write nothing.")
def prepare(
    dataset: str,
    release: Path,
    out: Path,
    compat: Literal["correct", "upstream"],
    splits: Path | None,
    split: str,
    seed: int,
    labels: Path | None,
    people: str,
    workers: int | None,
    resume: bool,
    dry_run: bool,
) -> None:
    """Cut RELEASE, a raw release, into utterances in DIR, in the public layout, with splits.

    \b
    mmx prepare iemocap IEMOCAP_full_release --out DATA
    mmx train iemocap --data DATA

    What is missing or damaged is left out with a line; the rest is done.
    """
    from mmx.datasets.prepare.run import Options, plan_release
    from mmx.datasets.prepare.run import prepare as run
    from mmx.runtime.machine import usable_cores
    from mmx.view.terminal import Progress

    options = Options(dataset, compat, splits, split, seed, labels, workers or usable_cores(), people)
    if dry_run:
        click.echo("\n".join(_intended(plan_release(release, options), options, out)))
        return
    with Progress() as shown:
        account = run(
            release,
            out,
            options,
            resume=resume,
            progress=lambda done, total, name: shown.update(f"cutting, {name}", done, total),
        )
    click.echo("\n".join([f"{out}", *account.lines()]))
    click.echo(f"\nnext:\n  mmx train {dataset} --data {out}")


def _intended(plan: Plan, options: Options, out: Path) -> list[str]:
    """What a run would do, a line each."""
    from mmx.datasets.prepare.account import reasons
    from mmx.datasets.prepare.run import trained_names
    from mmx.datasets.processed import LABELS

    said = [utterance for task in plan.tasks for utterance in task.utterances]
    codes = Counter(
        label
        for utterance in said
        for label in (
            [utterance.label]
            if isinstance(utterance.label, str)
            else [name for name, there in zip(LABELS["mosei"], utterance.label, strict=True) if there]
        )
    )
    seconds = sum(utterance.end - utterance.start for utterance in said)
    return [
        f"would write {len(said)} utterances ({seconds / 60:.1f} minutes) of {len(plan.tasks)} recordings to {out}",
        f"  in splits   {len(trained_names(plan, options))}",
        "  labels      " + "  ".join(f"{label} {count}" for label, count in sorted(codes.items())),
        *reasons(plan.left_out),
    ]
