"""The scores are V2EM's and scikit-learn's."""

import numpy as np
import pytest
from sklearn import metrics as sklearn

from mmx.evaluation.scores import METRICS, UNDECIDED, choose_thresholds, decisions, flips, scorecard, undecided
from mmx.runtime.errors import BadDataError

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
    targets = (random.random((60, 6)) < random.uniform(0.1, 0.9, 6)).astype(np.int64)
    logits = np.round(random.normal(0, 1, (60, 6)), 1).astype(np.float32)  # rounded, so that there are ties
    card = scorecard(logits, targets, [0.5, 0.4, 0.6, 0.3, 0.55, 0.45], LABELS)
    probability = 1 / (1 + np.exp(-logits.astype(np.float64)))
    found = probability > [0.5, 0.4, 0.6, 0.3, 0.55, 0.45]
    for column in range(6):
        true, mine = targets[:, column], found[:, column]
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
    targets = np.array([[1], [1], [1], [0], [0], [0], [0], [0]])
    logits = np.array([[1], [1], [-1], [-1], [-1], [-1], [-1], [1]], np.float32)
    card = scorecard(logits, targets, [0.5], ["x"])
    positives, negatives, hits, rejections = 3, 5, 2, 4
    assert card.weighted_accuracy[0] == pytest.approx((hits * negatives / positives + rejections) / (2 * negatives))


def test_what_cannot_be_said():
    card = scorecard(np.ones((3, 2), np.float32), np.array([[0, 1]] * 3), [0.5, 0.99], ["x", "y"])
    assert card.f1 == (0.0, 0.0) and card.recall == (0.0, 0.0)
    assert np.isnan(card.auc).all() and np.isnan(card.mean("auc"))


def test_balanced_accuracy_of_one_class_is_that_classs_recall():
    """40 samples, all of them true, 21 of them predicted: 0.525, not half of it for a class that does not occur."""
    logits = np.where(np.arange(40) < 21, 1.0, -1.0).astype(np.float32)[:, None]
    card = scorecard(logits, np.ones((40, 1), np.int64), [0.5], ["x"])
    assert card.weighted_accuracy == (21 / 40,)
    both = scorecard(np.hstack([logits, logits]), np.array([[1, 1]] * 20 + [[1, 0]] * 20), [0.5, 0.5], ["x", "y"])
    assert both.mean("weighted_accuracy") == pytest.approx((21 / 40 + (20 / 20 + 19 / 20) / 2) / 2)


def test_every_score_is_of_the_same_decisions_on_ties():
    """Probabilities that are at the threshold in float32 and beside it in float64, or the other way round."""
    grid = np.linspace(0.05, 0.95, 19)
    ties = np.log(grid / (1 - grid)).astype(np.float32)
    logits = np.concatenate([ties, np.nextafter(ties, np.float32(9)), np.nextafter(ties, np.float32(-9))])[:, None]
    for threshold in (0.05, 0.35, 0.5, 0.65, 0.95):
        predicted = 1 / (1 + np.exp(-logits.astype(np.float64))) > threshold
        np.testing.assert_array_equal(decisions(logits, [threshold]), predicted)
        for targets in (predicted.astype(np.int64), 1 - predicted.astype(np.int64)):
            card = scorecard(logits, targets, [threshold], ["x"])
            share = float(targets[0, 0] == predicted[0, 0])
            assert card.accuracy == card.recall == card.precision == card.f1 == card.weighted_accuracy == (share,)
    assert flips(logits, logits, [0.35]) == 0


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_not_scored(wrong):
    logits = np.zeros((3, 2), np.float32)
    logits[2, 1] = wrong
    targets = np.array([[0, 1], [1, 0], [1, 1]])
    for score in (lambda: scorecard(logits, targets, [0.5] * 2, "ab"), lambda: choose_thresholds(logits, targets)):
        with pytest.raises(BadDataError, match="logit 1 of sample 2 is"):
            score()


def test_a_label_without_positives_gets_a_threshold_in_the_middle_and_is_named():
    random = np.random.default_rng(0)
    logits = random.normal(0, 1, (50, 3)).astype(np.float32)
    targets = np.stack([np.zeros(50), np.ones(50), logits[:, 2] > 0.4], axis=1).astype(np.int64)
    thresholds = choose_thresholds(logits, targets)
    assert thresholds[:2] == (UNDECIDED, UNDECIDED) and thresholds[2] == pytest.approx(0.6)
    note = undecided(targets, ["fear", "joy", "anger"])
    assert note is not None and "fear (no positives), joy (only positives)" in note and "anger" not in note
    assert undecided(targets[:, 2:], ["anger"]) is None
