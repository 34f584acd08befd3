"""``mmx profile``: where a bundle spends its time."""

from __future__ import annotations

from pathlib import Path

import click

from mmx.cli.command import Renamed, command, say
from mmx.cli.options import PRECISIONS, shared
from mmx.cli.paths import BUNDLE, OutFile


@command(name="profile", renamed=[Renamed("--json", "--out", ending=".json")])
@click.argument("bundle", type=BUNDLE)
@shared("--backend")
@shared("--precision", type=click.Choice(PRECISIONS), default="fp32", help="One that the bundle holds.")
@shared("--threads", default=1, show_default=True, help="CPU threads of the network.")
@click.option(
    "--duration", type=click.FloatRange(0.1, 600), default=4.75, show_default=True, help="Seconds of the utterance."
)
@click.option("--runs", type=click.IntRange(1, 1000), default=10, show_default=True, help="Runs to average over.")
@click.option("--top", type=click.IntRange(1), default=12, show_default=True, help="How many layers to list.")
@shared("--json", "as_json", help="Print every layer as one JSON object.")
@click.option("--out", type=OutFile(".json"), help="Write that object to this file.")
def profile(
    bundle: Path,
    backend: str,
    precision: str,
    threads: int,
    duration: float,
    runs: int,
    top: int,
    as_json: bool,
    out: Path | None,
) -> None:
    """Time every layer of BUNDLE on a backend, and show what limits it.

    The utterance is synthetic: a face each 0.5 s, a mel piece each 0.4 s, words as fast as people speak; a system on
    extracted features gets a row of noise for each of these. Rates are held against what this machine reaches in a
    large matrix product of the same backend, and in a large copy.
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
    click.echo(found.to_json().rstrip() if as_json else describe_profile(found, top))
    if out:
        write_text(out, found.to_json())
        say(f"every layer is in {out}")
