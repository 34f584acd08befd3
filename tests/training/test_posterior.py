"""The exact posterior of synthetic utterances, against the best possible scores and counted frequencies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import entropy

from mmx.datasets.dataset import find_dataset
from mmx.runtime.errors import BadDataError
from mmx.training.synthetic.ideal import ideal
from mmx.training.synthetic.posterior import Posteriors, divergence
from mmx.training.synthetic.sentences import EMOTIONS
from mmx.training.synthetic.writer import random_of, say_and_show

COUNT = 3000


@pytest.fixture(scope="module")
def emotions() -> list[str]:
    return [EMOTIONS[i % 6] for i in range(COUNT)]


@pytest.fixture(scope="module")
def exact(emotions: list[str], tmp_path_factory: pytest.TempPathFactory) -> Posteriors:
    """Of utterances that are never drawn: their names and seed are all it takes."""
    root = tmp_path_factory.mktemp("set")
    (root / "synthetic.json").write_text(json.dumps({"seed": 5}))
    return Posteriors(root, [f"synth0000_{i:05d}" for i in range(COUNT)], emotions)


def test_its_best_guess_is_as_good_as_can_be(exact: Posteriors, emotions: list[str]) -> None:
    true = np.array([EMOTIONS.index(each) for each in emotions])
    best = ideal()
    for modalities, share in (
        (("text",), best.text),
        (("visual",), best.visual),
        (("audio",), best.audio),
        (("text", "visual", "audio"), best.all),
    ):
        found = exact.of(modalities)
        assert found.sum(axis=1) == pytest.approx(1)
        right = (found.argmax(axis=1) == true).mean()
        assert right == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / COUNT))


def test_it_is_calibrated(exact: Posteriors, emotions: list[str]) -> None:
    true = np.array([[each == emotion for emotion in EMOTIONS] for each in emotions])
    for modalities in (("text",), ("text", "audio"), ("text", "visual", "audio")):
        found = exact.of(modalities)
        for low, high in ((0.0, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 0.9), (0.9, 1.0)):
            there = (found >= low) & (found < high)
            spread = np.sqrt((found[there] * (1 - found[there])).mean() / there.sum())
            assert true[there].mean() == pytest.approx(found[there].mean(), abs=5 * spread)


def test_it_knows_what_is_on_the_disk(drawn: Path) -> None:
    data = find_dataset(drawn)
    items = data.items("train")
    emotions = [EMOTIONS[item.target.index(1)] for item in items]
    for item, emotion in zip(items, emotions, strict=True):
        assert say_and_show(emotion, random_of(3, int(item.name[-5:])))[2] == item.text
    order = EMOTIONS[::-1]
    found = Posteriors(drawn, [item.name for item in items], emotions)
    np.testing.assert_array_equal(found.of(("text",), order), found.of(("text",))[:, ::-1])
    with pytest.raises(BadDataError, match="does not say which seed"):
        Posteriors(drawn / "nowhere", ["synth0000_00000"], ["anger"])


def test_the_divergence_is_scipys() -> None:
    random = np.random.default_rng(0)
    q, p = random.uniform(0.01, 0.99, (2, 50, 6))
    expected = np.mean(entropy(np.stack([q, 1 - q]), np.stack([p, 1 - p])))
    assert divergence(q, p) == pytest.approx(expected) and divergence(q, q) == pytest.approx(0)
    assert np.isfinite(divergence(np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]])))
