"""What each precision costs and gains: FP32, BF16, FP16 and INT8 of a bundle in every CPU engine, in one table each.

    python studies/precisions.py --scored tiny.mmx DIR --noise ours.mmx --out studies/results/precisions

A scored bundle is trained, and DIR is its data set: accuracy and F1 on the test split. A bundle on noise has no labels:
error and speed alone. The graphs that a bundle lacks are made in a copy of it (FP16 by ``mmx build-engine``'s rules,
INT8 by ``mmx calibrate`` without its demand for speed); the bundle stays as it is. Writes OUT.json and OUT.md.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from mmx.calibration.calibrate import Data, calibrate
from mmx.calibration.gate import CPU_BACKENDS, MAX_SHIFT
from mmx.calibration.noise import Noise
from mmx.datasets.dataset import find_dataset
from mmx.evaluation.environment import Environment, describe
from mmx.evaluation.scores import flips, scorecard
from mmx.evaluation.statistics import Ratio, speedup
from mmx.evaluation.timing import interleave, warm_up
from mmx.export.precision.variant import ensure_variant
from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import ParityError
from mmx.runtime.files import write_text
from mmx.runtime.fusion import sigmoid
from mmx.runtime.types import Sample
from mmx.training.evaluate import open_runners, utterances_for

RANGES, TESTED, NOISY, TIMED = 64, 200, 24, 12
PASSES = 3


@dataclass(frozen=True)
class Row:
    """One engine and precision.

    Attributes:
        accuracy, f1: means over the emotions, 0..1; None without labels.
        error: largest difference of a fused logit from the first row's, over its largest. shift: of a probability.
        flips: labels predicted otherwise than by the first row. megabytes: of the graph's file.
        milliseconds: of one utterance, the median. speed: how many times faster than the first row, side by side.
    """

    name: str
    accuracy: float | None
    f1: float | None
    error: float
    shift: float
    flips: int
    megabytes: float
    milliseconds: float
    speed: Ratio


@dataclass(frozen=True)
class Table:
    """A bundle's rows; ``notes``: what is missing, and why."""

    system: str
    data: str
    samples: int
    decisions: int
    notes: tuple[str, ...]
    rows: tuple[Row, ...]


def table(bundle: Bundle, folder: Path | None) -> Table:
    """Measure a bundle, scored on the data set in ``folder``, or on noise."""
    ranges: Data
    held_out: Data
    tested: Data
    if folder is None:
        ranges, held_out, tested = (
            Noise(bundle.manifest, count, seed) for seed, count in enumerate((RANGES, NOISY, NOISY))
        )
    else:
        found = find_dataset(folder)
        ranges, held_out, tested = (
            utterances_for(bundle, found, split, samples=count)
            for split, count in (("train", RANGES), ("valid", None), ("test", TESTED))
        )
    with tempfile.TemporaryDirectory() as scratch:
        copy = Bundle.open(shutil.copytree(bundle.path, Path(scratch) / bundle.path.name))
        copy, notes = with_variants(copy, ranges, held_out, labelled=folder is not None)
        rows = _rows(copy, tested)
    name = "noise" if folder is None else f"{found.name}, test split"
    return Table(bundle.manifest.system, name, len(tested), len(tested) * len(bundle.manifest.labels), notes, rows)


def with_variants(bundle: Bundle, ranges: Data, held_out: Data, labelled: bool) -> tuple[Bundle, tuple[str, ...]]:
    """Give the bundle an FP16 and an INT8 graph if it lacks them, whatever their speed; and what could not be had."""
    notes = []
    if "fp16" not in bundle.precisions:
        try:
            bundle, _ = ensure_variant(bundle, "fp16", samples=16)
        except ParityError as e:
            notes.append(f"no FP16: {e.message}")
    if "int8" not in bundle.precisions:
        made = calibrate(bundle, ranges, held_out, labelled=labelled, require_speed=False, fresh=True)
        bundle = made.bundle
        if made.failure:
            notes.append(f"no INT8: it failed the gate on {made.failure}")
        else:
            notes.append(f"INT8: {len(made.layers) - len(made.tries[-1].kept)} of {len(made.layers)} layers")
    return bundle, tuple(notes)


def _rows(bundle: Bundle, tested: Data) -> tuple[Row, ...]:
    runners, _ = open_runners(None, bundle, CPU_BACKENDS)
    try:
        logits = {
            runner.key: np.concatenate([runner.run([tested[i]]) for i in range(len(tested))]) for runner in runners
        }
        few: list[Callable[[], Sample]] = [lambda s=sample: s for sample in _some(tested)]  # type: ignore[misc]
        for runner in runners:
            warm_up(runner, few[0]())
        timed = interleave(runners, few, PASSES)
    finally:
        for runner in runners:
            runner.close()
    first = runners[0].key
    base = np.median(timed[first].seconds, axis=1)
    thresholds, labels = bundle.manifest.thresholds, bundle.manifest.labels
    rows = []
    for key, found in logits.items():
        precision = key.split()[-1]
        file = bundle.graph(precision if precision in bundle.precisions else "fp32").path
        card = None if tested.targets is None else scorecard(found, tested.targets, thresholds, labels)
        seconds = np.median(timed[key].seconds, axis=1)
        rows.append(
            Row(
                name=key,
                accuracy=None if card is None else card.mean("accuracy"),
                f1=None if card is None else card.mean("f1"),
                error=float(np.abs(found - logits[first]).max() / np.abs(logits[first]).max()),
                shift=float(np.abs(_probabilities(found) - _probabilities(logits[first])).max()),
                flips=flips(found, logits[first], thresholds),
                megabytes=file.stat().st_size / 1e6,
                milliseconds=float(np.median(seconds)) * 1e3,
                speed=speedup(base, seconds),
            )
        )
    return tuple(rows)


def _some(tested: Data) -> list[Sample]:
    """The samples to time, from the shortest sound to the longest."""
    order = np.argsort([len(tested[i].pieces) for i in range(len(tested))], kind="stable")
    places = np.unique(np.linspace(0, len(order) - 1, TIMED).round().astype(int))
    return [tested[int(order[place])] for place in places]


def _probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    return sigmoid(logits.astype(np.float64))


def markdown(tables: Sequence[Table], command: str, environment: Environment) -> str:
    """The tables for people."""
    lines = ["# Precisions", "", *(f"- {line}" for line in environment.lines()), f"- {command}"]
    lines.append(
        "- Errors, probabilities and flips are against the first row. One thread; ms and speed are interleaved."
    )
    for each in tables:
        scored = each.rows[0].f1 is not None
        lines += ["", f"## {each.system}, {each.data}, {each.samples} utterances", ""]
        lines.append(f"| run by {'| accuracy | F1 ' if scored else ''}{_HEAD}")
        lines.append(f"|{' --- |' * (9 if scored else 7)}")
        for row in each.rows:
            scores = f"| {100 * row.accuracy:.2f} | {100 * row.f1:.2f} " if row.accuracy and row.f1 else ""
            low, high = row.speed.low, row.speed.high
            lines.append(
                f"| {row.name} {scores}| {row.error:.1e} | {row.shift:.4f} | {row.flips}/{each.decisions} "
                f"| {row.megabytes:.1f} | {row.milliseconds:.1f} | {row.speed.median:.2f}x [{low:.2f}, {high:.2f}] |"
            )
        lines += ["", *(f"{note}.  " for note in each.notes)]
        if not scored:
            lines.append(
                f"Noise has no labels: this is agreement (a probability may move by {MAX_SHIFT}), no accuracy."
            )
    return "\n".join(lines) + "\n"


_HEAD = "| logit error | probability | flips | MB | ms | speed |"


@click.command()
@click.option("--scored", nargs=2, multiple=True, type=click.Path(path_type=Path), metavar="BUNDLE DIR")
@click.option("--noise", multiple=True, type=click.Path(path_type=Path), metavar="BUNDLE")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="OUT.json and OUT.md are written.")
def main(scored: tuple[tuple[Path, Path], ...], noise: tuple[Path, ...], out: Path) -> None:
    """Measure every precision of the bundles: on a data set, or on noise."""
    environment = describe()
    asked: list[tuple[Path, Path | None]] = [*scored, *((path, None) for path in noise)]
    tables = [table(Bundle.open(path), folder) for path, folder in asked]
    names = [f"--scored {path.name} {folder.name}" if folder else f"--noise {path.name}" for path, folder in asked]
    command = " ".join(["python studies/precisions.py", *names, f"--out {out.name}"])
    report = {"command": command, "environment": asdict(environment), "tables": [asdict(each) for each in tables]}
    write_text(out.with_suffix(".json"), json.dumps(report, indent=2) + "\n")
    write_text(out.with_suffix(".md"), markdown(tables, command, environment))


if __name__ == "__main__":
    main()
