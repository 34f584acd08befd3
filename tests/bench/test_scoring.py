"""Scores against the reference evaluation of V2EM (tests/reference/eval.npz), at thresholds chosen on validation."""

import numpy as np
import pytest

from mmx.evaluation.scoring import score


def test_accuracy_and_f1_are_the_references(reference):
    data = np.load(reference / "eval.npz")
    scores = score(data["test/logits"], data["test/labels"].astype(np.int64), data["v2em/thresholds_valid"])
    accuracy, _, _, f1, _ = data["v2em/test_stats"]
    assert [*scores.accuracy, scores.mean_accuracy] == pytest.approx(accuracy, abs=1e-9)
    assert [*scores.f1, scores.mean_f1] == pytest.approx(f1, abs=1e-9)


def test_weighted_accuracy_is_the_papers_formula(reference):
    data = np.load(reference / "eval.npz")
    logits, truths, at = data["test/logits"], data["test/labels"].astype(int), data["v2em/thresholds_valid"]
    told = 1 / (1 + np.exp(-logits)) > at
    for emotion, found in enumerate(score(logits, truths, at).weighted_accuracy):
        true = truths[:, emotion] == 1
        tp, tn = np.sum(told[:, emotion] & true), np.sum(~told[:, emotion] & ~true)
        p, n = true.sum(), (~true).sum()
        assert found == pytest.approx((tp * n / p + tn) / (2 * n))


def test_an_emotion_that_never_occurs_scores_without_dividing_by_zero():
    scores = score(np.full((4, 2), -3.0, np.float32), np.zeros((4, 2), np.int64), [0.5, 0.5])
    assert scores.f1 == (0.0, 0.0)
    assert scores.accuracy == (1.0, 1.0)
