"""``mmx asr``: the speech models of this machine, and the only command that downloads one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import click

from mmx.cli.command import Group
from mmx.runtime.errors import EnvironmentMissing, missing_extra

FILES = ["*.bin", "*.json", "*.txt", "*.onnx", "*.onnx.data"]  # what the recognisers read


@click.group(cls=Group)
def asr() -> None:
    """List the speech models on this machine, or download one."""


@asr.command("list")
def list_models() -> None:
    """List the models on this machine, and the one that --asr auto takes."""
    from mmx.runtime.speech.find import VARIABLE, automatic, cached_models

    for name in cached_models():
        click.echo(name)
    chosen = automatic()
    source = f" ({VARIABLE})" if os.environ.get(VARIABLE) else ""
    click.echo(f"--asr auto takes {chosen}{source}" if chosen else "--asr auto finds none: mmx asr pull small")


@asr.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Download without asking.")
def pull(name: str, yes: bool) -> None:
    """Download a model from the Hugging Face Hub into its cache, after showing size and licence.

    \b
    mmx asr pull small            multilingual Whisper; also tiny, base, medium, large-v3, tiny.en, ...
    mmx asr pull OWNER/NAME       any CTranslate2 Whisper or onnx-asr model
    """
    from mmx.runtime.speech.find import repository_of

    try:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.utils import filter_repo_objects
    except ImportError as e:
        raise missing_extra("huggingface_hub", "asr") from e
    repository = repository_of(name)
    with _download_errors(repository):
        info = HfApi().model_info(repository, files_metadata=True)
    wanted = filter_repo_objects(info.siblings or [], allow_patterns=FILES, key=lambda file: file.rfilename)
    size = sum(file.size or 0 for file in wanted)
    licence = getattr(info.card_data, "license", None) or "not stated"
    click.echo(f"{repository} at {info.sha}: {size / 1e6:.0f} MB, licence: {licence}")
    if not yes:
        click.confirm("Download it?", abort=True)
    with _download_errors(repository):
        folder = snapshot_download(repository, allow_patterns=FILES)
    click.echo(f"{folder}\nmmx predict ... --asr {name}")


@contextmanager
def _download_errors(repository: str) -> Iterator[None]:
    """One line for whatever the Hub's client and its HTTP library raise: they have no base class in common."""
    try:
        yield
    except Exception as e:
        reason = (str(e).splitlines() or [type(e).__name__])[0]
        raise EnvironmentMissing(
            f"{repository} cannot be downloaded: {reason}", "check its name and the network"
        ) from e
