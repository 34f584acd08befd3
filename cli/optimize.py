"""``mmx optimize``: how a bundle runs fastest on this machine, kept for ``--backend auto --precision auto``."""

from __future__ import annotations

import hashlib
import json
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmx.cli.command import command, note, say
from mmx.cli.options import BACKENDS, shared
from mmx.cli.paths import BUNDLE
from mmx.cli.reading import Reading, reads_data, say_wrong_rows
from mmx.runtime.to_json import to_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmx.evaluation.optimize import Candidate, Row
    from mmx.runtime.bundle import Bundle
    from mmx.runtime.network import Network
    from mmx.runtime.types import Sample
    from mmx.view.terminal import Progress

SAMPLES = 48  # of a data set
PERCENTS = (6, 18, 31, 43, 56, 68, 81, 93)  # of the data set's utterances, by length: without data, one of each


@command()
@click.argument("path", metavar="BUNDLE", type=BUNDLE)
@shared("--data")
@shared("--dataset")
@click.option(
    "--for", "goal", type=click.Choice(["latency", "throughput"]), default="latency", show_default=True,
    help="One utterance as soon as possible (mmx predict), or as many as possible (mmx serve).",
)  # fmt: skip
@click.option(
    "--max-loss", type=click.FloatRange(min=0), default=0.5, show_default=True, metavar="POINTS",
    help="Of mean F1 and mean accuracy that may go (with --data).",
)  # fmt: skip
@shared("--backends")
@shared("--samples", default=SAMPLES, show_default=True, help="Samples of the validation split to time and score.")
@click.option("--dry-run", is_flag=True, help="Show what would be tried, and run nothing.")
@click.option("--again", is_flag=True, help="Measure although nothing that matters changed.")
@reads_data
@shared("--cache")
@shared("--json", "as_json", help="Print what was found as one JSON object.")
def optimize(
    path: Path,
    data: Path | None,
    dataset: str | None,
    goal: str,
    max_loss: float,
    backends: tuple[str, ...] | None,
    samples: int,
    dry_run: bool,
    again: bool,
    cache: Path | None,
    as_json: bool,
    reading: Reading,
) -> None:
    """Find how BUNDLE runs fastest here: backend, precision, streams, threads, batch size.

    What answers worse than FP32 by more than --max-loss is left out; without --data there are no labels to tell, and no
    probability may move by more than 0.05. The choice is kept in the user's cache for this bundle and machine, and
    --backend auto --precision auto, the defaults, follow it.
    """
    from mmx.evaluation.environment import describe
    from mmx.evaluation.optimize import choice_of, first_candidates
    from mmx.evaluation.optimize import optimize as search
    from mmx.runtime.backends.choice import GOALS, recall, remember
    from mmx.runtime.bundle import Bundle
    from mmx.runtime.machine import usable_cores
    from mmx.view.terminal import Progress

    bundle, cores = Bundle.open(path), usable_cores()
    aim = GOALS[GOALS.index(goal)]
    backends = backends or BACKENDS
    candidates = first_candidates(bundle, aim, cores, backends)
    if dry_run:
        click.echo("\n".join(str(each) for each in candidates))
        say("then other ways of sharing the cores for the fastest of these; nothing was run")
        return
    variants = sorted(f"{each.path.name}" for each in bundle.variants)
    seen = (variants, max_loss, str(data and data.absolute()), dataset, samples, backends, reading.again)
    compared = hashlib.sha256(json.dumps(seen, default=str).encode()).hexdigest()[:16]
    kept = recall(bundle, aim)
    if kept and kept.compared == compared and not again:
        say(f"{path}: chosen before, and nothing that matters changed: {kept}; --again measures")
        if as_json:
            click.echo(to_json({"goal": goal, "choice": asdict(kept)}))
        return
    with Progress(quiet_elsewhere=True) as shown:
        timed, targets = _samples(bundle, data, dataset, samples, cache, reading, shown)
        rows = search(
            bundle, aim, timed, targets, max_loss, candidates, cores, partial(_open, bundle), shown.update
        )  # fmt: skip
    choice = choice_of(rows[0], compared)
    remember(bundle, aim, choice)
    machine = describe()
    if as_json:
        found = {"goal": goal, "environment": asdict(machine), "samples": len(timed), "choice": asdict(choice)}
        click.echo(to_json({**found, "rows": [asdict(row) for row in rows]}))
        return
    click.echo("\n".join(machine.lines()))
    click.echo(render(rows))
    source = f"{len(timed)} samples of {data}" if data else f"{len(timed)} synthetic samples, without labels"
    click.echo(f"\nfor {goal}, on {source}: {choice}\n\nnext:\n  mmx {_USES[goal].format(path)}   (auto follows it)")


_USES = {"latency": "predict {} FILE", "throughput": "serve {}"}


def render(rows: list[Row]) -> str:
    """The table, with the reason for each row."""
    from mmx.view.terminal import text_table

    cells = [
        (
            f"{row.candidate.backend} {row.candidate.precision}",
            f"{row.candidate.streams} x {row.candidate.threads}",
            str(row.candidate.batch_size),
            f"{row.ms:.2f}" if row.ms is not None else "-",
            str(row.ratio) if row.ratio and row.loss else "1x" if row.ratio else "-",
            str(row.loss) if row.loss else "-",
            row.reason,
        )
        for row in rows
    ]
    head = ("runs on", "streams x threads", "batch", "ms an utterance", "faster", "answers", "")
    return text_table(head, cells)


def _open(bundle: Bundle, each: Candidate) -> AbstractContextManager[Network]:
    from mmx.runtime.network import Network

    return Network.open(bundle, each.backend, each.precision, streams=each.streams, threads=each.threads)


def _samples(
    bundle: Bundle,
    data: Path | None,
    dataset: str | None,
    count: int,
    cache: Path | None,
    reading: Reading,
    shown: Progress,
) -> tuple[list[Sample], NDArray[np.int64] | None]:
    """What is timed, and its labels: of a data set's validation split, or synthetic and without any."""
    if data is None:
        import numpy as np

        from mmx.export.durations import duration_at
        from mmx.export.precision.samples import utterances_of

        manifest = bundle.manifest
        durations = [duration_at(manifest.dataset, percent) for percent in PERCENTS]
        return utterances_of(manifest, durations, np.random.default_rng(0)), None
    from mmx.training.evaluate import utterances_for

    found = reading.find(dataset or data, data if dataset else None)
    say_wrong_rows(found)
    part = utterances_for(bundle, found, "valid", samples=count, cache=cache, check_labels=True)
    for why in part.prepare(partial(shown.update, "preparing valid")):
        note(f"{data} {why}")
    return [part[i] for i in range(len(part))], part.targets
