"""Calibration of probabilities, on logits whose exact probabilities are known."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mmx.calibration.probabilities import add_probabilities, fit_subset, fit_subsets
from mmx.cli.main import main
from mmx.evaluation.reliability import calibration_errors
from mmx.evaluation.trust import ModalityLogits
from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import BadDataError
from mmx.runtime.fusion import fuse, sigmoid
from mmx.runtime.predictor import Predictor
from mmx.runtime.probabilities import Certainty, ErrorLimit, LabelFit, Reliability, SubsetFit
from mmx.view.model import describe_model

LABELS = ("a", "b", "c")
SCALE, SHIFT = np.array([0.4, 2.0, 1.0]), np.array([-1.0, 0.5, 0.0])


def draw(samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a model that is too sure, not sure enough and right, and targets drawn from the exact probabilities."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (samples, 3))
    return logits, (random.random(logits.shape) < sigmoid(SCALE * logits + SHIFT)).astype(np.int64)


def test_a_known_miscalibration_is_found_and_undone() -> None:
    logits, targets = draw(4000, 0)
    fit = fit_subset(logits, targets, LABELS)
    for found, scale, shift in zip(fit.labels.values(), SCALE, SHIFT, strict=True):
        assert found.method == "platt"
        assert (found.scale, found.shift) == (pytest.approx(scale, rel=0.12), pytest.approx(shift, abs=0.12))
    fresh, fresh_targets = draw(40_000, 1)
    assert np.mean(calibration_errors(sigmoid(fresh), fresh_targets)) > 0.05
    assert max(calibration_errors(sigmoid(fit.apply(fresh)), fresh_targets)) < 0.02
    assert fit.after.calibration_error < 0.03 < fit.before.calibration_error
    assert fit.after.brier < fit.before.brier


def test_the_fit_is_that_of_logistic_regression() -> None:
    logits, targets = draw(3000, 2)
    found = fit_subset(logits, targets, LABELS).labels["b"]
    expected = LogisticRegression(C=np.inf).fit(logits[:, 1:2], targets[:, 1])
    assert (found.scale, found.shift) == pytest.approx((expected.coef_[0, 0], expected.intercept_[0]), rel=0.02)


def test_labels_with_few_or_no_positives_are_left_alone() -> None:
    random = np.random.default_rng(3)
    targets = np.zeros((200, 3), np.int64)
    targets[:5, 1] = 1
    targets[:100, 2] = 1
    logits = random.normal(0, 1, (200, 3)) + 3 * targets - 1
    fit = fit_subset(logits, targets, LABELS)
    assert [found.method for found in fit.labels.values()] == ["identity", "temperature", "platt"]
    assert fit.labels["a"] == LabelFit() and fit.labels["b"].shift == 0


def test_separable_labels_stay_finite_and_the_wrong_way_round_keeps_its_order() -> None:
    targets = np.tile([[0], [1]], (50, 1))
    sure = fit_subset(np.where(targets, 5.0, -5.0), targets, ("a",)).labels["a"]
    assert 1 < sure.scale < 10
    against = fit_subset(np.where(targets, -5.0, 5.0), targets, ("a",)).labels["a"]
    assert 0 < against.scale < 0.1


def test_each_set_of_modalities_has_its_own_fit() -> None:
    logits, targets = draw(400, 4)
    present = np.ones(400, bool)
    few = present.copy()
    few[10:] = False
    parts = {"text": 4 * logits, "audio": logits / 2, "visual": logits}
    given = ModalityLogits(
        {m: x.astype(np.float32) for m, x in parts.items()}, dict.fromkeys(parts, present) | {"visual": few}, targets
    )
    fits = fit_subsets(given, {"text": 0.5, "visual": 1.0, "audio": 2.0}, LABELS)
    assert set(fits) == {"text+audio", "text", "audio"}  # ten samples with a face are too few
    assert fits["text"].labels["c"].scale == pytest.approx(fits["audio"].labels["c"].scale / 2, rel=0.1)
    with pytest.raises(BadDataError, match="too few"):
        fit_subsets(ModalityLogits(given.by_modality, dict.fromkeys(parts, few), targets), {"text": 1.0}, LABELS)


class Held:
    """Data as ``add_probabilities`` needs it."""

    targets = None

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> None: ...

    def digest(self) -> str:
        return "0" * 64


def test_a_bundle_carries_its_calibration_and_labels_stay(tiny_bundle: Path, tmp_path: Path) -> None:
    plain = Bundle.open(copytree(tiny_bundle, tmp_path / "b.mmx"))
    labels = plain.manifest.labels
    assert plain.calibration == {}
    measured = Reliability(0.1, 0.2)
    by_label = {label: LabelFit(0.5 + i, i - 1.0, "platt") for i, label in enumerate(labels)}
    fits = {"text+audio": SubsetFit(30, by_label, measured, measured, (ErrorLimit(0.1, 0.8, 0.4),))}
    bundle = add_probabilities(plain, Held(), fits, 0.0)
    assert Bundle.open(bundle.path).calibration == fits
    assert not bundle.passed_over

    random = np.random.default_rng(5)
    rows = {m: random.normal(0, 2, len(labels)).astype(np.float32) for m in plain.manifest.modalities}
    told = describe_model(bundle.manifest, {"+".join(plain.manifest.modalities): fits["text+audio"]})
    threshold = np.log(plain.manifest.thresholds[1] / (1 - plain.manifest.thresholds[1]))
    assert told["thresholds"][labels[1]] == pytest.approx(1 / (1 + np.exp(-1.5 * threshold)))  # scale 1.5, shift 0
    before = fuse(rows, ("text", "audio"), plain.manifest)
    after = fuse(rows, ("text", "audio"), plain.manifest, bundle.calibration)
    assert before.fit is None and after.fit is not None
    assert after.logits == before.logits and set(after.labels) == set(before.labels)
    for i, label in enumerate(labels):
        exact = 1 / (1 + np.exp(-((0.5 + i) * before.logits[label] + i - 1.0)))
        assert after.probabilities[label] == pytest.approx(exact)
        assert (after.probabilities[label] > after.thresholds[label]) == (label in before.labels)
    other = fuse(rows, ("text",), plain.manifest, bundle.calibration)
    assert other == fuse(rows, ("text",), plain.manifest)  # which was not calibrated

    newer = add_probabilities(bundle, Held(), {"text": fits["text+audio"]}, 0.0)
    assert set(newer.calibration) == {"text"} and len(newer.variants) == 1


def test_what_is_asked_for_is_met_or_doubted() -> None:
    measured = Reliability(0.0, 0.0)
    fit = SubsetFit(30, {}, measured, measured, (ErrorLimit(0.1, 0.8, 0.4), ErrorLimit(0.2, 0.6, 0.7)))
    assert Certainty().doubt(0.0, None) is None
    assert Certainty(min_confidence=0.5).doubt(0.5, None) is None
    assert "49.0%, under the 50.0%" in (Certainty(min_confidence=0.5).doubt(0.49, None) or "")
    assert Certainty(max_error=0.15).doubt(0.8, fit) is None  # the limit of 0.1 holds for 0.15 too
    assert "takes 80.0%" in (Certainty(max_error=0.15).doubt(0.7, fit) or "")
    assert Certainty(max_error=0.2).doubt(0.7, fit) is None
    assert "no confidence gave" in (Certainty(max_error=0.05).doubt(1.0, fit) or "")
    assert "these modalities alone" in (Certainty(max_error=0.5).doubt(1.0, None) or "")


def test_a_network_withholds_what_is_too_doubtful(tiny_bundle: Path, tone: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(copytree(tiny_bundle, tmp_path / "b.mmx"))
    with Predictor(bundle, backend="onnxruntime", threads=1) as predictor:
        (plain,) = predictor.predict(tone)
    assert not plain.calibrated and plain.uncertain is None
    assert plain.thresholds == dict(zip(bundle.manifest.labels, bundle.manifest.thresholds, strict=True))
    measured = Reliability(0.0, 0.0)
    by_label = {label: LabelFit(1.0, 0.0 if label == "sad" else -6.0, "platt") for label in bundle.manifest.labels}
    limits = (ErrorLimit(0.1, 0.999, 0.1), ErrorLimit(0.3, 0.001, 0.9))
    add_probabilities(bundle, Held(), {"audio": SubsetFit(30, by_label, measured, measured, limits)}, 0.0)
    found = {}
    for name, certainty in (("none", None), ("strict", Certainty(max_error=0.1)), ("loose", Certainty(max_error=0.3))):
        with Predictor(bundle.path, backend="onnxruntime", threads=1, certainty=certainty) as predictor:
            (found[name],) = predictor.predict(tone)
    assert found["none"].calibrated and set(found["none"].labels) == set(plain.labels)
    assert found["strict"].labels == () and "takes 99.9%" in (found["strict"].uncertain or "")
    assert found["loose"].labels == found["none"].labels and found["loose"].uncertain is None
    assert found["strict"].probabilities == found["none"].probabilities


def test_a_stated_error_needs_calibration(tiny_bundle: Path, tone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(tiny_bundle), str(tone), "--max-error", "0.1"]) == 2
    assert "has no calibrated probabilities" in capsys.readouterr().err
