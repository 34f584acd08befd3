"""``mmx verify``: a bundle against its signature."""

from __future__ import annotations

from pathlib import Path

import click

from mmx.cli.command import command
from mmx.cli.paths import BUNDLE, InPath


@command()
@click.argument("path", metavar="BUNDLE", type=BUNDLE)
@click.option("--key", type=InPath(folder=False), required=True, help="The signer's public key, PEM.")
def verify(path: Path, key: Path) -> None:
    """Compare every file of BUNDLE with its signature: what was changed, added or removed since is an error.

    With MMX_VERIFY_KEY=PUBLIC.pem, each command, server and Python program does so when it opens a bundle.
    """
    from mmx.runtime.signatures import verify as check

    check(path, key)
    click.echo(f"{path}: every file is as it was signed")
