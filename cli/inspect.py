"""``mmx inspect``: what is in a checkpoint or a bundle. A bundle needs no torch: its manifest has it all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from mmx.cli.command import command
from mmx.cli.free_parts import free_parts_of
from mmx.cli.options import shared
from mmx.cli.paths import BUNDLE
from mmx.cli.render import printable
from mmx.runtime.errors import BadDataError, UsageError
from mmx.runtime.to_json import to_json

RESIDUAL = ("merge", "keep", "auto")


@command()
@click.argument("path", type=BUNDLE)
@click.option(
    "--residual",
    type=click.Choice(RESIDUAL),
    help="For a checkpoint: fold its residual-free blocks this way (as mmx export --residual).",
)
@shared("--system", help="For a checkpoint that does not say which system of mmx systems it is.")
@shared("--dataset", type=str, help="For a checkpoint that does not say what its labels are.")
@click.option("--card", is_flag=True, help="For a bundle: its model card, with what was measured since, as Markdown.")
@shared("--json", "as_json")
def inspect(
    path: Path, residual: str | None, system: str | None, dataset: str | None, card: bool, as_json: bool
) -> None:
    """Show what is in PATH: a checkpoint (ckpt.pt), a bundle (ckpt.mmx) or a TensorRT engine (x.engine).

    \b
    Both: what is folded and what is not and why; parameters and multiply-accumulates by trunk, before and after.
    A bundle also: its graph with its inputs and outputs, the parity measured when it was made, its variants and why
    one is not used, its files (every hash is checked) and how it was made. Nothing is written.
    """
    if card:
        if as_json or not path.is_dir():
            raise UsageError("--card shows the card of a bundle, as Markdown", f"mmx inspect --card {path}")
        click.echo(_card(path), nl=False)
        return
    given = {"--residual": residual, "--system": system, "--dataset": dataset}
    if path.suffix == ".engine":
        if asked := [name for name, value in given.items() if value is not None]:
            raise UsageError(f"{asked[0]} is for checkpoints; {path} is an engine", f"mmx inspect {path}")
        click.echo(_engine(path, as_json))
        return
    if path.is_dir():
        if asked := [name for name, value in given.items() if value is not None]:
            raise UsageError(f"{asked[0]} is for checkpoints; {path} is a bundle", f"mmx inspect {path}")
        found = inspect_bundle(path)
    else:
        found = inspect_checkpoint(path, residual or "auto", system, dataset)
    if as_json:
        click.echo(to_json(found))
        return
    with free_parts_of(path, "mmx inspect --json shows it; run mmx export again"):
        lines = list(_lines(found))
    for line in lines:
        click.echo(printable(line))


def _engine(path: Path, as_json: bool) -> str:
    """What an engine's record holds. Errors: as ``describe_engine``."""
    from mmx.runtime.engines import describe_engine, read_engine

    if as_json:
        return read_engine(path).record.to_json().rstrip()
    with free_parts_of(path, "mmx inspect --json shows it; mmx build-engine --force makes it again"):
        return "\n".join(map(printable, describe_engine(path).splitlines()))


def _card(path: Path) -> str:
    from mmx.runtime.bundle import Bundle
    from mmx.runtime.card import model_card

    bundle = Bundle.open(path)
    with free_parts_of(path, "run mmx export again"):
        return model_card(bundle.manifest, path.absolute().name, [each.record for each in bundle.variants])


def inspect_checkpoint(path: Path, residual: str, system: str | None, dataset: str | None) -> dict[str, Any]:
    """Load, fold and count a checkpoint; plain data. Errors: as ``load_checkpoint`` and ``fold``."""
    import torch

    from mmx.export.folding.fold import fold
    from mmx.export.specs import spec_for
    from mmx.models.checkpoint import load_checkpoint
    from mmx.models.counting import count

    loaded = load_checkpoint(path, system=system, dataset=dataset)
    folded, records = fold(loaded.module, residual)  # type: ignore[arg-type]
    spec = spec_for(loaded.module)
    example = {tensor.name: torch.from_numpy(spec.cases[spec.counted][tensor.name]) for tensor in spec.inputs}

    def counts(module: torch.nn.Module) -> dict[str, Any]:
        return {part: asdict(counted) for part, counted in count(module, example).items()}

    return {
        "kind": "checkpoint",
        "path": str(path),
        "bytes": path.stat().st_size,
        "sha256": loaded.sha256,
        "system": loaded.system,
        "form": loaded.form,
        "dataset": loaded.dataset,
        "labels": list(loaded.labels),
        "thresholds": list(loaded.thresholds),
        "config": loaded.config,
        "notes": list(loaded.notes),
        "residual": residual,
        "counts": {"case": spec.counted, "checkpoint": counts(loaded.module), "graph": counts(folded)},
        "folding": [asdict(record) for record in records],
    }


def inspect_bundle(path: Path) -> dict[str, Any]:
    """Open a bundle, check every hash, and give what its manifest and its variants' records hold; plain data.

    A variant that was changed is among those passed over. Errors: as ``Bundle.open``.
    """
    from mmx.runtime.bundle import Bundle
    from mmx.runtime.variants import PassedOver, check_files

    bundle = Bundle.open(path, verify=True)
    found = {"kind": "bundle", "path": str(path), "identity": bundle.identity, **asdict(bundle.manifest)}
    hashes: Mapping[str, str] = found["files"]
    found["files"] = {n: {"sha256": digest, "bytes": (path / n).stat().st_size} for n, digest in hashes.items()}
    passed, found["variants"] = list(bundle.passed_over), {}
    for variant in bundle.variants:
        try:
            check_files(variant)
        except BadDataError as e:
            passed.append(PassedOver(variant.name, e.message, variant.record.precision))
        else:
            size = sum((variant.path / name).stat().st_size for name in variant.record.files)
            found["variants"][variant.name] = {"bytes": size, **asdict(variant.record)}
    found["passed_over"] = {each.name: each.reason for each in passed}
    return found


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The report for people."""
    yield f"{found['path']}: {found['system']}, {found['form']} form, {found['dataset']}"
    labels = zip(found["labels"], found["thresholds"], strict=True)
    yield "  labels      " + "  ".join(f"{label} >{threshold:.2f}" for label, threshold in labels)
    if found["kind"] == "bundle":
        yield from _bundle_lines(found)
        counts = found["provenance"].get("counts")
    else:
        yield f"  file        {found['bytes'] / 1e6:.1f} MB, SHA-256 {found['sha256']}"
        yield from (f"  note        {note}" for note in found["notes"])
        counts = found["counts"]
    if counts:
        yield ""
        yield from _count_lines(counts)
    for title, applied in (("folded", True), ("not folded", False)):
        if records := [record for record in found["folding"] if record["applied"] is applied]:
            yield from ("", title, *_fold_lines(records))


def _bundle_lines(found: Mapping[str, Any]) -> Iterator[str]:
    weights = "  ".join(f"{name} {weight:+.3f}" for name, weight in found["fusion_weights"].items())
    yield f"  fusion      {weights or 'none: ' + ', '.join(found['modalities']) + ' go through the network together'}"
    made = found["provenance"]
    checkpoint = made.get("checkpoint", {})
    if "command" in made:
        yield f"  made by     {made['command']}"
    if checkpoint:
        yield f"  made from   {checkpoint['file']}, SHA-256 {checkpoint['sha256']}"
        yield from (f"  note        {note}" for note in checkpoint.get("notes", ()))
    yield f"  licence     {made.get('license') or 'not stated'} (of the weights)"
    yield f"  card        mmx inspect --card {found['path']}"
    if "versions" in made:
        yield "  made with   " + ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    for precision, graph in found["graphs"].items():
        size = found["files"][graph["file"]]["bytes"]
        yield from ("", f"graph {graph['file']}: {precision}, opset {graph['opset']}, {size / 1e6:.1f} MB")
        yield f"  parity      {_parity(graph['parity'])}"
        for title, tensors in (("inputs", graph["inputs"]), ("outputs", graph["outputs"])):
            for i, tensor in enumerate(tensors):
                yield f"  {title if i == 0 else '':10}  {tensor['name']:15} {tensor['dtype']:8} {_axes(tensor)}"
    yield from ("", f"files: {len(found['files'])}, every SHA-256 as the manifest says")
    width = max(map(len, found["files"]))
    for name, file in found["files"].items():
        yield f"  {name:{width}}  {file['bytes']:>12,}  {file['sha256'][:16]}"
    for name, variant in found["variants"].items():
        made = f"{variant['bytes'] / 1e6:.1f} MB, made {variant['created'][:10]}"
        yield from ("", f"variant {name}: {variant['precision']} {variant['kind']}, {made}")
        if variant["kind"] not in ("ranges", "evaluation"):
            yield f"  measured    {_parity(variant['verification'])}"
    if found["passed_over"]:
        yield from ("", "not used")
        yield from (f"  {name}: {reason}" for name, reason in found["passed_over"].items())


def _axes(tensor: Mapping[str, Any]) -> str:
    return f"[{', '.join(map(str, tensor['axes']))}]"


def _parity(record: Mapping[str, Any]) -> str:
    """The parity that was measured when a graph was made, in a line."""
    if "worst" in record:
        where = f"over {len(record['cases'])} batches against {record['reference']}"
        return f"worst relative error {record['worst']:.1e}, {record['tolerance']:.0e} allowed, {where}"
    if "tries" in record:
        last = record["tries"][-1]["accuracy"]
        worst = f"largest logit error {last['error']:.1e} against FP32"
        return f"{worst}, {last['flips']} of {last['decisions']} labels flipped"
    if "max_error" in record:
        worst = f"largest logit error {record['max_error']:.1e}, {record['tolerance']:.0e} allowed"
        return f"{worst}, {record['label_flips']} of {record['decisions']} labels flipped"
    return "not recorded"


def _count_lines(counts: Mapping[str, Any]) -> Iterator[str]:
    """Parameters and multiply-accumulates by trunk, before and after folding, and their sums."""
    from mmx.view.terminal import text_table

    before, after = counts["checkpoint"], counts["graph"]
    parts = [*before, *(part for part in after if part not in before)]
    sides = [(side, key) for key in ("parameters", "macs") for side in (before, after)]
    rows = [(part, *(side.get(part, {}).get(key, 0) for side, key in sides)) for part in parts]
    total = ("total", *(sum(row[i] for row in rows) for i in range(1, 5)))
    header = ("", "parameters", "folded", "multiply-accumulates", "folded")
    cells = [(name, *(f"{number:,}" for number in numbers)) for name, *numbers in (*rows, total)]
    yield from text_table(header, cells).splitlines()
    case = f" of {counts['case']}" if "case" in counts else ""
    yield f"Parameters include unused heads, as the paper counts them; multiply-accumulates{case}."


def _fold_lines(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """One line for each fold and reason, with the modules it speaks of."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for record in records:
        grouped.setdefault((record["fold"], record["reason"]), []).append(record["module"])
    for (fold, reason), modules in grouped.items():
        yield f"  {fold:13}  {', '.join(modules)}: {reason}"
