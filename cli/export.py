"""``mmx export``: a checkpoint becomes a bundle."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmx.cli.command import Renamed, command, note, quiet, verbose
from mmx.cli.options import shared
from mmx.cli.paths import InPath
from mmx.models.description import read_description
from mmx.runtime.packing import INPUTS

if TYPE_CHECKING:
    from mmx.export.exporter import ExportReport, Progress
    from mmx.models.folding import Residual
    from mmx.models.network_tensors import Weights


@command(renamed=[Renamed("--config", "--model-config")])
@click.argument("checkpoint", type=InPath(folder=False))
@click.option("--out", type=click.Path(path_type=Path), help="The bundle's folder.  [default: ckpt.mmx beside ckpt.pt]")
@click.option(
    "--residual",
    type=click.Choice(["auto", "merge", "keep"]),
    default="auto",
    show_default=True,
    help="Residual-free blocks: merge them into plain convolutions, keep the shortcut, or what was measured faster.",
)
@click.option("--modalities", metavar="LIST", help="Keep only these, such as text,audio.  [default: all]")
@shared(
    "--tokenizer",
    help="Folder with ALBERT's spiece.model or tokenizer.json.  [default: beside the checkpoint, then the Hugging Face "
    "cache]",
)
@click.option(
    "--labels",
    "labels_file",
    type=InPath(folder=False),
    help="File with the labels of the outputs: one a line, or JSON with labels and thresholds.",
)
@click.option(
    "--model-config",
    "config_file",
    type=InPath(folder=False),
    help="JSON or TOML file with what the tensors do not say, such as heads; it may be partial (docs/checkpoints.md).",
)
@click.option(
    "--weights",
    type=click.Choice(["auto", "ema", "raw"]),
    default="auto",
    show_default=True,
    help="Averaged or raw weights, where the checkpoint has both. auto: the averaged ones.",
)
@shared(
    "--dataset", type=str, help="iemocap, mosei or, with --labels, a name of your own, where the checkpoint says none."
)
@shared("--system", help="For a checkpoint that does not say which system of mmx systems it is.")
@shared(
    "--compat",
    help="upstream: media and data sets are read as the public code does, for a public checkpoint.  [default: as the "
    "checkpoint says]",
)
@click.option("--license", "licence", metavar="NAME", help="Of the weights, for the card, such as cc-by-nc-4.0.")
def export(
    checkpoint: Path,
    out: Path | None,
    residual: Residual,
    modalities: str | None,
    tokenizer: Path | None,
    labels_file: Path | None,
    config_file: Path | None,
    weights: Weights,
    dataset: str | None,
    system: str | None,
    compat: str | None,
    licence: str | None,
) -> None:
    """Turn CHECKPOINT (ckpt.pt) into a bundle (ckpt.mmx), and check its parity with PyTorch."""
    described = read_description(labels_file, config_file)
    with _progress() as progress:
        progress("start PyTorch", None)
        start = time.perf_counter()
        from mmx.export.exporter import export_bundle

        progress("start PyTorch", time.perf_counter() - start)
        report = export_bundle(
            checkpoint,
            out,
            residual=residual,
            modalities=None if modalities is None else [name.strip() for name in modalities.split(",")],
            tokenizer=tokenizer,
            dataset=dataset,
            system=system,
            weights=weights,
            described=described,
            compat=compat,
            licence=licence,
            progress=progress,
        )
    click.echo("\n".join([*(details(report) if verbose() else ()), *summary(report)]))
    for each in report.notes:
        note(each)
    click.echo("\n".join(["", "next:", *next_commands(report)]))


def summary(report: ExportReport) -> list[str]:
    """What was made, a line each."""
    manifest, counts = report.manifest, report.manifest.provenance["counts"]
    parameters, macs = (
        [sum(part[what] for part in counts[side].values()) for side in ("checkpoint", "graph")]
        for what in ("parameters", "macs")
    )
    done = Counter(record.fold for record in report.folds if record.applied)
    folds = ", ".join(f"{count} {fold}" for fold, count in done.items())
    return [
        f"{report.path}",
        f"  system      {manifest.system}, {manifest.form} form, {manifest.dataset}: {' '.join(manifest.labels)}",
        f"  modalities  {' '.join(manifest.modalities)}",
        f"  folded      {folds or 'nothing'} (mmx inspect {_quoted(report.path)} says what and why)",
        f"  parameters  {parameters[0]:,} -> {parameters[1]:,}",
        f"  arithmetic  {macs[0] / 1e6:,.0f} -> {macs[1] / 1e6:,.0f} million multiply-adds for one utterance",
        f"  parity      worst relative error {report.parity.worst:.1e} in {len(report.parity.errors)} cases",
        f"  size        {report.size / 1e6:.1f} MB",
        f"  time        {sum(report.seconds.values()):.1f} s",
    ]


def details(report: ExportReport) -> list[str]:
    """Every fold with its reason and every parity case, a line each."""
    folds = [
        f"{'folded' if record.applied else 'kept':6}  {record.fold:13}  {record.module}: {record.reason}"
        for record in report.folds
    ]
    cases = [f"parity  {max(outputs.values()):.1e}  {case}" for case, outputs in report.parity.errors.items()]
    return [*folds, *cases, ""]


def next_commands(report: ExportReport) -> list[str]:
    """What to type now, as it can be pasted."""
    bundle, inputs = _quoted(report.path), report.manifest.graphs["fp32"].input_names
    if not set(inputs) <= set(INPUTS):
        return [f"  mmx inspect {bundle}", f"  mmx profile {bundle}"]
    reads = any(name.startswith("tokenizer/") for name in report.manifest.files)
    said = ' --text "what is said in it"' if reads else ""
    return [f"  mmx predict {bundle} video.mp4{said}", f"  mmx inspect {bundle}"]


@contextmanager
def _progress() -> Iterator[Progress]:
    """Prints each stage when it starts and its time on the same line when it ends, to stderr."""
    open_line = False

    def show(stage: str, seconds: float | None) -> None:
        nonlocal open_line
        if quiet():
            return
        open_line = seconds is None
        click.echo(f"  {stage:22}" if seconds is None else f"{seconds:6.1f} s", err=True, nl=seconds is not None)

    try:
        yield show
    finally:
        if open_line:  # an error or Ctrl-C in the middle of a stage
            click.echo(err=True)


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
