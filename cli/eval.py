"""``mmx eval``: how good a checkpoint or a bundle is on a data set, in every precision and engine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmx.cli.command import Renamed, command, note
from mmx.cli.eval_trust import CHARTS, draw, render_faults, render_sets
from mmx.cli.options import shared
from mmx.cli.paths import BUNDLE, OutFile
from mmx.cli.reading import Reading, reads_data, say_wrong_rows
from mmx.runtime.errors import EnvironmentMissing, UsageError
from mmx.runtime.to_json import to_json

if TYPE_CHECKING:
    from mmx.datasets.dataset import DataSet
    from mmx.runtime.bundle import Bundle
    from mmx.training.evaluate import Evaluation, Row
    from mmx.training.trust import Trusted

SCHEMA_VERSION = 1
CALIBRATION_SAMPLES = 128
COLUMNS = (("accuracy", "acc"), ("weighted_accuracy", "w-acc"), ("f1", "F1"), ("auc", "AUC"))


@command(renamed=[Renamed("--backend", "--backends")])
@click.argument("path", metavar="CKPT|BUNDLE", type=BUNDLE)
@shared("--data", required=True)
@shared("--dataset")
@click.option(
    "--split",
    type=click.Choice(["train", "valid", "test"]),
    default="test",
    show_default=True,
    help="Which part of the data set.",
)
@shared("--backends")
@click.option("--choose-thresholds", is_flag=True, help="Choose thresholds on the validation split again.")
@click.option(
    "--variants", is_flag=True, help="Also make FP16 and INT8 graphs, in a copy of the bundle, and score them."
)
@click.option("--speed/--no-speed", default=True, show_default=True, help="Also time 24 utterances, one at a time.")
@click.option(
    "--corrupt",
    metavar="LIST",
    help="Also score under faults: noise:SNR, babble:SNR, reverb, codec, blur, dark, lowres, asr-errors:WER, or all "
    "(docs/trust.md).",
)
@shared("--max-error", help="The stated error whose coverage is measured.  [default: 0.1]")
@click.option("--chart", type=OutFile(*CHARTS), help="Draw the faults, or how reliable probabilities are.")
@shared("--seed", help="Of the faults.")
@click.option(
    "--keep/--no-keep", default=True, show_default=True, help="Keep a whole split's scores in BUNDLE, for its card."
)
@shared("--samples", help="Only this many of the split's utterances, from the first on.")
@shared(
    "--compat",
    help="upstream: read the data set as the public loader does.  [default: as the bundle or the checkpoint says]",
)
@reads_data
@shared("--cache")
@shared("--json", "as_json", help="Print one JSON object instead of the tables.")
def eval(
    path: Path,
    data: Path,
    dataset: str | None,
    split: str,
    backends: tuple[str, ...] | None,
    choose_thresholds: bool,
    variants: bool,
    speed: bool,
    corrupt: str | None,
    max_error: float | None,
    chart: Path | None,
    seed: int,
    keep: bool,
    samples: int | None,
    compat: str | None,
    reading: Reading,
    cache: Path | None,
    as_json: bool,
) -> None:
    """Score CKPT (ckpt.pt) or BUNDLE (ckpt.mmx) on a data set; what lies beside it under the other name is scored too.

    Thresholds are those in the checkpoint, which mmx train chose on the validation split; never the test split's. What
    probabilities are worth is measured for each set of modalities.
    """
    from mmx.datasets.corruptions import parse_corruptions
    from mmx.datasets.labels import between
    from mmx.runtime.backends import NAMES
    from mmx.training.evaluate import evaluate, labels_of, open_both
    from mmx.training.trust import STATED_ERROR, measure_trust
    from mmx.view.terminal import Progress

    corruptions = parse_corruptions(corrupt) if corrupt is not None else ()
    found = reading.find(dataset or data, data if dataset else None, mapped=False)
    say_wrong_rows(found)
    checkpoint, bundle = open_both(path)
    if variants and bundle is None:
        raise UsageError(f"{path} has no bundle to make variants of", f"mmx export {path}")
    what = bundle or checkpoint
    assert what is not None
    mapping, theirs = between(labels_of(what), found.labels, reading.labels())
    if mapping and (variants or corruptions or chart):
        raise UsageError("--map of what is predicted goes without --variants, --corrupt and --chart", "map the data's")
    found = found.mapped(theirs) if theirs else found
    made = with_variants(bundle, found, cache) if variants and bundle else nullcontext(bundle)
    with made as bundle, Progress(quiet_elsewhere=True) as shown:
        result = evaluate(
            checkpoint,
            bundle,
            found,
            split=split,
            backends=backends or NAMES,
            choose=choose_thresholds,
            speed=speed,
            samples=samples,
            compat=compat,
            mapping=mapping,
            cache=cache,
            tick=shown.update,
        )
        trusted = None
        if not mapping:  # probabilities are of the network's own labels
            trusted = measure_trust(
                checkpoint,
                bundle,
                found,
                split=split,
                corruptions=corruptions,
                max_error=STATED_ERROR if max_error is None else max_error,
                samples=samples,
                compat=compat,
                cache=cache,
                seed=seed,
                tick=shown.update,
            )
    if keep and trusted and bundle is not None and path.is_dir() and samples is None and not variants:
        keep_in(bundle, result, trusted)
    if chart and trusted:
        draw(trusted, chart)
    click.echo(as_json_text(result, trusted) if as_json else render(result, trusted))


@contextmanager
def with_variants(bundle: Bundle, data: DataSet, cache: Path | None) -> Iterator[Bundle]:
    """A copy of the bundle, for as long as the block runs, with an FP16 and an INT8 graph whatever their speed."""
    from mmx.calibration.calibrate import calibrate
    from mmx.export.precision.variant import ensure_variant
    from mmx.runtime.bundle import Bundle
    from mmx.runtime.files import write_errors
    from mmx.runtime.scratch import Scratch
    from mmx.training.evaluate import utterances_for

    with Scratch("eval") as scratch, write_errors(scratch.path):
        copy = Path(shutil.copytree(bundle.path, scratch.path / bundle.path.name))
        made, _ = ensure_variant(Bundle.open(copy), "fp16", samples=32)
        if "int8" not in made.precisions:
            train, valid = (
                utterances_for(made, data, split, samples=count, cache=cache)
                for split, count in (("train", CALIBRATION_SAMPLES), ("valid", None))
            )
            train.prepare()
            valid.prepare()
            found = calibrate(made, train, valid, require_speed=False)
            if found.failure:
                note(f"no INT8 row: the graph failed the gate on {found.failure}")
            made = found.bundle
        yield made


def keep_in(bundle: Bundle, result: Evaluation, trusted: Trusted) -> None:
    """Add the evaluation to the bundle; a note where it cannot be written."""
    from mmx.training.evaluated import add_evaluation

    try:
        add_evaluation(bundle, result, trusted)
    except (UsageError, EnvironmentMissing) as e:
        note(f"not kept for the card: {e.message}")


def as_json_text(result: Evaluation, trusted: Trusted | None) -> str:
    """The evaluation as one JSON object; never NaN."""
    content = {
        "schema_version": SCHEMA_VERSION,
        **asdict(result),
        "probabilities": asdict(trusted) if trusted else None,
    }
    for row, plain in zip(result.rows, content["rows"], strict=True):
        if row.card is not None:
            plain["mean"] = {metric: row.card.mean(metric) for metric, _ in COLUMNS}
    return to_json(content)


def render(result: Evaluation, trusted: Trusted | None) -> str:
    """The table of ways to run it, the first one's labels, sets of modalities, and faults."""
    from mmx.view.terminal import text_table

    first = result.rows[0]
    lines = [f"{result.data}, {result.split} split, {result.samples} utterances; means over the labels"]
    if result.data == "synthetic":
        lines.append("a synthetic test bed: these scores say nothing about people")
    timed = any(row.milliseconds for row in result.rows)
    scores = [title for _, title in COLUMNS]
    header = ["run by", *scores, "MB", "logit error", "flips", *(["ms", "speed"] if timed else [])]
    lines += ["", text_table(header, [_cells(row, first, timed) for row in result.rows if row.card])]
    lines += [f"not available: {row.name}: {row.problem}" for row in result.rows if row.card is None]
    if first.card is not None:
        by_label = [
            (label, *(_percent(getattr(first.card, metric)[i]) for metric, _ in COLUMNS), f"{result.thresholds[i]:.2f}")
            for i, label in enumerate(first.card.labels)
        ]
        lines += ["", text_table([f"{first.name}, by label", *scores, "threshold"], by_label)]
    lines += ["", "Errors and flips: against the first row.", *(f"note: {note}" for note in result.notes)]
    if timed:
        lines.append("ms: median of one utterance of 24, shortest to longest; single-threaded, interleaved.")
    if trusted:
        lines += ["", render_sets(trusted)]
    if trusted and trusted.faults:
        lines += ["", render_faults(trusted)]
    return "\n".join(lines)


def _cells(row: Row, first: Row, timed: bool) -> list[str]:
    assert row.card is not None
    scores = [_percent(row.card.mean(metric)) for metric, _ in COLUMNS]
    cells = [row.name, *scores, f"{row.megabytes:.1f}", f"{row.error:.1e}", str(row.flips)]
    if not timed:
        return cells
    if not (row.milliseconds and first.milliseconds):
        return [*cells, "-", "-"]
    return [*cells, f"{row.milliseconds:.2f}", f"{first.milliseconds / row.milliseconds:.2f}x"]


def _percent(share: float) -> str:
    return f"{100 * share:.2f}" if share == share else "-"
