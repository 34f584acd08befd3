"""``mmx push``: a bundle to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

import click

from mmx.cli.command import command
from mmx.cli.paths import BUNDLE


@command()
@click.argument("path", metavar="BUNDLE", type=BUNDLE)
@click.argument("repo")
@click.option("--private", is_flag=True, help="Make a new repository private.")
def push(path: Path, repo: str, private: bool) -> None:
    """Upload BUNDLE to REPO (OWNER/NAME, or OWNER/NAME@BRANCH) on the Hugging Face Hub, with its model card.

    Log in first, with the Hub's own client (hf auth login) or HF_TOKEN. The repository is made if there is none.
    """
    from mmx.export.push import push as upload
    from mmx.runtime.bundle import Bundle
    from mmx.runtime.hub import PREFIX, parse

    remote = parse(repo)
    commit = upload(Bundle.open(path), remote, private=private)
    click.echo(f"{remote.repository} at {commit}")
    click.echo(f"\nnext:\n  mmx predict {PREFIX}{remote.repository}@{commit} FILE")
