"""``mmx systems``: what the registry knows, without building anything (no torch)."""

from __future__ import annotations

import click

from mmx.cli.command import command
from mmx.cli.options import shared
from mmx.models.registry import SYSTEMS, System
from mmx.runtime.to_json import to_json

PARTS = ("text", "visual", "audio", "total")


@command()
@shared("--json", "as_json", help="Print JSON, with every preset's config names and exact counts.")
def systems(as_json: bool) -> None:
    """List the systems that mmx knows, with their parameters by trunk as the paper counts them."""
    click.echo(to_json([_record(s) for s in SYSTEMS.values()]) if as_json else _table())


def _record(system: System) -> dict[str, object]:
    return {
        "name": system.name,
        "title": system.title,
        "inputs": system.inputs,
        "modalities": list(system.modalities),
        "parameters": dict(system.parameters),
        "presets": list(system.presets),
    }


def _table() -> str:
    from mmx.view.terminal import text_table

    table = text_table(("system", "made of", "inputs", *PARTS), [_row(system) for system in SYSTEMS.values()])
    below = ["Parameters count unused heads, as the paper does.", *filter(None, map(_others, SYSTEMS.values()))]
    return "\n".join([table, "", *below])


def _others(system: System) -> str:
    """The totals of its other forms, "" if there are none."""
    total = system.parameters["total"]
    counts = {name: count for name, count in system.parameters.items() if name not in PARTS}
    if published := counts.pop("published", 0):
        return f"The public {system.name} holds a face detector of {published - total:,} as well: {published:,}."
    others = [f"{count:,} with {system.presets[name].labels}" for name, count in counts.items()]
    return f"With other numbers of outputs, {system.name} has {', '.join(others)}." if others else ""


def _row(system: System) -> tuple[str, ...]:
    counts = (f"{system.parameters[part]:,}" if part in system.parameters else "" for part in PARTS)
    return (system.name, system.title, system.inputs, *counts)
