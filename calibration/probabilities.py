"""Probabilities that mean what they say: a scale and a shift of each label's logit, fitted on validation data.

For each set of modalities that a segment can have: the logits of a system that was trained on all of them are too sure
of themselves, or not sure enough, in another way with each set.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from mmx.calibration.calibrate import Data
from mmx.datasets.samples import Utterances
from mmx.evaluation.reliability import BINS, brier_scores, calibration_errors, confidence_for, most_probable
from mmx.evaluation.trust import ModalityLogits, subsets
from mmx.export.variant_writer import made_now, new_variant
from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import BadDataError
from mmx.runtime.fusion import sigmoid
from mmx.runtime.probabilities import ErrorLimit, LabelFit, Reliability, SubsetFit, subset_name
from mmx.runtime.records import ProbabilitiesRecord
from mmx.training.evaluate import BundleRunner
from mmx.training.trust import Tick, modality_logits

Floats = NDArray[np.float64]
Targets = NDArray[np.int64]

FEWEST_SAMPLES = 20  # with a set of modalities; under that it stays as it is
FEWEST_OF_A_CLASS = 10  # of a label, with and without it; under that only the scale is fitted
FOLDS = 5
PRIOR = np.array([1.0, 1 / 3])  # one over the deviation of log scale and shift that is expected before any data
ERRORS = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)


def run(bundle: Bundle, data: Utterances, tick: Tick | None = None, threads: int | None = None) -> ModalityLogits:
    """The FP32 graph's logits on labelled data."""
    runner = BundleRunner(bundle, "onnxruntime", "fp32", threads)
    try:
        return modality_logits(runner, data, tick)
    finally:
        runner.close()


def fit_subsets(logits: ModalityLogits, weights: Mapping[str, float], labels: Sequence[str]) -> dict[str, SubsetFit]:
    """A fit for each set of modalities that at least ``FEWEST_SAMPLES`` samples have.

    Args:
        weights: fusion weight by modality, in the system's order.

    Raises:
        BadDataError: there are too few samples for any.
    """
    fits = {}
    for chosen in subsets(tuple(weights)):
        part = logits.only(chosen)
        if len(part.targets) >= FEWEST_SAMPLES:
            fits[subset_name(chosen, tuple(weights))] = fit_subset(part.fused(weights), part.targets, labels)
    if not fits:
        raise BadDataError(f"fewer than {FEWEST_SAMPLES} validation samples are too few to calibrate on")
    return fits


def fit_subset(logits: Floats, targets: Targets, labels: Sequence[str]) -> SubsetFit:
    """Fit each label's scale and shift on fused logits [samples, labels].

    What it brings, and the confidence for each stated error, are measured by cross-fitting: each fifth of the samples
    with the fits of the other four.
    """
    fits = [_fit(logits[:, i], targets[:, i]) for i in range(len(labels))]
    unseen = np.empty_like(logits)
    fold = np.random.default_rng(0).permutation(len(logits)) % FOLDS
    for number in range(FOLDS):
        mine = fold == number
        for i in range(len(labels)):
            part = _fit(logits[~mine, i], targets[~mine, i])
            unseen[mine, i] = part.scale * logits[mine, i] + part.shift
    after = sigmoid(unseen)
    limits = []
    confidence, wrong = most_probable(after, targets)
    for error in ERRORS:
        if (point := confidence_for(confidence, wrong, error)) is not None:
            limits.append(ErrorLimit(error, point.confidence, point.coverage))
    return SubsetFit(
        samples=len(logits),
        labels=dict(zip(labels, fits, strict=True)),
        before=_measured(sigmoid(logits), targets),
        after=_measured(after, targets),
        limits=tuple(limits),
    )


def add_probabilities(bundle: Bundle, data: Data, fits: Mapping[str, SubsetFit], started: float) -> Bundle:
    """Give the bundle its calibrated probabilities as a variant, in place of older ones; returns it with them.

    Raises:
        UsageError: the bundle cannot be written. BundleReplaced: it was exported again meanwhile.
    """
    record = ProbabilitiesRecord(
        precision="fp32",
        source=bundle.graph_sha256,
        files={},
        subsets=dict(fits),
        recipe={
            "data": data.digest(),
            "samples": len(data),
            "folds": FOLDS,
            "bins": BINS,
            "fewest_samples": FEWEST_SAMPLES,
            "fewest_of_a_class": FEWEST_OF_A_CLASS,
        },
        verification={name: {"before": asdict(fit.before), "after": asdict(fit.after)} for name, fit in fits.items()},
        **made_now(time.monotonic() - started),
    )
    with new_variant(bundle) as folder:
        folder.publish("probabilities", record)
    return bundle.refreshed()


def _fit(logits: Floats, targets: Targets) -> LabelFit:
    """The scale and shift of the highest likelihood, with a weak pull to none (``PRIOR``): finite on any data."""
    positives = int(targets.sum())
    fewest = min(positives, len(targets) - positives)
    if not fewest:
        return LabelFit()
    free = 2 if fewest >= FEWEST_OF_A_CLASS else 1
    signs = np.where(targets == 1, 1.0, -1.0)

    def cost(x: Floats) -> tuple[float, Floats]:
        scale = np.exp(x[0])
        margin = signs * (scale * logits + (x[1] if free == 2 else 0.0))
        slope = -signs * sigmoid(-margin)
        gradient = np.array([(slope * logits).sum() * scale, slope.sum()])[:free]
        pull = (x * PRIOR[:free]) ** 2
        return float(np.logaddexp(0, -margin).sum() + pull.sum() / 2), gradient + x * PRIOR[:free] ** 2

    bounds = [(np.log(1e-3), np.log(1e3)), (-1e3, 1e3)][:free]
    found = minimize(cost, np.zeros(free), jac=True, method="L-BFGS-B", bounds=bounds).x
    shift = float(found[1]) if free == 2 else 0.0
    return LabelFit(float(np.exp(found[0])), shift, "platt" if free == 2 else "temperature")


def _measured(probabilities: Floats, targets: Targets) -> Reliability:
    return Reliability(
        float(np.mean(calibration_errors(probabilities, targets))), float(np.mean(brier_scores(probabilities, targets)))
    )
