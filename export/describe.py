"""The manifest of a new bundle: what it holds, and how it came to be."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib import import_module
from importlib.metadata import metadata, version
from typing import Any

import torch
from torch import nn

from mmx.export.folding.fold import FoldRecord
from mmx.export.graph import OPSET
from mmx.export.parity import Parity
from mmx.export.specs import ExportSpec
from mmx.models.checkpoint import Checkpoint
from mmx.models.counting import count
from mmx.models.registry import get_system
from mmx.runtime.manifest import SCHEMA_VERSION, GraphSpec, Manifest, Preprocessing, QualitySpec

GRAPH = "model.onnx"
_RUN_WITH = ("onnxruntime", "av", "sentencepiece", "numpy")
_MADE_WITH = ("mmx", "torch", "onnx", "onnxscript", "onnxruntime", "numpy")


def describe(
    checkpoint: Checkpoint,
    folded: nn.Module,
    folds: Sequence[FoldRecord],
    spec: ExportSpec,
    parity: Parity,
    files: Mapping[str, str],
    options: Mapping[str, str],
) -> Manifest:
    """The manifest of a bundle with the one graph ``model.onnx``.

    Args:
        checkpoint: as it was loaded. folded, folds: what ``fold`` made of it.
        files: SHA-256 by path, of everything in the bundle.
        options: the export's options that are not at their defaults, for the record.
    """
    modalities = getattr(checkpoint.module, "modalities", get_system(checkpoint.system).modalities)
    return Manifest(
        schema_version=SCHEMA_VERSION,
        system=checkpoint.system,
        form=checkpoint.form,
        dataset=checkpoint.dataset,
        labels=checkpoint.labels,
        thresholds=checkpoint.thresholds,
        modalities=modalities,
        fusion_weights=_fusion_weights(checkpoint.module, modalities),
        preprocessing=_preprocessing(spec, checkpoint.compat, checkpoint.dataset),
        graphs={"fp32": GraphSpec(GRAPH, "fp32", OPSET, spec.inputs, spec.outputs, parity.record())},
        files=dict(files),
        config=checkpoint.config,
        folding=[asdict(record) for record in folds],
        provenance={
            "versions": {name: version(name) for name in _MADE_WITH} | {"python": platform.python_version()},
            "command": " ".join(["mmx export", checkpoint.path.name, *(f"--{k} {v}" for k, v in options.items())]),
            "checkpoint": {
                "file": checkpoint.path.name,
                "sha256": checkpoint.sha256,
                "bytes": checkpoint.path.stat().st_size,
                "notes": list(checkpoint.notes),
                "assumptions": checkpoint.assumptions,
                "untrained": checkpoint.untrained,
            },
            "license": options.get("license"),
            "licenses": {name: _licence(name) for name in _RUN_WITH} | {"FFmpeg (in av)": _ffmpeg_licence()},
            "thresholds": "default" if set(checkpoint.thresholds) == {0.5} else "checkpoint",
            "counts": {
                "case": spec.counted,
                "checkpoint": _counts(checkpoint.module, spec),
                "graph": _counts(folded, spec),
            },
        },
    )


def _licence(package: str) -> str:
    """What a package's metadata says of its licence, in a line."""
    found = metadata(package)
    said = next((found[name].strip().split("\n")[0] for name in ("License-Expression", "License") if name in found), "")
    classified = [line.rpartition(":: ")[2] for line in found.get_all("Classifier") or () if line.startswith("License")]
    return (said if 0 < len(said) < 100 else ", ".join(classified)) or "see the package"


def _ffmpeg_licence() -> str:
    """Of the FFmpeg that PyAV was built with."""
    libraries = getattr(import_module("av._core"), "library_meta", {})
    return str(libraries.get("libavcodec", {}).get("license") or "see the package")


def _fusion_weights(system: nn.Module, modalities: Sequence[str]) -> dict[str, float]:
    """The weight of each modality's logits; empty for a system that does not fuse logits."""
    fusion = getattr(system, "weighted_fusion", None)
    return {} if fusion is None else dict(zip(modalities, fusion.weight[0].tolist(), strict=True))


def _preprocessing(spec: ExportSpec, compat: str, dataset: str) -> Preprocessing:
    """The reference's preprocessing, with text no longer than the system's positions.

    The public loaders take the mean of all channels, and the one of MOSEI leaves the sound at the file's own rate.
    """
    default = Preprocessing()
    longest = min(default.text.max_tokens, spec.limits.get("tokens", default.text.max_tokens))
    if compat == "upstream":
        default = replace(default, mel=replace(default.mel, mix="mean", own_rate=dataset == "mosei"))
    else:
        default = replace(default, quality=QualitySpec.usual())
    return replace(default, compat=compat, text=replace(default.text, max_tokens=longest))


def _counts(system: nn.Module, spec: ExportSpec) -> dict[str, Any]:
    """Parameters and multiply-accumulates by part, for the case that the graph was traced with."""
    example = {tensor.name: torch.from_numpy(spec.cases[spec.counted][tensor.name]) for tensor in spec.inputs}
    return {part: asdict(counted) for part, counted in count(system, example).items()}
