"""What people who look at answers must know of the model that gave them."""

from __future__ import annotations

from typing import Any

from mmx.runtime.fusion import NO_FITS, thresholds_of
from mmx.runtime.manifest import Manifest
from mmx.runtime.notices import FLAGS, LAW, LIMITS, MISUSES, USES, model_flags
from mmx.runtime.probabilities import Fits, subset_name


def describe_model(manifest: Manifest, fits: Fits = NO_FITS) -> dict[str, Any]:
    """Labels in order with their thresholds, the modalities, a line of description, warnings, and the card in short.

    The thresholds are those of a prediction from all modalities, calibrated where ``fits`` has them.
    """
    fit = fits.get(subset_name(manifest.modalities, manifest.modalities))
    return {
        "labels": list(manifest.labels),
        "thresholds": thresholds_of(manifest, fit),
        "modalities": list(manifest.modalities),
        "description": f"{manifest.system}, labels of {manifest.dataset}",
        "warnings": warnings(manifest),
        "card": {"intended_use": list(USES), "not_for": list(MISUSES), "limits": list(LIMITS), "law": LAW},
    }


def warnings(manifest: Manifest) -> list[str]:
    """Why the answers of this model must not be believed; none for most models."""
    return [FLAGS[flag] for flag in model_flags(manifest)]
