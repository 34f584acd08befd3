"""``mmx train``: a data set becomes a checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmx.cli.command import command, note, say
from mmx.cli.options import shared
from mmx.cli.paths import InPath
from mmx.cli.reading import Reading, reads_data, say_wrong_rows

if TYPE_CHECKING:
    from mmx.training.trainer import Epoch


@command()
@click.argument("dataset", metavar="iemocap|mosei|DIR|TABLE")
@shared("--data", metavar="DIR", help="Where iemocap or mosei is.")
@click.option("--out", type=click.Path(path_type=Path), default="run", show_default=True, help="Folder to write.")
@shared("--system", default="ours", show_default=True)
@click.option("--preset", default="full", show_default=True, help="full, or tiny: narrow and shallow, for a CPU.")
@click.option("--form", help="ours: residual or reserved; both export to the same deployed graph.")
@click.option("--modalities", metavar="LIST", help="Train on these only, such as text,audio.  [default: all three]")
@shared("--tokenizer")
@click.option("--init", type=InPath(folder=False), help="Start from the tensors of this file that fit.")
@shared("--compat", default="default", show_default=True, help="upstream: read the data set as the public loader does.")
@reads_data
@shared("--resume", help="Go on where the training in --out stopped.")
@click.option(
    "--save-every",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Steps between two saved states that --resume can go on from.",
)
@shared("--seed", help="Of the weights and of the order of samples.")
@click.option("--epochs", type=click.IntRange(min=1), help="Epochs at most.  [default: 30, as in the paper]")
@click.option("--patience", type=click.IntRange(min=1), help="Epochs to wait for a better validation F1.")
@shared("--batch-size", help="Utterances in a batch.  [default: 8, as in the paper; tiny: 16]")
@click.option("--learning-rate", type=float, help="Adam's.  [default: 4.5e-6, as in the paper; tiny: 3e-3]")
@click.option(
    "--augment",
    metavar="LIST",
    help="Train with faults, drawn anew each epoch: noise, babble, reverb, codec, blur, dark, lowres, asr-errors, "
    "flip, or all; noise:10 is that severity alone (docs/training.md).",
)
@click.option(
    "--augment-share",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.5,
    show_default=True,
    help="Share of the samples that get a fault, for each modality.",
)
@click.option("--balanced", is_flag=True, help="Draw samples so that labels are about equally frequent.")
@shared("--device")
@click.option("--mixed/--no-mixed", default=None, help="bfloat16 where it is safe.  [default: on a GPU that has it]")
@shared("--threads", help="CPU threads.  [default: all cores]")
@shared("--cache")
def train(
    dataset: str,
    data: Path | None,
    out: Path,
    system: str,
    preset: str,
    form: str | None,
    modalities: str | None,
    tokenizer: Path | None,
    init: Path | None,
    compat: str,
    reading: Reading,
    resume: bool,
    save_every: int,
    seed: int,
    epochs: int | None,
    patience: int | None,
    batch_size: int | None,
    learning_rate: float | None,
    augment: str | None,
    augment_share: float,
    balanced: bool,
    device: str | None,
    mixed: bool | None,
    threads: int | None,
    cache: Path | None,
) -> None:
    """Train a system on a processed data set, by the paper's recipe, and keep its best epoch in OUT/ckpt.pt.

    \b
    mmx synth data && mmx train data --preset tiny      minutes on a CPU
    mmx train iemocap --data IEMOCAP --init albert.pt   the real thing
    mmx train clips.csv --preset tiny                   your own: docs/own_data.md
    torchrun --nproc-per-node 4 -m mmx.cli train ...    on four GPUs
    """
    import torch

    from mmx.training.parallel import leads
    from mmx.training.recipe import recipe_for
    from mmx.training.session import Plan, train_system
    from mmx.view.terminal import Progress

    if threads:
        torch.set_num_threads(threads)
    found = reading.find(dataset, data)
    say_wrong_rows(found)
    given: dict[str, Any] = {
        "epochs": epochs,
        "patience": patience,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "modalities": tuple(modalities.split(",")) if modalities else None,
    }
    on_gpu = device != "cpu" and torch.cuda.is_available()
    recipe = replace(
        recipe_for(preset),
        seed=seed,
        balanced=balanced,
        augment=augment or "",
        augment_share=augment_share,
        mixed=(on_gpu and torch.cuda.is_bf16_supported()) if mixed is None else mixed,
        **{name: value for name, value in given.items() if value is not None},
    )
    plan = Plan(system, preset, form, tokenizer, init, device or "auto", save_every, compat)
    if leads():
        say(f"{system} ({preset}) on {found.name}: {recipe}")
    with Progress(quiet_elsewhere=True) as shown:
        trained = train_system(
            found,
            out,
            plan,
            recipe,
            resume=resume,
            cache=cache,
            tick=shown.update if leads() else None,
            report=lambda epoch: shown.say(_describe(epoch)),
        )
    if not leads():
        return
    for each in trained.notes:
        note(each)
    best = max(trained.history, key=lambda epoch: (epoch.best, epoch.number))
    click.echo(
        f"{trained.checkpoint}: epoch {best.number} of {len(trained.history)}, "
        f"validation F1 {best.f1:.3f}, accuracy {best.accuracy:.3f}"
    )
    again = f"--data {found.root}{reading.again}"
    click.echo(f"\nnext:\n  mmx eval {trained.checkpoint} {again}\n  mmx export {trained.checkpoint}")


def _describe(epoch: Epoch) -> str:
    """What an epoch came to."""
    return (
        f"epoch {epoch.number:3}  loss {epoch.loss:.4f}  validation F1 {epoch.f1:.3f}  "
        f"accuracy {epoch.accuracy:.3f}{'  best' * epoch.best}"
    )
