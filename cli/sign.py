"""``mmx sign``: a signature of a bundle with the user's own key."""

from __future__ import annotations

from pathlib import Path

import click

from mmx.cli.command import command
from mmx.cli.paths import BUNDLE, InPath

KEY = InPath("openssl ecparam -name prime256v1 -genkey -noout makes one (docs/trust.md)", folder=False)


@command()
@click.argument("path", metavar="BUNDLE", type=BUNDLE)
@click.option("--key", type=KEY, required=True, help="Your private key: elliptic curve, PEM.")
@click.option("--password", help="Of the key, if it has one; better in MMX_SIGN_PASSWORD than on the command line.")
def sign(path: Path, key: Path, password: str | None) -> None:
    """Sign every file of BUNDLE; the signature lies beside it (ckpt.mmx.sig)."""
    from mmx.runtime.bundle import Bundle
    from mmx.runtime.signatures import sign as make

    Bundle.open(path)  # what is damaged is not signed
    click.echo(f"{make(path, key, password)}\n\nnext:\n  mmx verify {path} --key PUBLIC.pem")
