"""Training with faults: each is in the modality that it harms, drawn anew each epoch, and the same when run again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmx.datasets.augmented import Augmentation, Augmented, balanced
from mmx.datasets.corruptions import Corruption
from mmx.datasets.dataset import find_dataset
from mmx.datasets.samples import Utterances
from mmx.datasets.tokenizer import train_tokenizer
from mmx.export.face_nets import face_nets
from mmx.runtime.errors import UsageError
from mmx.runtime.manifest import Preprocessing
from mmx.runtime.media.mel import mel_pieces
from mmx.runtime.media.text import Tokenizer
from mmx.runtime.types import MODALITIES, Sample


@pytest.fixture(scope="module")
def clean(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Utterances:
    """Six utterances of the drawn set."""
    root = tmp_path_factory.mktemp("augmented")
    items = find_dataset(drawn).items("train")
    train_tokenizer([item.text for item in items], root)
    tokenizer = Tokenizer.load(root, Preprocessing().text)
    return Utterances(items[:6], Preprocessing(), face_nets(), tokenizer, cache=root / "cache")


def changed(a: Sample, b: Sample) -> set[str]:
    pairs = {"text": (a.token_ids, b.token_ids), "visual": (a.faces, b.faces), "audio": (a.pieces, b.pieces)}
    return {name for name, (one, two) in pairs.items() if not np.array_equal(one, two)}


@pytest.mark.parametrize(
    ("what", "modality"),
    [("noise:0", "audio"), ("babble:0", "audio"), ("reverb:1", "audio"), ("codec:6", "audio"), ("blur:4", "visual"),
     ("dark:2", "visual"), ("asr-errors:1", "text")],
)  # fmt: skip
def test_a_fault_is_in_its_modality_and_comes_again(clean: Utterances, what: str, modality: str) -> None:
    made = Augmented(clean, Augmentation.parse(what, 1.0), 5, MODALITIES)
    assert changed(clean[2], made.sample(2, 0)) == {modality}
    assert not changed(made.sample(2, 0), made.sample(2, 0))
    others = [name for name in MODALITIES if name != modality]
    assert not changed(clean[2], Augmented(clean, Augmentation.parse(what, 1.0), 5, others).sample(2, 0))


def test_every_epoch_draws_anew(clean: Utterances) -> None:
    made = Augmented(clean, Augmentation.parse("all", 0.5), 0, MODALITIES)
    seen = [changed(clean[0], made.sample(0, epoch)) for epoch in range(12)]
    assert set() != set.union(*seen) == set(MODALITIES)
    assert len({frozenset(each) for each in seen}) > 2
    assert made.sample(0, 3).pieces.shape == clean[0].pieces.shape


def test_flips_are_of_all_faces(clean: Utterances) -> None:
    made = Augmented(clean, Augmentation.parse("flip", 1.0), 0, MODALITIES)
    flipped = [np.array_equal(made.sample(1, epoch).faces, clean[1].faces[..., ::-1]) for epoch in range(20)]
    assert 4 < sum(flipped) < 16
    assert all(f or not changed(made.sample(1, epoch), clean[1]) for epoch, f in enumerate(flipped))


def test_what_is_asked_for() -> None:
    asked = Augmentation.parse("noise:10, flip", 0.5)
    assert asked.faults == (Corruption("noise", 10),) and asked.flips
    assert Augmentation.parse("all", 0.5).flips and len({f.name for f in Augmentation.parse("all", 0.5).faults}) == 8
    with pytest.raises(UsageError, match="no corruption 'smell'"):
        Augmentation.parse("smell", 0.5)


def test_the_sound_is_kept_in_the_cache(clean: Utterances) -> None:
    first, rate = clean.sound(3)
    again, _ = clean.sound(3)
    np.testing.assert_array_equal(first, again)
    mel = mel_pieces(first, clean.spec.mel, rate)
    np.testing.assert_allclose(mel, clean[3].pieces, rtol=1e-2, atol=1e-4 * clean[3].pieces.max())


def test_balanced_chances_make_labels_equally_frequent() -> None:
    targets = np.eye(3, dtype=np.int64)[[0] * 90 + [1] * 9 + [2]]
    np.testing.assert_allclose(balanced(targets) @ targets, [1 / 3] * 3)
    several = np.array([[1, 0], [1, 1], [0, 0], [1, 0]])
    chances = balanced(several)
    assert chances.sum() == pytest.approx(1) and chances[2] > chances[1] > chances[0] == chances[3]
