"""``mmx profile``: where a bundle spends its time."""

from __future__ import annotations

from pathlib import Path

import click

from mmx.cli.out_file import OutFile
from mmx.runtime.backends import MODULES


@click.command(name="profile")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--backend", default="auto", show_default=True, help=f"auto, {', '.join(MODULES)}.")
@click.option("--precision", default="fp32", show_default=True, help="A precision of the bundle, or bf16 (openvino).")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="CPU threads.")
@click.option(
    "--duration", type=click.FloatRange(0.1, 600), default=4.75, show_default=True, help="Seconds of the utterance."
)
@click.option("--runs", type=click.IntRange(1, 1000), default=10, show_default=True, help="Runs to average over.")
@click.option("--top", type=click.IntRange(1), default=12, show_default=True, help="How many layers to list.")
@click.option("--json", "json_file", type=OutFile(), help="Write every layer to this file.")
def profile(
    bundle: Path,
    backend: str,
    precision: str,
    threads: int,
    duration: float,
    runs: int,
    top: int,
    json_file: Path | None,
) -> None:
    """Time every layer of BUNDLE on a backend, and say what limits it.

    The utterance is synthetic: a face each 0.5 s, a mel piece each 0.4 s, words as fast as people speak; a system on
    extracted features gets a row of noise for each of these. Rates are held against what this machine reaches in a
    large matrix product of the same engine, and in a large copy.
    """
    from mmx.benchmarks.contenders.features import with_features
    from mmx.benchmarks.profiling.profile import profile as measure
    from mmx.benchmarks.profiling.text import describe_profile
    from mmx.benchmarks.workload.utterances import make_sample, utterance_of
    from mmx.runtime.bundle import Bundle
    from mmx.runtime.files import write_text
    from mmx.runtime.packing import inputs_for

    opened = Bundle.open(bundle)
    utterance = utterance_of(duration)
    inputs = inputs_for(opened.manifest, [with_features(make_sample(utterance), utterance)])
    found = measure(opened, inputs, backend=backend, precision=precision, threads=threads, runs=runs)
    click.echo(describe_profile(found, top))
    if json_file:
        write_text(json_file, found.to_json())
        click.echo(f"every layer is in {json_file}")
