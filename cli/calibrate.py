"""``mmx calibrate``: a bundle gets an INT8 graph, if that is as good as FP32 and faster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmx.cli.command import Renamed, command, note
from mmx.cli.command import verbose as asked_for_more
from mmx.cli.options import shared
from mmx.cli.paths import BUNDLE, OutFile
from mmx.cli.reading import Reading, reads_data, say_wrong_rows
from mmx.runtime.errors import UsageError
from mmx.runtime.to_json import to_json

if TYPE_CHECKING:
    from mmx.calibration.calibrate import Calibration, Data
    from mmx.calibration.gate import Accuracy
    from mmx.datasets.samples import Utterances
    from mmx.runtime.bundle import Bundle
    from mmx.runtime.probabilities import SubsetFit
    from mmx.view.terminal import Progress

SYNTHETIC_SAMPLES = 90
NOISE_HELD_OUT = 16
STATED_ERROR = 0.1  # whose coverage is shown
ERRORS = ("logit error", "relative", "flips")


@command(renamed=[Renamed("--report", "--out")])
@click.argument("path", metavar="BUNDLE", type=BUNDLE)
@shared("--data")
@click.option(
    "--synth",
    is_flag=True,
    help="Calibrate on a synthetic data set, made now: to try it, or for speed and error alone.",
)
@click.option("--noise", is_flag=True, help="Calibrate on noise as long as utterances are: for untrained weights.")
@click.option(
    "--probabilities", is_flag=True, help="Calibrate probabilities on DIR's validation split instead (docs/trust.md)."
)
@shared("--dataset")
@click.option(
    "--method",
    type=click.Choice(["minmax", "entropy", "percentile", "mse"]),
    default="mse",
    show_default=True,
    help="How a range follows from what was seen.",
)
@shared("--samples", default=128, show_default=True, help="Samples of the training split to measure ranges on.")
@click.option(
    "--held-out",
    type=click.Choice(["valid", "test"]),
    default="valid",
    show_default=True,
    help="Split that the gate scores.",
)
@click.option("--fresh", is_flag=True, help="Measure ranges again, although the bundle has a record of them.")
@click.option("--any-speed", is_flag=True, help="Accept a graph that is slower here: for an engine on another machine.")
@click.option(
    "--keep-fp32",
    metavar="PATTERN",
    multiple=True,
    help="Layers to leave unquantised, by name ('A.layers.3.*') or operator (Conv); -v lists them (repeat it).",
)
@reads_data
@shared("--cache")
@shared("--json", "as_json", help="Print what was found as one JSON object.")
@click.option("--out", type=OutFile(), help="Write that object to this file.")
def calibrate(
    path: Path,
    data: Path | None,
    synth: bool,
    noise: bool,
    probabilities: bool,
    dataset: str | None,
    method: str,
    samples: int,
    held_out: str,
    fresh: bool,
    any_speed: bool,
    keep_fp32: tuple[str, ...],
    cache: Path | None,
    as_json: bool,
    out: Path | None,
    reading: Reading,
) -> None:
    """Make BUNDLE's INT8 graph, or calibrate its probabilities (under ckpt.mmx/variants/).

    The gate: on held-out data, mean F1 and mean accuracy within 0.5 points of FP32; and faster than what the bundle has
    already, on this machine. The worst layers go back to FP32 until the first holds. If the gate does not hold, the
    bundle stays as it was and the command says which of the two failed (exit code 3): where INT8 is slower whatever is
    measured, before it measures.

    Without labels (--noise, or --synth for a bundle of other labels) accuracy is not known: then no probability may be
    off FP32's by more than 0.05, and that is what the report says.
    """
    if probabilities:
        if data is None or synth or noise:
            raise UsageError("probabilities are calibrated on labelled data", "give --data DIR alone")
        _calibrate_probabilities(path, data, dataset, cache, reading)
        return
    if (data is not None) + synth + noise != 1:
        raise UsageError("what to calibrate on?", "give --data DIR, --synth or --noise")
    from mmx.calibration.calibrate import calibrate as run
    from mmx.calibration.calibrate import foresee_speed, require, require_gain
    from mmx.calibration.noise import Noise
    from mmx.runtime.bundle import Bundle
    from mmx.runtime.files import write_text
    from mmx.view.terminal import Progress

    bundle = Bundle.open(path)
    with ExitStack() as stack:
        shown = stack.enter_context(Progress(quiet_elsewhere=True))
        if not any_speed:
            shown.share("speed of INT8 here", 0)
            require_gain(bundle, foresee_speed(bundle, keep_fp32))
        pair: Sequence[Data]
        if noise:
            pair, labelled = [Noise(bundle.manifest, samples, 0), Noise(bundle.manifest, NOISE_HELD_OUT, 1)], False
        else:
            folder, own = stack.enter_context(_folder(data, shown))
            wanted = {"train": samples, held_out: None}
            pair, labelled = _splits(bundle, folder, own or cache, dataset, wanted, synth, reading, shown)
        result = run(
            bundle,
            *pair,
            method=method,
            labelled=labelled,
            fresh=fresh or synth,
            require_speed=not any_speed,
            keep_fp32=keep_fp32,
            say=shown.share,
        )
    if out:
        write_text(out, to_json(result.to_dict()) + "\n")
    click.echo(to_json(result.to_dict()) if as_json else render(result, asked_for_more()))
    require(result)
    if not as_json:
        click.echo(
            f"\nnext:\n  mmx eval {path} --data {data or 'DIR'}{reading.again}\n  mmx build-engine {path} --int8"
        )


def _calibrate_probabilities(path: Path, data: Path, dataset: str | None, cache: Path | None, reading: Reading) -> None:
    """Fit them on the validation split, add them to the bundle, and print what that brought."""
    import time

    from mmx.calibration.domain import FEWEST, add_domain, fit_domain
    from mmx.calibration.probabilities import add_probabilities, fit_subsets, run
    from mmx.runtime.bundle import Bundle
    from mmx.view.terminal import Progress

    started = time.monotonic()
    bundle = Bundle.open(path)
    with Progress(quiet_elsewhere=True) as shown:
        (train, valid), _ = _splits(bundle, data, cache, dataset, {"train": None, "valid": None}, False, reading, shown)
        logits = run(bundle, valid, shown.update)
        domain = fit_domain(train, valid, shown.update)
    fits = fit_subsets(logits, bundle.manifest.fusion_weights, bundle.manifest.labels)
    bundle = add_probabilities(bundle, valid, fits, started)
    click.echo(f"{bundle.path}: probabilities calibrated on {len(valid)} validation samples")
    click.echo(render_fits(fits))
    if domain:
        add_domain(bundle, train, valid, domain)
        click.echo(f"domain: {', '.join(domain)} of {len(train)} training utterances (docs/trust.md)")
    else:
        note(f"no out_of_domain: it takes {FEWEST} utterances in the training and the validation split")
    click.echo(f"\nnext:\n  mmx eval {path} --data {data}{reading.again}\n  mmx predict {path} FILE --max-error 0.1")


def render_fits(fits: Mapping[str, SubsetFit]) -> str:
    """A table of what calibration brought by set of modalities, and which labels could not be fitted."""
    from mmx.view.terminal import text_table

    def change(before: float, after: float) -> str:
        return f"{100 * before:.2f} -> {100 * after:.2f}"

    rows = []
    for name, fit in fits.items():
        limit = next((each for each in fit.limits if each.error == STATED_ERROR), None)
        met = "-" if limit is None else f"{limit.coverage:.0%} (from {limit.confidence:.0%})"
        pairs = zip(asdict(fit.before).values(), asdict(fit.after).values(), strict=True)
        rows.append((name, str(fit.samples), *(change(*pair) for pair in pairs), met))
    answered = f"answered at {STATED_ERROR:.0%} error"
    lines = [text_table(("modalities", "samples", "ECE, %", "Brier, %", answered), rows)]
    lines.append("before -> after, on samples that the fit did not see (cross-fitting); means over the labels")
    for method, why in (("identity", "all one class: left as it is"), ("temperature", "few positives: scale alone")):
        odd = sorted({label for fit in fits.values() for label, each in fit.labels.items() if each.method == method})
        if odd:
            lines.append(f"note: {', '.join(odd)}: {why}")
    return "\n".join(lines)


def _splits(
    bundle: Bundle,
    folder: Path,
    cache: Path | None,
    dataset: str | None,
    wanted: dict[str, int | None],
    synth: bool,
    reading: Reading,
    shown: Progress,
) -> tuple[list[Utterances], bool]:
    """The splits by name, so many utterances of each, and whether their labels are the bundle's."""
    from mmx.training.evaluate import utterances_for

    found = reading.find(dataset or folder, folder if dataset else None)
    say_wrong_rows(found)
    labelled = set(found.labels) == set(bundle.manifest.labels)
    if not labelled and not synth:
        raise UsageError(
            f"{bundle.path} predicts {', '.join(bundle.manifest.labels)}; {folder} holds {', '.join(found.labels)}",
            "--map OLD=NEW,... makes the data's labels the bundle's; --synth does without",
        )
    splits = [
        utterances_for(bundle, found, split, samples=count, cache=cache, check_labels=labelled)
        for split, count in wanted.items()
    ]
    for split, mine in zip(wanted, splits, strict=True):
        for why in mine.prepare(partial(shown.update, f"preparing {split}")):
            note(f"{folder} {why}")
    return splits, labelled


def render(found: Calibration, verbose: bool = False) -> str:
    """What was found, for people."""
    from mmx.view.terminal import text_table

    last = found.tries[-1].accuracy
    without = "" if found.labelled else " without labels: agreement with FP32, not accuracy"
    lines = [
        f"{found.bundle.path}: {len(found.layers)} layers, ranges by {found.ranges.method} over "
        f"{found.ranges.samples} samples{' (from the record)' if found.reused else ''}, kept in {found.ranges_path}",
        f"  size        {found.sizes[0] / 1e6:.1f} -> {found.sizes[1] / 1e6:.1f} MB",
        f"  held out    {last.samples} samples{without}",
        text_table(
            ("FP32 layers", *(("F1", "accuracy") if found.labelled else ("probability",)), *ERRORS, "run by"),
            [_try(len(each.kept), each.accuracy) for each in found.tries],
        ),
    ]
    kept = set(found.tries[-1].kept)
    shown = list(found.sqnr) if verbose else list(found.sqnr)[: max(5, min(len(kept), 10))]
    lines.append("  worst layers (dB of signal over quantisation noise)" if not verbose else "  layers")
    lines += [f"    {found.sqnr[name]:6.1f}  {name}{'  kept in FP32' if name in kept else ''}" for name in shown]
    if found.speed is not None:
        lines.append("  ms for one utterance, single-threaded, interleaved")
        lines += [f"    {ms:8.2f}  {key}" for key, ms in found.speed.milliseconds.items()]
        lines.append(f"  speed       {found.speed.ratio} of {found.speed.replaced} ({found.speed.fastest})")
    slow = found.speed is not None and not found.speed.holds
    passed = "holds on accuracy, not faster here" if slow else "holds"
    lines.append(
        f"  gate        {f'failed on {found.failure}' if found.failure else f'{passed}: the INT8 graph was added'}"
    )
    return "\n".join(lines)


def _try(kept: int, a: Accuracy) -> tuple[str, ...]:
    scores = (
        tuple(f"{100 * before:.2f} -> {100 * after:.2f}" for before, after in (a.f1, a.accuracy))
        if a.labelled
        else (f"{a.shift:.4f}",)
    )
    return (str(kept), *scores, f"{a.error:.1e}", f"{a.relative:.1e}", f"{a.flips}/{a.decisions}", a.backend)


@contextmanager
def _folder(data: Path | None, shown: Progress) -> Iterator[tuple[Path, Path | None]]:
    """The data set, or one made for the moment, with a cache that goes with it."""
    if data is not None:
        yield data, None
        return
    from mmx.runtime.scratch import Scratch
    from mmx.training.synthetic.writer import write_synthetic

    with Scratch("calibrate") as scratch:
        folder = scratch.path / "synthetic"
        write_synthetic(folder, SYNTHETIC_SAMPLES, progress=partial(shown.update, "drawing"))
        yield folder, scratch.path / "cache"
