"""``mmx package``: a bundle packed for the Triton Inference Server, or as a Docker image of ``mmx serve``."""

from __future__ import annotations

from pathlib import Path

import click

from mmx.cli.command import Renamed, command
from mmx.cli.options import PRECISIONS, shared
from mmx.cli.paths import BUNDLE
from mmx.runtime.errors import UsageError


@command(renamed=[Renamed("--instances", "--workers")])
@click.argument("bundle", type=BUNDLE)
@click.option("--triton", type=click.Path(path_type=Path), help="Write a Triton model repository into this new folder.")
@click.option("--docker", type=click.Path(path_type=Path), help="Write the folder of a Docker image of mmx serve.")
@shared(
    "--backend",
    type=click.Choice(["onnxruntime", "tensorrt"]),
    default="onnxruntime",
    help="--triton: what runs the network; tensorrt takes the bundle's engine.",
)
@shared(
    "--precision", type=click.Choice(PRECISIONS), default="fp32", help="--triton: which graph or engine of the bundle."
)
@click.option("--name", default="mmx", show_default=True, help="--triton: what the models are called.")
@shared("--workers", default=2, show_default=True, help="--triton: processes that read media.")
def package(
    bundle: Path,
    triton: Path | None,
    docker: Path | None,
    backend: str,
    precision: str,
    name: str,
    workers: int,
) -> None:
    """Pack BUNDLE for Triton or Docker, and print the commands that build and start the server.

    \b
    mmx package ckpt.mmx --triton models
    mmx package ckpt.mmx --docker image
    """
    if triton is None and docker is None:
        raise UsageError("nothing was asked for", "mmx package ckpt.mmx --triton DIR, or --docker DIR")
    if not (name.isascii() and name.replace("_", "").replace("-", "").isalnum()):
        raise UsageError(f"--name {name!r} is not a name for a model", "letters, digits, _ and -")
    from mmx.runtime.bundle import Bundle
    from mmx.serving.packaging.docker import write_docker
    from mmx.serving.packaging.triton import write_repository

    opened = Bundle.open(bundle)
    commands = []
    if triton is not None:
        commands += write_repository(opened, triton, name=name, backend=backend, precision=precision, instances=workers)
    if docker is not None:
        commands += write_docker(opened, docker)
    click.echo("\n".join([*(f"{folder}" for folder in (triton, docker) if folder), "", "next:"]))
    click.echo("\n".join(f"  {command}" for command in commands))
