"""Fusion against the linear layer it stands for, and its behaviour when modalities are missing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mmx.runtime.fusion import fuse, sigmoid
from mmx.runtime.manifest import Manifest, Preprocessing

WEIGHTS = {"text": 0.75, "visual": -0.5, "audio": 1.25}
LABELS = ("ang", "hap", "sad")


@pytest.fixture
def manifest() -> Manifest:
    return Manifest(
        schema_version=2,
        system="ours",
        form="training",
        dataset="iemocap",
        labels=LABELS,
        thresholds=(0.5, 0.9, 0.5),
        modalities=("text", "visual", "audio"),
        fusion_weights=WEIGHTS,
        preprocessing=Preprocessing(),
        graphs={},
        files={},
    )


@pytest.fixture
def logits() -> dict[str, np.ndarray]:
    return {
        "text": np.array([1.0, 2.0, -1.0], np.float32),
        "visual": np.array([0.5, -3.0, 2.0], np.float32),
        "audio": np.array([0.25, 0.5, 1.5], np.float32),
    }


def test_all_modalities_are_a_bias_free_linear_layer(manifest: Manifest, logits: dict[str, np.ndarray]) -> None:
    fused = fuse(logits, ("audio", "visual", "text"), manifest)
    assert fused.modalities == ("text", "visual", "audio")
    assert list(fused.logits.values()) == [0.8125, 3.625, 0.125]  # exact in binary
    assert fused.probabilities["hap"] == pytest.approx(1 / (1 + math.exp(-3.625)), rel=1e-15)
    assert fused.labels == ("hap", "ang", "sad")  # by probability; 0.974 > 0.9
    assert fused.contributions["visual"] == {"ang": -0.25, "hap": 1.5, "sad": -1.0}
    assert fused.modality_logits["audio"] == {"ang": 0.25, "hap": 0.5, "sad": 1.5}


def test_an_absent_modality_adds_nothing(manifest: Manifest, logits: dict[str, np.ndarray]) -> None:
    logits["visual"] = np.full(3, np.nan, np.float32)  # whatever the tower made of its placeholder
    fused = fuse(logits, ("text", "audio"), manifest)
    assert fused.modalities == ("text", "audio")
    assert list(fused.logits.values()) == [1.0625, 2.125, 1.125]
    assert fused.labels == ("sad", "ang")  # hap: 0.893 is not over 0.9
    assert "visual" not in fused.contributions and "visual" not in fused.modality_logits


def test_without_any_modality_nothing_is_claimed(manifest: Manifest, logits: dict[str, np.ndarray]) -> None:
    fused = fuse(logits, (), manifest)
    assert (fused.modalities, fused.labels, fused.logits, fused.probabilities) == ((), (), {}, {})


def test_a_threshold_must_be_exceeded(manifest: Manifest) -> None:
    zero = {name: np.zeros(3, np.float32) for name in WEIGHTS}
    assert fuse(zero, WEIGHTS, manifest).labels == ()  # 0.5 is not > 0.5


def test_sigmoid_is_exact_at_both_ends() -> None:
    x = np.array([-1e4, -745.0, -30.0, 0.0, 30.0, 1e4])
    with np.errstate(over="raise", invalid="raise"):
        y = sigmoid(x)
    assert y[0] == 0 and y[1] == pytest.approx(math.exp(-745.0)) and y[3] == 0.5 and y[5] == 1
    assert y[2] == pytest.approx(math.exp(-30) / (1 + math.exp(-30)), rel=1e-15)
