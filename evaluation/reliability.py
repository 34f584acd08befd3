"""Whether probabilities mean what they say: calibration error, Brier score, reliability, coverage against error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.errors import BadDataError

BINS = 10
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bin:
    """One bin of a reliability diagram: samples in it, their mean probability, and the share that has the label."""

    samples: int
    probability: float
    share: float


@dataclass(frozen=True)
class Coverage:
    """What answering only from ``confidence`` on gives: the share that is answered, and the share of it that is wrong.

    ``error`` is NaN where nothing is answered.
    """

    confidence: float
    coverage: float
    error: float


def reliability(probabilities: Floats, targets: NDArray[np.int64], bins: int = BINS) -> tuple[Bin, ...]:
    """The reliability diagram of one label, in bins of equal mass from the least probable to the most.

    Sizes differ by one at most; with fewer samples than bins, each sample is a bin. Equal probabilities may be parted.

    Args:
        probabilities: [samples], 0..1. targets: [samples], 0 or 1.

    Raises:
        BadDataError: there is no sample, or a probability is not within 0 to 1.
    """
    if not len(probabilities):
        raise BadDataError("there are no samples to measure calibration on")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise BadDataError("a probability is not within 0 to 1")
    order = np.argsort(probabilities, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    return tuple(Bin(len(part), float(probabilities[part].mean()), float(targets[part].mean())) for part in parts)


def calibration_errors(probabilities: Floats, targets: NDArray[np.int64], bins: int = BINS) -> tuple[float, ...]:
    """The expected calibration error of each label: the mean distance of ``Bin.probability`` from ``Bin.share``.

    Even exact probabilities have one that is not 0: about sqrt(p (1 - p) bins / samples).

    Args:
        probabilities, targets: [samples, labels].
    """
    errors = []
    for i in range(probabilities.shape[1]):
        found = reliability(probabilities[:, i], targets[:, i], bins)
        total = sum(each.samples for each in found)
        errors.append(sum(each.samples * abs(each.probability - each.share) for each in found) / total)
    return tuple(errors)


def brier_scores(probabilities: Floats, targets: NDArray[np.int64]) -> tuple[float, ...]:
    """The mean squared distance of each label's probability from its target; arrays [samples, labels]."""
    return tuple(((probabilities - targets) ** 2).mean(axis=0).tolist())


def coverage_curve(confidence: Floats, wrong: NDArray[np.bool_]) -> tuple[Coverage, ...]:
    """Coverage and error by each confidence from which on one could answer, highest first.

    Args:
        confidence: [samples], of each answer. wrong: [samples], whether it is.
    """
    levels, counts = np.unique(-confidence, return_counts=True)
    order = np.argsort(-confidence, kind="stable")
    given = np.cumsum(counts)
    mistakes = np.cumsum(wrong[order])[given - 1]
    return tuple(
        Coverage(float(-level), float(count / len(confidence)), float(bad / count))
        for level, count, bad in zip(levels, given, mistakes, strict=True)
    )


def at_confidence(confidence: Floats, wrong: NDArray[np.bool_], least: float) -> Coverage:
    """Coverage and error of answering from ``least`` on."""
    given = confidence >= least
    error = float(wrong[given].mean()) if given.any() else float("nan")
    return Coverage(least, float(given.mean()), error)


def confidence_for(confidence: Floats, wrong: NDArray[np.bool_], error: float) -> Coverage | None:
    """The least confidence from which on at most a share ``error`` of the answers is wrong; None where there is none.

    Conformal risk control (Angelopoulos et al. 2024) of the loss "answered, and (wrong - error)", whose mean must not
    be above 0: the next sample is counted as answered wrongly, so (mistakes + 1) / (answers + 1) <= error. The loss is
    not quite monotone in the confidence, as the guarantee asks for: the error is met on average over data sets, not
    on each.
    """
    met = None
    for point in coverage_curve(confidence, wrong):
        answers = round(point.coverage * len(confidence))
        if (round(point.error * answers) + 1) / (answers + 1) <= error:
            met = point
    return met


def most_probable(probabilities: Floats, targets: NDArray[np.int64]) -> tuple[Floats, NDArray[np.bool_]]:
    """Each sample's highest probability, and whether that label is not among its targets; arrays [samples, labels]."""
    top = probabilities.argmax(axis=1)
    rows = np.arange(len(top))
    return probabilities[rows, top], targets[rows, top] == 0
