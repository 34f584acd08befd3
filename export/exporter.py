"""``ckpt.pt`` -> ``ckpt.mmx``: load, fold, export, check parity, write; everything or nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from mmx.export import batches, parity
from mmx.export.assets import check_tokenizer, copy_tokenizer, find_face_nets, find_tokenizer
from mmx.export.bundle_writer import bundle_folder, hash_files, write_manifest
from mmx.export.describe import GRAPH, describe
from mmx.export.face_nets import build_face_nets
from mmx.export.folding.fold import FoldRecord, fold
from mmx.export.graph import to_onnx
from mmx.export.specs import spec_for
from mmx.models.checkpoint import Checkpoint, load_checkpoint
from mmx.models.folding import Residual
from mmx.models.multimodal import MultimodalSystem
from mmx.models.network_tensors import Weights
from mmx.models.registry import get_system
from mmx.runtime.card import CARD, model_card
from mmx.runtime.errors import UsageError
from mmx.runtime.manifest import Manifest

SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
STAGES = ("load the checkpoint", "fold", "export the graph", "write the graph", "check parity", "finish the bundle")

Progress = Callable[[str, float | None], None]
"""Called with a stage of ``STAGES`` and None when it starts, and with its seconds when it is done."""

NO_TOKENIZER = (
    "no tokenizer was found (spiece.model or tokenizer.json of albert-base-v2): the bundle cannot read text; "
    "export again with --tokenizer DIR, or put the file beside the checkpoint"
)


@dataclass(frozen=True)
class ExportReport:
    """What an export made.

    Attributes:
        path: the bundle. manifest: what is in it. size: its bytes.
        parity: the errors against PyTorch. folds: what was folded and what not, and why.
        notes: what the user should know of the checkpoint, and what the bundle lacks.
        seconds: by stage.
    """

    path: Path
    manifest: Manifest
    size: int
    parity: parity.Parity
    folds: tuple[FoldRecord, ...]
    notes: tuple[str, ...]
    seconds: dict[str, float]


def default_out(checkpoint: Path) -> Path:
    """``ckpt.mmx`` beside ``ckpt.pt``; ``run.7.mmx`` beside ``run.7``, so that no two checkpoints share a bundle."""
    return checkpoint.with_name((checkpoint.stem if checkpoint.suffix in SUFFIXES else checkpoint.name) + ".mmx")


def export_bundle(
    checkpoint: Path | str,
    out: Path | str | None = None,
    *,
    residual: Residual = "auto",
    modalities: Sequence[str] | None = None,
    tokenizer: Path | str | None = None,
    dataset: str | None = None,
    system: str | None = None,
    weights: Weights = "auto",
    described: Mapping[str, Any] | None = None,
    compat: str | None = None,
    licence: str | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Export a checkpoint to a bundle, and check that the bundle's graph gives the checkpoint's outputs.

    Args:
        checkpoint: see ``models.checkpoint.load_checkpoint``.
        out: the bundle's folder; ``ckpt.mmx`` beside ``ckpt.pt`` if None. A bundle that is there is replaced.
        residual: what becomes of residual-free blocks: merge | keep | auto (the faster form where it was measured).
        modalities: those to keep (text, visual, audio); None: all. The graph has no inputs, tower or logits of the
            others, and its fused logits are the sum over those kept.
        tokenizer: a folder with ``spiece.model`` or ``tokenizer.json``; if None they are looked for.
        dataset, system, weights, described: what the checkpoint is, where it does not say; see ``load_checkpoint``.
        compat: default or upstream, which preprocessing the checkpoint was trained with; None: what it says.
        licence: of the weights, for the card: an SPDX identifier such as ``cc-by-nc-4.0``.
        progress: see ``Progress``.

    Raises:
        ParityError: the graph is further from the PyTorch system than the tolerance.
        BadDataError, UsageError, EnvironmentMissing: of the checkpoint, the arguments, the machine.
        After any of them, and after Ctrl-C, nothing new is on the disk.
    """
    checkpoint = Path(checkpoint)
    out = default_out(checkpoint) if out is None else Path(out)
    asked = {
        "residual": residual if residual != "auto" else None,
        "modalities": ",".join(modalities) if modalities else None,
        "dataset": dataset,
        "system": system,
        "weights": weights if weights != "auto" else None,
        "compat": compat,
        "license": licence,
    }
    seconds: dict[str, float] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        say = progress or (lambda stage, seconds: None)
        say(name, None)
        start = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - start
        say(name, seconds[name])

    with stage("load the checkpoint"):
        loaded = load_checkpoint(checkpoint, system=system, dataset=dataset, weights=weights, described=described)
        loaded = replace(loaded, compat=compat or loaded.compat)
        notes = [*loaded.notes, *choose_modalities(loaded, modalities)]
        spec = spec_for(loaded.module)
        media = get_system(loaded.system).inputs == "media"
        reads, sees = (any(tensor.name == name for tensor in spec.inputs) for name in ("input_ids", "faces"))
        if tokenizer is not None and not reads:
            takes = "no text" if media else "features, not text"
            raise UsageError(f"{loaded.system} takes {takes}", "leave --tokenizer out")
        nets = find_face_nets() if sees else {}
        text = find_tokenizer(checkpoint, None if tokenizer is None else Path(tokenizer)) if reads else None
        if text is not None:
            check_tokenizer(text, loaded.config["text"]["vocabulary"])
        elif reads:
            notes.append(NO_TOKENIZER)
    with bundle_folder(out, needs=2 * checkpoint.stat().st_size) as folder:
        with stage("fold"):
            folded, folds = fold(loaded.module, residual)
        with stage("export the graph"):
            graph = to_onnx(folded, spec, loaded.system)
        with stage("write the graph"):
            onnx.save(graph, folder / GRAPH)
            del graph
        with stage("check parity"):
            result = parity.measure(loaded.module, folder / GRAPH, spec)
            result.require(f"the graph of {checkpoint}")
            company = batches.measure(folder / GRAPH, spec)
            batches.require(company, f"the graph of {checkpoint}")
            result = replace(result, batches=company)
            notes += [
                f"PyTorch's own float32 rounding was allowed for in the case {case!r}" for case in result.rounding
            ]
        with stage("finish the bundle"):
            if text is not None:
                copy_tokenizer(text, folder)
            if nets:
                build_face_nets(nets, folder / "faces")
            options = {name: value for name, value in asked.items() if value is not None}
            manifest = describe(loaded, folded, folds, spec, result, hash_files(folder), options)
            (folder / CARD).write_text(model_card(manifest, default_out(checkpoint).name), encoding="utf-8")
            manifest = replace(manifest, files=hash_files(folder))
            write_manifest(folder, manifest, checkpoint)
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return ExportReport(out, manifest, size, result, tuple(folds), tuple(notes), seconds)


def choose_modalities(loaded: Checkpoint, modalities: Sequence[str] | None) -> list[str]:
    """Keep the modalities that were asked for; returns what the user should know of the others."""
    system = loaded.module
    if not isinstance(system, MultimodalSystem):
        if modalities:
            raise UsageError(f"{loaded.system} needs all of its modalities", "leave --modalities out")
        return []
    if unknown := sorted(set(modalities or ()) - set(system.modalities)):
        raise UsageError(f"{loaded.system} has no modality {unknown[0]!r}", f"it has {', '.join(system.modalities)}")
    weights = dict(zip(system.modalities, system.weighted_fusion.weight[0].tolist(), strict=True))
    before = sum(value.numel() for value in system.parameters())
    if modalities:
        system.keep(modalities)
    left = before - sum(value.numel() for value in system.parameters())
    used = [name for name in system.modalities if weights[name]]
    notes = []
    if absent := [name for name in weights if name not in system.modalities]:
        notes.append(f"without {' and '.join(absent)}: {left:,} parameters are left out, as --modalities asks")
    if used and len(used) < len(system.modalities):
        idle = " and ".join(name for name in system.modalities if name not in used)
        notes.append(f"the fusion gives {idle} no weight: --modalities {','.join(used)} leaves it out")
    return notes
