"""What is unlike the training data: distances against SciPy's, limits on fresh draws, and what a prediction says."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import LedoitWolf

from mmx.calibration.domain import add_domain, fit_domain, fit_gaussian
from mmx.runtime.bundle import Bundle
from mmx.runtime.domain import SIZES, Gaussian, describe, unlike
from mmx.runtime.errors import BadDataError
from mmx.runtime.manifest import MelSpec
from mmx.runtime.media.mel import mel_pieces
from mmx.runtime.network import Network
from mmx.runtime.preprocess import Segment
from mmx.runtime.types import Sample, Span
from mmx.runtime.variants import read_variant

RATE = 16_000


def voice(random: np.random.Generator) -> NDArray[np.float32]:
    """Harmonics of a gliding pitch, in syllables."""
    times = np.arange(int(RATE * random.uniform(1, 2))) / RATE
    pitch = random.uniform(90, 220) * (1 + 0.1 * np.sin(2 * np.pi * times * random.uniform(0.5, 2)))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    tones = np.sum([np.sin(k * phase) / k ** random.uniform(1, 1.5) for k in range(1, 20)], axis=0)
    syllables = np.clip(np.sin(2 * np.pi * times * random.uniform(3, 5)), 0.05, 1)
    return (0.1 * tones * syllables + 0.002 * random.standard_normal(len(times))).astype(np.float32)


def face(random: np.random.Generator) -> NDArray[np.float32]:
    """A bright oval with two dark eyes on a plain background."""
    y, x = np.mgrid[:48, :48]
    oval = ((x - 24) / 18) ** 2 + ((y - 24) / 22) ** 2 < 1
    eyes = sum(((x - at - random.normal(0, 1)) ** 2 + (y - 18) ** 2 < 9) for at in (16, 32)) > 0
    grey = np.where(oval, random.uniform(150, 220), random.uniform(40, 120)) * np.where(eyes, 0.3, 1.0)
    tint = random.uniform(0.8, 1.0, (3, 1, 1))
    return np.clip(grey * tint + random.normal(0, 4, (3, 48, 48)), 0, 255).astype(np.float32)


def sample(faces: list[NDArray], sound: NDArray | None) -> Sample:
    pieces = mel_pieces(sound, MelSpec()) if sound is not None else np.empty((0, 128, 32), np.float32)
    return Sample(None, np.stack(faces) if faces else np.empty((0, 3, 48, 48), np.float32), pieces)


class Drawn:
    """What ``Utterances`` offers."""

    def __init__(self, count: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.samples = [sample([face(random) for _ in range(2)], voice(random)) for _ in range(count)]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def digest(self) -> str:
        return "0" * 64


@pytest.fixture(scope="module")
def domain() -> dict[str, Gaussian]:
    return fit_domain(Drawn(100, 0), Drawn(60, 1))  # type: ignore[arg-type]


def test_the_distance_is_scipys() -> None:
    random = np.random.default_rng(0)
    mixing = random.normal(0, 1, (5, 5))
    train, valid = random.normal(3, 1, (400, 5)) @ mixing, random.normal(3, 1, (200, 5)) @ mixing
    found, reference = fit_gaussian(train, valid), LedoitWolf().fit(train)
    for each in valid[:10]:
        expected = mahalanobis(each, reference.location_, np.linalg.inv(reference.covariance_)) / np.sqrt(5)
        assert found.distance(each) == pytest.approx(expected, rel=1e-6)
    assert np.mean([found.distance(each) > found.limit for each in random.normal(3, 1, (2000, 5)) @ mixing]) < 0.02
    few = fit_gaussian(train, valid[:10])
    assert few.limit == pytest.approx(max(few.distance(each) for each in valid[:10]))


def test_fresh_utterances_are_in_the_domain_and_what_says_nothing_is_not(domain: dict[str, Gaussian]) -> None:
    fresh = Drawn(60, 2).samples
    assert np.mean([unlike(each, domain)[1] is not None for each in fresh]) <= 0.05
    random, times = np.random.default_rng(3), np.arange(2 * RATE) / RATE
    ramp = np.broadcast_to(np.linspace(0, 255, 48), (3, 48, 48)).astype(np.float32)
    for faces in ([ramp], [np.full((3, 48, 48), 90, np.float32)], [random.uniform(0, 255, (3, 48, 48))]):
        distances, why = unlike(sample(faces, None), domain)
        assert why == "the faces are unlike the training data" and distances["faces_distance"] > 1
    pink = np.fft.irfft(np.fft.rfft(random.normal(size=len(times))) / np.sqrt(np.arange(1, len(times) // 2 + 2)))
    tone, hum = 0.3 * np.sin(2 * np.pi * 440 * times), 0.1 * np.sign(np.sin(2 * np.pi * 50 * times))
    for sound in (tone, hum, 0.05 * pink / pink.std()):
        distances, why = unlike(sample([], sound.astype(np.float32)), domain)
        assert why == "the sound is unlike the training data" and set(distances) == {
            "spectrum_distance",
            "variation_distance",
        }


def test_descriptions_depend_on_no_order_and_have_their_sizes() -> None:
    random = np.random.default_rng(4)
    given = sample([face(random) for _ in range(3)], voice(random))
    turned = Sample(None, given.faces[::-1], given.pieces)
    found = describe(given)
    assert {name: (len(each),) for name, each in found.items()} == {kind: (size,) for kind, size in SIZES.items()}
    np.testing.assert_allclose(describe(turned)["faces"], found["faces"], rtol=1e-12)
    assert all(
        np.isfinite(each).all() for each in describe(sample([face(random) * 0], np.zeros(99, np.float32))).values()
    )
    assert describe(sample([], None)) == {} and unlike(sample([], None), {}) == ({}, None)


def test_too_few_utterances_have_no_domain() -> None:
    assert fit_domain(Drawn(3, 0), Drawn(3, 1)) == {}  # type: ignore[arg-type]


def test_a_prediction_out_of_domain_is_uncertain(
    tiny_bundle: Path, tmp_path: Path, domain: dict[str, Gaussian]
) -> None:
    plain = Bundle.open(copytree(tiny_bundle, tmp_path / "b.mmx"))
    data = Drawn(1, 5)
    bundle = add_domain(plain, data, data, domain)  # type: ignore[arg-type]
    assert bundle.domain == domain and Bundle.open(bundle.path).domain == domain and plain.domain == {}
    random, times = np.random.default_rng(6), np.arange(2 * RATE) / RATE
    usual = sample([face(random)], voice(random))
    tone = sample([face(random)], np.sin(2 * np.pi * 440 * times).astype(np.float32))
    segments = [Segment("a.mp4", Span(0, 2), each, {}, (), 1, (), {}) for each in (usual, tone, sample([], None))]
    with Network.open(bundle, "onnxruntime", threads=1) as network:
        fine, strange, empty = network.predict(segments)
    assert "out_of_domain" not in fine.flags and fine.uncertain is None  # type: ignore[union-attr]
    assert len(fine.quality) == 3 and max(fine.quality.values()) < 1  # type: ignore[union-attr]
    assert "out_of_domain" in strange.flags and strange.labels == ()  # type: ignore[union-attr]
    assert strange.uncertain == "the sound is unlike the training data" and strange.probabilities  # type: ignore[union-attr]
    assert "out_of_domain" not in empty.flags and empty.probabilities == {}  # type: ignore[union-attr]
    with Network.open(plain, "onnxruntime", threads=1) as network:
        (same,) = network.predict(segments[1:2])
    assert same.probabilities == strange.probabilities and same.quality == {}  # type: ignore[union-attr]


def test_a_damaged_record_is_passed_over(tiny_bundle: Path, tmp_path: Path, domain: dict[str, Gaussian]) -> None:
    bundle = Bundle.open(copytree(tiny_bundle, tmp_path / "b.mmx"))
    (variant,) = add_domain(bundle, Drawn(1, 5), Drawn(1, 5), domain).variants  # type: ignore[arg-type]
    path = variant.path / "record.json"
    content = json.loads(path.read_text())
    content["kinds"]["spectrum"]["mean"].pop()
    path.write_text(json.dumps(content))
    with pytest.raises(BadDataError, match="not of what mmx describes"):
        read_variant(variant.path)
    assert bundle.refreshed().domain == {}
