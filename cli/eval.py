"""``mmx eval``: how good a checkpoint or a bundle is on a data set, in every precision and engine."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmx.runtime.errors import UsageError

if TYPE_CHECKING:
    from mmx.datasets.dataset import DataSet
    from mmx.runtime.bundle import Bundle
    from mmx.training.evaluate import Evaluation, Row

SCHEMA_VERSION = 1
CALIBRATION_SAMPLES = 128
COLUMNS = (("accuracy", "acc"), ("weighted_accuracy", "w-acc"), ("f1", "F1"), ("auc", "AUC"))


@click.command()
@click.argument("path", metavar="CKPT|BUNDLE", type=click.Path(path_type=Path))
@click.option(
    "--data", required=True, metavar="DIR|TABLE", type=click.Path(path_type=Path), help="A processed data set."
)
@click.option("--dataset", type=click.Choice(["iemocap", "mosei"]), help="Which, where DIR holds both.")
@click.option("--split", type=click.Choice(["train", "valid", "test"]), default="test", show_default=True)
@click.option("--backend", "backends", multiple=True, help="Engines to run. Default: all there are.")
@click.option("--choose-thresholds", is_flag=True, help="Choose thresholds on the validation split, now.")
@click.option(
    "--variants", is_flag=True, help="Also make FP16 and INT8 graphs, in a copy of the bundle, and score them."
)
@click.option("--speed/--no-speed", default=True, help="Also time 24 of them, one at a time.  [default: yes]")
@click.option("--samples", type=click.IntRange(min=1), help="Only the split's first utterances.")
@click.option(
    "--compat",
    type=click.Choice(["default", "upstream"]),
    help="upstream: read the data set as the public loader does. Default: what the bundle or the checkpoint says.",
)
@click.option(
    "--map", "mapping", metavar="OLD=NEW,...", help="Rename or merge labels of the data, or drop them (OLD=)."
)
@click.option("--cache", type=click.Path(path_type=Path), help="Where preprocessed samples are kept.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of the tables.")
def eval(
    path: Path,
    data: Path,
    dataset: str | None,
    split: str,
    backends: tuple[str, ...],
    choose_thresholds: bool,
    variants: bool,
    speed: bool,
    samples: int | None,
    compat: str | None,
    mapping: str | None,
    cache: Path | None,
    as_json: bool,
) -> None:
    """Score CKPT (ckpt.pt) or BUNDLE (ckpt.mmx) on a data set; what lies beside it under the other name is scored too.

    Thresholds are those in the checkpoint, which mmx train chose on the validation split; never the test split's.
    """
    from mmx.datasets.dataset import find_dataset, parse_map
    from mmx.runtime.backends import NAMES
    from mmx.training.evaluate import evaluate, open_both
    from mmx.view.terminal import Progress

    found = find_dataset(dataset, data) if dataset else find_dataset(data)
    found = found.mapped(parse_map(mapping)) if mapping else found
    checkpoint, bundle = open_both(path)
    if variants and bundle is None:
        raise UsageError(f"{path} has no bundle to make variants of", f"mmx export {path}")
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
            cache=cache,
            tick=shown.update,
        )
    click.echo(to_json(result) if as_json else render(result))


@contextmanager
def with_variants(bundle: Bundle, data: DataSet, cache: Path | None) -> Iterator[Bundle]:
    """A copy of the bundle, for as long as the block runs, with an FP16 and an INT8 graph whatever their speed."""
    from mmx.calibration.calibrate import calibrate
    from mmx.export.precision.variant import ensure_variant
    from mmx.runtime.bundle import Bundle
    from mmx.training.evaluate import utterances_for

    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(shutil.copytree(bundle.path, Path(scratch) / bundle.path.name))
        made, _ = ensure_variant(Bundle.open(copy), "fp16", samples=32)
        if "int8" not in made.precisions:
            train, valid = (
                utterances_for(made, data, split, samples=count, cache=cache)
                for split, count in (("train", CALIBRATION_SAMPLES), ("valid", None))
            )
            found = calibrate(made, train, valid, require_speed=False)
            if found.failure:
                click.echo(f"note: no INT8 row, it failed the gate on {found.failure}", err=True)
            made = found.bundle
        yield made


def to_json(result: Evaluation) -> str:
    """The evaluation as one JSON object; never NaN."""
    content = {"schema_version": SCHEMA_VERSION, **asdict(result)}
    for row, plain in zip(result.rows, content["rows"], strict=True):
        if row.card is not None:
            plain["card"]["auc"] = [None if value != value else value for value in row.card.auc]
            means = {metric: row.card.mean(metric) for metric, _ in COLUMNS}
            plain["mean"] = {metric: None if value != value else value for metric, value in means.items()}
    return json.dumps(content, indent=2, allow_nan=False)


def render(result: Evaluation) -> str:
    """The table of ways to run it, and the first one's labels."""
    from mmx.view.terminal import text_table

    first = result.rows[0]
    lines = [f"{result.data}, {result.split} split, {result.samples} utterances; means over the labels"]
    if result.data == "synthetic":
        lines.append("a made-up test bed: these figures say nothing about people")
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
