"""The scores are V2EM's and scikit-learn's."""

import numpy as np
import pytest
from sklearn import metrics as sklearn

from mmx.evaluation.scores import METRICS, auc, choose_thresholds, scorecard

LABELS = tuple("abcdef")


def test_the_published_evaluation(reference):
    with np.load(reference / "eval.npz") as data:
        arrays = {name: data[name] for name in data.files}
    thresholds = choose_thresholds(arrays["valid/logits"], arrays["valid/labels"].astype(np.int64))
    assert thresholds == pytest.approx(arrays["v2em/thresholds_valid"])
    tuned = choose_thresholds(arrays["test/logits"], arrays["test/labels"].astype(np.int64))
    assert tuned == pytest.approx(arrays["v2em/thresholds_test"])
    for split, chosen, expected in (
        ("valid", thresholds, "v2em/valid_stats"),
        ("test", thresholds, "v2em/test_stats"),
        ("test", tuned, "v2em/test_tuned_on_test"),
    ):
        card = scorecard(arrays[f"{split}/logits"], arrays[f"{split}/labels"].astype(np.int64), chosen, LABELS)
        for row, metric in enumerate(("accuracy", "recall", "precision", "f1", "auc")):
            found = [*getattr(card, metric), card.mean(metric)]
            np.testing.assert_allclose(found, arrays[expected][row], atol=1e-9, err_msg=f"{split} {metric}")


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_scikit_learn(seed):
    random = np.random.default_rng(seed)
    truths = (random.random((60, 6)) < random.uniform(0.1, 0.9, 6)).astype(np.int64)
    logits = np.round(random.normal(0, 1, (60, 6)), 1).astype(np.float32)  # rounded, so that there are ties
    card = scorecard(logits, truths, [0.5, 0.4, 0.6, 0.3, 0.55, 0.45], LABELS)
    probability = 1 / (1 + np.exp(-logits.astype(np.float64)))
    told = probability > [0.5, 0.4, 0.6, 0.3, 0.55, 0.45]
    for column in range(6):
        true, mine = truths[:, column], told[:, column]
        expected = {
            "accuracy": sklearn.accuracy_score(true, mine),
            "weighted_accuracy": sklearn.balanced_accuracy_score(true, mine),
            "recall": sklearn.recall_score(true, mine, zero_division=0),
            "precision": sklearn.precision_score(true, mine, zero_division=0),
            "f1": sklearn.f1_score(true, mine, zero_division=0),
            "auc": sklearn.roc_auc_score(true, logits[:, column]),
        }
        assert {metric: getattr(card, metric)[column] for metric in METRICS} == pytest.approx(expected, abs=1e-12)


def test_weighted_accuracy_is_equation_seven():
    truths = np.array([[1], [1], [1], [0], [0], [0], [0], [0]])
    logits = np.array([[1], [1], [-1], [-1], [-1], [-1], [-1], [1]], np.float32)
    card = scorecard(logits, truths, [0.5], ["x"])
    positives, negatives, hits, rejections = 3, 5, 2, 4
    assert card.weighted_accuracy[0] == pytest.approx((hits * negatives / positives + rejections) / (2 * negatives))


def test_what_cannot_be_said():
    card = scorecard(np.ones((3, 2), np.float32), np.array([[0, 1]] * 3), [0.5, 0.99], ["x", "y"])
    assert card.f1 == (0.0, 0.0) and card.recall == (0.0, 0.0)
    assert np.isnan(card.auc).all() and np.isnan(card.mean("auc"))
    assert auc(np.array([2.0, 1.0], np.float32), np.array([True, False])) == 1.0
