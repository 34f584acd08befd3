"""Per-modality logits -> the fused answer, over the modalities that a segment really has."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.manifest import Manifest
from mmx.runtime.probabilities import Fits, SubsetFit, subset_name
from mmx.runtime.types import Sample

NO_FITS: Fits = MappingProxyType({})


@dataclass(frozen=True)
class Fused:
    """One segment's answer. ``logits`` = sum of ``contributions`` = sum of weight * ``modality_logits``, by label.

    ``fit``: what calibrated the probabilities; None: they are the sigmoids of ``logits``. ``thresholds``: of them.
    """

    modalities: tuple[str, ...]
    logits: dict[str, float]
    probabilities: dict[str, float]
    labels: tuple[str, ...]
    modality_logits: dict[str, dict[str, float]]
    contributions: dict[str, dict[str, float]]
    thresholds: dict[str, float] = field(default_factory=dict)
    fit: SubsetFit | None = None


def fuse(
    logits: Mapping[str, NDArray[np.float32]], present: Collection[str], manifest: Manifest, fits: Fits = NO_FITS
) -> Fused:
    """Fuse one segment: logit = sum over its modalities of weight * logit (one bias-free linear layer).

    Args:
        logits: float32 [labels] by modality.
        present: the modalities that the segment has; the others are left out of the sum. With none, nothing is known:
            every mapping of the result is empty.
        manifest: labels, thresholds (a label counts when its probability is strictly above), weights and their order.
        fits: calibration by set of modalities. It changes probabilities and thresholds, and no label: those are decided
            before it.
    """
    names = manifest.labels
    taking_part = tuple(modality for modality in manifest.modalities if modality in present)
    if not taking_part:
        return Fused((), {}, {}, (), {}, {})
    parts = {modality: logits[modality].astype(np.float64) for modality in taking_part}
    weighted = {modality: manifest.fusion_weights[modality] * part for modality, part in parts.items()}
    fused = np.sum(list(weighted.values()), axis=0)
    probability = sigmoid(fused)
    over = probability > np.array(manifest.thresholds)
    fit = fits.get(subset_name(taking_part, manifest.modalities))
    if fit is not None:
        probability = sigmoid(fit.apply(fused))
    return Fused(
        modalities=taking_part,
        logits=_by_label(names, fused),
        probabilities=_by_label(names, probability),
        labels=tuple(names[i] for i in np.argsort(-probability, kind="stable") if over[i]),
        modality_logits={modality: _by_label(names, part) for modality, part in parts.items()},
        contributions={modality: _by_label(names, part) for modality, part in weighted.items()},
        thresholds=thresholds_of(manifest, fit),
        fit=fit,
    )


def thresholds_of(manifest: Manifest, fit: SubsetFit | None) -> dict[str, float]:
    """The probability above which each label is given; ``fit``: what calibrates the probabilities."""
    thresholds = np.array(manifest.thresholds)
    if fit is not None:
        thresholds = sigmoid(fit.apply(_logit(thresholds)))
    return _by_label(manifest.labels, thresholds)


def fuse_batch(
    logits: Mapping[str, NDArray[np.float32]], samples: Sequence[Sample], weights: Mapping[str, float]
) -> NDArray[np.float32]:
    """The fused logits of many samples: the sum of weight * logit over the modalities that each has.

    Args:
        logits: float32 [samples, labels] by modality.
    """
    total = np.zeros_like(next(iter(logits.values())), np.float64)
    for name, values in logits.items():
        present = np.array([name in sample.modalities for sample in samples])[:, None]
        total += np.where(present, weights[name] * values.astype(np.float64), 0.0)
    return total.astype(np.float32)


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + exp(-x)), without overflow for any finite x."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


def _logit(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):
        odds: NDArray[np.float64] = np.log(probability) - np.log1p(-probability)
    return odds


def _by_label(names: tuple[str, ...], values: NDArray[np.float64]) -> dict[str, float]:
    return dict(zip(names, values.tolist(), strict=True))
