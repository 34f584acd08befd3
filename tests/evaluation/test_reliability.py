"""Reliability, against sums written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from mmx.evaluation.reliability import (
    Bin,
    Coverage,
    at_confidence,
    brier_scores,
    calibration_errors,
    confidence_for,
    coverage_curve,
    most_probable,
    reliability,
)
from mmx.runtime.errors import BadDataError

P = np.array([0.9, 0.1, 0.6, 0.2, 0.8])
Y = np.array([1, 0, 0, 1, 1])


def test_bins_are_of_equal_mass_and_in_order() -> None:
    low, high = reliability(P, Y, bins=2)  # 0.1 0.2 0.6 | 0.8 0.9
    assert (low.samples, high.samples) == (3, 2)
    assert (low.probability, low.share) == (pytest.approx(0.3), pytest.approx(1 / 3))
    assert (high.probability, high.share) == (pytest.approx(0.85), 1.0)


def test_the_error_is_the_mean_distance_by_mass_and_label() -> None:
    first = 0.6 * abs(0.3 - 1 / 3) + 0.4 * abs(0.85 - 1)
    second = 0.6 * abs((0.1 + 0.2 + 0.4) / 3 - 1 / 3) + 0.4 * abs((0.8 + 0.9) / 2 - 1 / 2)
    both = np.stack([P, 1 - P], axis=1)
    targets = np.stack([Y, 1 - Y], axis=1)
    # 1 - P sorted: 0.1 0.2 0.4 | 0.8 0.9, with targets 0 0 1 | 0 1
    assert calibration_errors(both, targets, bins=2) == pytest.approx((first, second))


def test_fewer_samples_than_bins_are_a_bin_each() -> None:
    assert reliability(P[:2], Y[:2], bins=10) == (Bin(1, 0.1, 0.0), Bin(1, 0.9, 1.0))


@pytest.mark.parametrize("bad", [np.array([]), np.array([0.5, np.nan]), np.array([1.2, 0.0])])
def test_no_samples_and_no_probabilities_are_errors(bad: np.ndarray) -> None:
    with pytest.raises(BadDataError):
        reliability(bad, np.zeros(len(bad), np.int64))


def test_brier_is_scikit_learns() -> None:
    random = np.random.default_rng(0)
    probabilities, targets = random.random((50, 3)), random.integers(0, 2, (50, 3))
    expected = [brier_score_loss(targets[:, i], probabilities[:, i]) for i in range(3)]
    assert brier_scores(probabilities, targets) == pytest.approx(expected)


CONFIDENCE = np.array([0.9, 0.5, 0.7, 0.7, 0.3])
WRONG = np.array([False, True, False, True, True])


def test_coverage_against_error() -> None:
    assert coverage_curve(CONFIDENCE, WRONG) == (
        Coverage(0.9, 0.2, 0.0),
        Coverage(0.7, pytest.approx(0.6), pytest.approx(1 / 3)),  # both with 0.7 together
        Coverage(0.5, pytest.approx(0.8), pytest.approx(0.5)),
        Coverage(0.3, 1.0, pytest.approx(0.6)),
    )
    assert at_confidence(CONFIDENCE, WRONG, 0.6) == Coverage(0.6, pytest.approx(0.6), pytest.approx(1 / 3))
    nothing = at_confidence(CONFIDENCE, WRONG, 0.95)
    assert nothing.coverage == 0 and np.isnan(nothing.error)


def test_the_confidence_for_an_error_counts_one_mistake_more() -> None:
    found = confidence_for(CONFIDENCE, WRONG, 0.5)
    assert found is not None and found.confidence == 0.7  # (1 + 1) / (3 + 1); at 0.5 (2 + 1) / (4 + 1)
    assert confidence_for(CONFIDENCE, WRONG, 0.49) is None  # at 0.9: (0 + 1) / (1 + 1)


def test_a_stated_error_is_met_on_fresh_data() -> None:
    """Exact probabilities: over many data sets the error among what is answered stays at what was stated."""
    random = np.random.default_rng(1)
    found = []
    for _ in range(200):
        confidence = random.uniform(0.3, 1, 4000)
        wrong = random.random(4000) > confidence
        point = confidence_for(confidence[:1000], wrong[:1000], 0.1)
        assert point is not None
        found.append(at_confidence(confidence[1000:], wrong[1000:], point.confidence))
    assert np.mean([each.error for each in found]) == pytest.approx(0.1, abs=0.01)
    # the error among those from c to 1 is (1 - c) / 2, so 0.1 is met from 0.8 on: 2/7 of them
    assert np.mean([each.coverage for each in found]) == pytest.approx(2 / 7, abs=0.03)


def test_the_most_probable_label_and_whether_it_is_wrong() -> None:
    probabilities = np.array([[0.2, 0.7], [0.6, 0.5], [0.4, 0.3]])
    confidence, wrong = most_probable(probabilities, np.array([[1, 1], [0, 1], [0, 0]]))
    assert confidence.tolist() == [0.7, 0.6, 0.4] and wrong.tolist() == [False, True, True]
