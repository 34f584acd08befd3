"""What predictions are worth, against figures counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mmx.evaluation.trust import ModalityLogits, measure, subsets
from mmx.runtime.probabilities import Certainty, ErrorLimit, LabelFit, Reliability, SubsetFit

WEIGHTS = {"text": 1.0, "visual": 0.5}
THRESHOLDS = (0.5, 0.5)


@pytest.fixture
def logits() -> ModalityLogits:
    """Four samples: both modalities, the text alone, the face alone, neither."""
    text = np.array([[2.0, -2.0], [-1.0, 1.0], [9.0, 9.0], [9.0, 9.0]], np.float32)
    visual = np.array([[2.0, -2.0], [9.0, 9.0], [4.0, -4.0], [9.0, 9.0]], np.float32)
    present = {"text": np.array([True, True, False, False]), "visual": np.array([True, False, True, False])}
    return ModalityLogits({"text": text, "visual": visual}, present, np.array([[1, 0], [1, 0], [1, 0], [1, 0]]))


def test_sets_are_fused_over_what_is_there(logits: ModalityLogits) -> None:
    fused = logits.fused(WEIGHTS)
    assert fused[:3].tolist() == [[3.0, -3.0], [-1.0, 1.0], [2.0, -2.0]]
    assert (fused[3] < -50).all()  # nothing to go on: no label
    found = {name: rows.tolist() for name, rows in logits.sets(("text", "visual"))}
    assert found == {"": [3], "visual": [2], "text": [1], "text+visual": [0]}
    assert logits.only(["visual"]).fused(WEIGHTS).tolist() == [[1.0, -1.0], [2.0, -2.0]]
    assert list(subsets(("text", "visual"))) == [("text", "visual"), ("text",), ("visual",)]


def test_predictions_as_counted_by_hand(logits: ModalityLogits) -> None:
    found = measure(logits, WEIGHTS, THRESHOLDS, Certainty(min_confidence=0.75))
    # Given: samples 0 (0.95) and 2 (0.88), both right; sample 1 has 0.73; sample 3 has no modality.
    assert (found.samples, found.coverage, found.error) == (4, 0.5, 0.0)
    # Label a is predicted for 0 and 2 of its four: F1 = 2*2/(2*2+2); label b, which none has, for sample 1: 0.
    assert found.f1 == pytest.approx((4 / 6 + 0) / 2)
    p = 1 / (1 + np.exp(-np.array([3.0, -1.0, 2.0])))  # the three with a modality: a bin for each
    assert found.brier == pytest.approx(((p - 1) ** 2).mean())
    assert found.calibration_error == pytest.approx((1 - p).mean())
    assert sum(each.samples for each in found.diagram) == 6
    assert measure(logits, WEIGHTS, THRESHOLDS, Certainty(min_confidence=0.7)).error == pytest.approx(1 / 3)


def test_each_set_has_its_own_calibration_and_confidence(logits: ModalityLogits) -> None:
    flat = {label: LabelFit(1e-4, 0.0, "platt") for label in "ab"}
    sharp = {label: LabelFit(4.0, 0.0, "platt") for label in "ab"}
    none = Reliability(0.0, 0.0)
    fits = {
        "text+visual": SubsetFit(9, flat, none, none, (ErrorLimit(0.1, 0.6, 0.5),)),
        "text": SubsetFit(9, sharp, none, none, (ErrorLimit(0.1, 0.6, 0.5),)),
    }
    found = measure(logits, WEIGHTS, THRESHOLDS, Certainty(max_error=0.1), fits)
    assert (found.coverage, found.error) == (0.25, 1.0)  # text alone is sure, and wrong; the face has no fit
    assert found.f1 == measure(logits, WEIGHTS, THRESHOLDS, Certainty()).f1  # labels do not move


def test_no_samples_and_no_modalities_are_no_error(logits: ModalityLogits) -> None:
    nothing = ModalityLogits(logits.by_modality, {name: np.zeros(4, bool) for name in logits.present}, logits.targets)
    found = measure(nothing, WEIGHTS, THRESHOLDS, Certainty())
    assert found.coverage == 0 and found.f1 == 0 and math.isnan(found.calibration_error) and math.isnan(found.error)
    empty = measure(nothing.only(["text"]), WEIGHTS, THRESHOLDS, Certainty())
    assert empty.samples == 0 and math.isnan(empty.f1) and empty.diagram == ()
