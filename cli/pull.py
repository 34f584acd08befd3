"""``mmx pull``: a bundle from the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

import click

from mmx.cli.command import command


@command()
@click.argument("repo")
@click.option("--out", type=click.Path(path_type=Path), help="The folder to make.  [default: the bundle's own name]")
@click.option("--yes", is_flag=True, help="Download without asking.")
def pull(repo: str, out: Path | None, yes: bool) -> None:
    """Download the bundle in REPO (OWNER/NAME, or OWNER/NAME@REVISION) from the Hugging Face Hub.

    It appears whole, with every hash checked; after a failure, the same command fetches what it lacks.
    """
    from mmx.runtime.bundle import check_whole
    from mmx.runtime.hub import PREFIX, fetch, look, parse

    offer = look(parse(repo))
    licence = offer.licence or "not stated"
    click.echo(f"{offer.repository} at {offer.commit}: {offer.bundle}, {offer.size / 1e6:.1f} MB, licence: {licence}")
    if not yes:
        click.confirm("Download it?", abort=True)
    made = fetch(offer, out or Path(offer.bundle), check_whole)
    click.echo(f"{made}\n\nthis version from now on: {PREFIX}{offer.repository}@{offer.commit}")
