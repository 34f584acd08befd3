"""How far predictions can be trusted: scores, calibration error, coverage, for any set of modalities."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from mmx.evaluation.reliability import Bin, brier_scores, calibration_errors, most_probable, reliability
from mmx.evaluation.scores import scorecard
from mmx.runtime.fusion import NO_FITS, sigmoid
from mmx.runtime.probabilities import Certainty, Fits, subset_name

Floats = NDArray[np.float64]
NOTHING = -100.0  # the logit of every label where a sample has no modality


@dataclass(frozen=True)
class ModalityLogits:
    """Of labelled samples: float32 [samples, labels] by modality, which samples have it (bool [samples]), and targets
    (int64 [samples, labels]).
    """

    by_modality: Mapping[str, NDArray[np.float32]]
    present: Mapping[str, NDArray[np.bool_]]
    targets: NDArray[np.int64]

    def only(self, chosen: Collection[str]) -> ModalityLogits:
        """The samples that have all of these modalities, as if they had no other."""
        there = np.all([self.present[modality] for modality in chosen], axis=0)
        return ModalityLogits(
            {modality: self.by_modality[modality][there] for modality in chosen},
            {modality: self.present[modality][there] for modality in chosen},
            self.targets[there],
        )

    def fused(self, weights: Mapping[str, float]) -> Floats:
        """The sum of weight * logit over the modalities that each sample has; ``NOTHING`` where it has none."""
        parts = [
            np.where(self.present[m][:, None], weights[m] * self.by_modality[m].astype(np.float64), 0.0)
            for m in self.by_modality
        ]
        total: Floats = np.sum(parts, axis=0)
        total[~np.any(list(self.present.values()), axis=0)] = NOTHING
        return total

    def sets(self, order: Sequence[str]) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """Each set of modalities that a sample has, by its name, and those samples."""
        there = np.stack([self.present[modality] for modality in self.by_modality], axis=1)
        for row in np.unique(there, axis=0):
            chosen = [modality for modality, has in zip(self.by_modality, row, strict=True) if has]
            yield subset_name(chosen, order), np.flatnonzero((there == row).all(axis=1))


@dataclass(frozen=True)
class Trust:
    """What predictions on labelled samples are worth.

    Attributes:
        samples: how many. f1: mean over the labels. calibration_error, brier: means over the labels, of the samples
            with a modality (NaN without any). coverage: share of the samples that get labels. error: share of those
            whose most probable label is wrong (NaN without any). diagram: of all labels together.
    """

    samples: int
    f1: float
    calibration_error: float
    brier: float
    coverage: float
    error: float
    diagram: tuple[Bin, ...]


def subsets(modalities: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Every set of modalities, the largest first."""
    for size in range(len(modalities), 0, -1):
        yield from combinations(modalities, size)


def probabilities_of(logits: ModalityLogits, weights: Mapping[str, float], fits: Fits = NO_FITS) -> Floats:
    """[samples, labels]: calibrated where the set of modalities that a sample has is fitted."""
    fused = logits.fused(weights)
    probabilities = sigmoid(fused)
    for name, rows in logits.sets(tuple(weights)):
        if name in fits:
            probabilities[rows] = sigmoid(fits[name].apply(fused[rows]))
    return probabilities


def measure(
    logits: ModalityLogits,
    weights: Mapping[str, float],
    thresholds: Sequence[float],
    certainty: Certainty,
    fits: Fits = NO_FITS,
) -> Trust:
    """Score predictions as the runtime makes them: fused over what is there, calibrated, and given or not.

    Args:
        weights: fusion weight by modality, in the system's order. thresholds: of the uncalibrated probabilities.
        certainty: what a prediction must reach to be given. fits: the calibration; without it, as the network has it.
    """
    fused = logits.fused(weights)
    probabilities = probabilities_of(logits, weights, fits)
    given = np.zeros(len(fused), bool)
    for name, rows in logits.sets(tuple(weights)):
        fit = fits.get(name)
        if name:
            given[rows] = [certainty.doubt(float(p.max()), fit) is None for p in probabilities[rows]]
    has = np.any(list(logits.present.values()), axis=0)
    known, targets = probabilities[has], logits.targets[has]
    _, wrong = most_probable(probabilities, logits.targets) if len(fused) else (fused, given)
    card = scorecard(fused.astype(np.float32), logits.targets, thresholds, ()) if len(fused) else None
    return Trust(
        samples=len(fused),
        f1=card.mean("f1") if card else float("nan"),
        calibration_error=_mean(calibration_errors(known, targets)) if len(known) else float("nan"),
        brier=_mean(brier_scores(known, targets)) if len(known) else float("nan"),
        coverage=_mean(given),
        error=_mean(wrong[given]),
        diagram=reliability(known.ravel(), targets.ravel()) if len(known) else (),
    )


def _mean(values: Sequence[float] | NDArray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
