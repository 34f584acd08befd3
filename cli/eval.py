"""``mmx eval``: how good a checkpoint or a bundle is on a data set, in every precision and engine."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from mmx.training.evaluate import Evaluation, Row

SCHEMA_VERSION = 1
COLUMNS = (("accuracy", "acc"), ("weighted_accuracy", "w-acc"), ("f1", "F1"), ("auc", "AUC"))


@click.command()
@click.argument("path", metavar="CKPT|BUNDLE", type=click.Path(path_type=Path))
@click.option("--data", required=True, metavar="DIR", type=click.Path(path_type=Path), help="A processed data set.")
@click.option("--dataset", type=click.Choice(["iemocap", "mosei"]), help="Which, where DIR holds both.")
@click.option("--split", type=click.Choice(["train", "valid", "test"]), default="test", show_default=True)
@click.option("--backend", "backends", multiple=True, help="Engines to run. Default: all there are.")
@click.option("--choose-thresholds", is_flag=True, help="Choose thresholds on the validation split, now.")
@click.option("--samples", type=click.IntRange(min=1), help="Only the split's first utterances.")
@click.option("--cache", type=click.Path(path_type=Path), help="Where preprocessed samples are kept.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of the tables.")
def eval(
    path: Path,
    data: Path,
    dataset: str | None,
    split: str,
    backends: tuple[str, ...],
    choose_thresholds: bool,
    samples: int | None,
    cache: Path | None,
    as_json: bool,
) -> None:
    """Score CKPT (ckpt.pt) or BUNDLE (ckpt.mmx) on a data set; what lies beside it under the other name is scored too.

    Thresholds are those in the checkpoint, which mmx train chose on the validation split; never the test split's.
    """
    from mmx.runtime.backends import NAMES
    from mmx.training.data import find_dataset
    from mmx.training.evaluate import evaluate, open_both

    found = find_dataset(dataset, data) if dataset else find_dataset(data)
    checkpoint, bundle = open_both(path)
    terminal = sys.stderr.isatty()

    def tick(what: str, done: int, total: int) -> None:
        if terminal:
            click.echo(f"\r\x1b[K  {what} {done}/{total}", err=True, nl=done == total)

    result = evaluate(
        checkpoint,
        bundle,
        found,
        split=split,
        backends=backends or NAMES,
        choose=choose_thresholds,
        samples=samples,
        cache=cache,
        tick=tick,
    )
    click.echo(to_json(result) if as_json else render(result))


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
    """The table of ways to run it, and the first one's emotions."""
    width = max(len(row.name) for row in result.rows) + 2
    head = "".join(f"{title:>8}" for _, title in COLUMNS)
    lines = [f"{result.data}, {result.split} split, {result.samples} utterances; means over the emotions"]
    if result.data == "synthetic":
        lines.append("a made-up test bed: these figures say nothing about people")
    lines += ["", f"{'':{width}}{head}{'logit error':>13}{'flips':>7}{'ms':>8}{'speed':>7}"]
    lines += [_line(row, result.rows[0], width) for row in result.rows]
    card = result.rows[0].card
    if card is not None:
        lines += ["", f"{result.rows[0].name + ', by emotion':{width + 10}}{head}{'threshold':>13}"]
        for place, label in enumerate(card.labels):
            values = "".join(_percent(getattr(card, metric)[place]) for metric, _ in COLUMNS)
            lines.append(f"{label:{width + 10}}{values}{result.thresholds[place]:13.2f}")
    lines += ["", "ms: median of one utterance, single-threaded, interleaved. Errors and flips: against the first row."]
    return "\n".join(lines)


def _line(row: Row, first: Row, width: int) -> str:
    if row.card is None:
        return f"{row.name:{width}}  not here: {row.problem}"
    values = "".join(_percent(row.card.mean(metric)) for metric, _ in COLUMNS)
    speed = first.milliseconds / row.milliseconds
    return f"{row.name:{width}}{values}{row.error:13.1e}{row.flips:7}{row.milliseconds:8.2f}{speed:6.2f}x"


def _percent(share: float) -> str:
    return f"{100 * share:8.2f}" if share == share else f"{'-':>8}"
