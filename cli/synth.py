"""``mmx synth``: a synthetic data set to train, score and calibrate on."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from mmx.cli.command import command
from mmx.cli.options import shared


@command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@shared("--samples", type=click.IntRange(min=0), default=1200, show_default=True, help="Utterances in all.")
@shared("--seed")
@click.option(
    "--clips",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Also write this many MP4 clips of each emotion, of faces that are in no data set.",
)
def synth(folder: Path, samples: int, seed: int, clips: int) -> None:
    """Write a synthetic data set to DIR, in the layout of processed MOSEI: faces, voices and words of six emotions.

    It is a test bed: drawn faces, synthesised voices, composed sentences. Scores on it say nothing about people
    (docs/training.md: how it is made, and the best possible scores).
    """
    from mmx.runtime.machine import usable_cores
    from mmx.training.synthetic.ideal import ideal
    from mmx.training.synthetic.writer import EMOTIONS, NOTE, write_synthetic
    from mmx.view.terminal import Progress

    with Progress(quiet_elsewhere=True) as shown:
        tick = partial(shown.update, "drawing")
        counts = write_synthetic(folder, samples, seed, clips=clips, workers=usable_cores(), progress=tick)
    best = ideal()
    made = [f"{count} {split}" for split, count in counts.items()] + [f"{len(EMOTIONS) * clips} clips"] * bool(clips)
    click.echo(f"{folder}: {', '.join(made)}")
    click.echo(f"  {NOTE}")
    click.echo(
        f"  best possible accuracy: text {best.text:.1%}, face {best.visual:.1%}, voice {best.audio:.1%}, "
        f"all three {best.all:.1%}; chance {1 / 6:.1%}"
    )
    first = folder / "clips" / f"{EMOTIONS[0]}_0"
    follows = f"train {folder} --preset tiny" if counts else f"predict BUNDLE {first}.mp4 --transcript {first}.txt"
    click.echo(f"\nnext:\n  mmx {follows}")
