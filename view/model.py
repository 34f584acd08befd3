"""What people who look at answers must know of the model that gave them."""

from __future__ import annotations

from typing import Any

from mmx.runtime.manifest import Manifest

UNTRAINED = "This model was never trained: its weights are random, and its answers mean nothing."
MADE_UP = (
    "This model learned from drawn faces and synthesised voices: it is a test bed, and its answers say nothing about "
    "people."
)


def describe_model(manifest: Manifest) -> dict[str, Any]:
    """Labels in order with their thresholds, the modalities, a line of description, and what to be warned of."""
    return {
        "labels": list(manifest.labels),
        "thresholds": dict(zip(manifest.labels, manifest.thresholds, strict=True)),
        "modalities": list(manifest.modalities),
        "description": f"{manifest.system}, labels of {manifest.dataset}",
        "warnings": warnings(manifest),
    }


def warnings(manifest: Manifest) -> list[str]:
    """Why the answers of this model must not be believed; none for most models."""
    checkpoint = manifest.provenance.get("checkpoint")
    untrained = isinstance(checkpoint, dict) and checkpoint.get("untrained") is True
    return [UNTRAINED] * untrained + [MADE_UP] * (manifest.dataset == "synthetic" and not untrained)
