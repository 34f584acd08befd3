"""Faults of recordings against independent references: measured SNR and decay, OpenCV, sRGB's table, edit distance."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from mmx.datasets.corruptions import (
    KINDS,
    Corruption,
    asr_errors,
    babble,
    blur,
    codec,
    dark,
    lowres,
    noise,
    parse_corruptions,
    reverb,
)
from mmx.runtime.errors import UsageError
from mmx.training.synthetic.voice import RATE, Prosody, Voice, speak

WORDS = ["lonely", "kitchen", "letter", "again", "today"]


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(7)


def voice(seed: int = 0) -> NDArray[np.float32]:
    words = "so my brother said that evening the kitchen was lovely again"
    somebody = Voice(pitch=120 + 40 * seed, throat=1.0, rate=1.0, noise=0.001, gain=1.0)
    return speak(words, somebody, Prosody(), np.random.default_rng(seed))


def measured_snr(clean: NDArray, heard: NDArray) -> float:
    return float(10 * np.log10((clean.astype(float) ** 2).sum() / ((heard.astype(float) - clean) ** 2).sum()))


@pytest.mark.parametrize("snr", [20.0, 0.0, -10.0])
def test_noise_and_babble_lie_as_far_below_the_voice_as_asked(random: np.random.Generator, snr: float) -> None:
    clean = voice()
    others = [voice(seed)[: 9000 + 1000 * seed] for seed in (1, 2, 3)]
    for heard in (noise(clean, snr, random), babble(clean, snr, others, random)):
        assert heard.dtype == np.float32 and heard.shape == clean.shape
        assert measured_snr(clean, heard) == pytest.approx(snr, abs=0.05)


def test_noise_is_white_and_babble_is_the_other_voices(random: np.random.Generator) -> None:
    clean, other = voice(), voice(1)
    added = np.abs(np.fft.rfft(noise(clean, 0, random) - clean)) ** 2
    quarters = [part.mean() for part in np.array_split(added, 4)]
    assert max(quarters) / min(quarters) < 1.1
    mixed = babble(clean, 0, [other], random) - clean
    spectrum, expected = (np.abs(np.fft.rfft(np.resize(each, 60_000))) for each in (mixed, other))
    assert np.corrcoef(spectrum, expected)[0, 1] > 0.7  # the same voice, from another place on


def test_babble_needs_another_voice(random: np.random.Generator) -> None:
    with pytest.raises(UsageError, match="babble needs the sound of other utterances"):
        babble(voice(), 0, [np.zeros(100, np.float32)], random)


@pytest.mark.parametrize("rt60", [0.3, 1.0])
def test_a_reverbs_tail_falls_by_60_db_in_its_time(random: np.random.Generator, rt60: float) -> None:
    click = np.zeros(2 * RATE, np.float32)
    click[0] = 1.0
    tail = reverb(click, RATE, rt60, random).astype(float)[RATE // 100 :]
    left = 10 * np.log10(np.cumsum(tail[::-1] ** 2)[::-1][: int(rt60 * RATE * 0.7)])  # Schroeder's integral
    times = np.arange(len(left)) / RATE
    fitted = (left < left[0] - 5) & (left > left[0] - 25)  # T20, as ISO 3382 measures it
    slope = np.polyfit(times[fitted], left[fitted], 1)[0]
    assert -60 / slope == pytest.approx(rt60, rel=0.1)


def test_a_reverb_keeps_length_and_loudness(random: np.random.Generator) -> None:
    clean = voice()
    heard = reverb(clean, RATE, 0.8, random)
    assert heard.shape == clean.shape and heard.dtype == np.float32
    assert np.std(heard) == pytest.approx(np.std(clean), rel=0.02)
    assert np.corrcoef(heard, clean)[0, 1] == pytest.approx(0.7, abs=0.15)  # half of its energy is the direct sound


def test_a_codec_does_not_delay_and_loses_more_at_a_lower_rate() -> None:
    clean = voice()
    lost = []
    for kbps in (64, 12, 6):
        heard = codec(clean, RATE, kbps)
        assert heard.shape == clean.shape and heard.dtype == np.float32
        lags = [np.dot(heard[200:-200], clean[200 + lag : len(clean) - 200 + lag]) for lag in range(-100, 101)]
        assert abs(int(np.argmax(lags)) - 100) <= 3  # samples
        spectra = [np.abs(np.fft.rfft(each[: len(clean) // 512 * 512].reshape(-1, 512))) for each in (heard, clean)]
        lost.append(np.sqrt(((spectra[0] - spectra[1]) ** 2).sum() / (spectra[1] ** 2).sum()))
    assert lost[0] < 0.1 and lost[0] < lost[1] < lost[2]


@pytest.mark.parametrize("samples", [0, 1, 160])
def test_sounds_of_almost_nothing(random: np.random.Generator, samples: int) -> None:
    sound = np.full(samples, 0.1, np.float32)
    made = [noise(sound, 0, random), babble(sound, 0, [voice()], random), reverb(sound, RATE, 0.3, random)]
    for heard in (*made, codec(sound, RATE, 12)):
        assert heard.shape == sound.shape and np.isfinite(heard).all()
    assert not noise(np.zeros(samples, np.float32), 0, random).any()


def test_blur_is_opencvs(random: np.random.Generator) -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is the reference")
    frames = random.integers(0, 256, (2, 40, 60, 3), dtype=np.uint8)
    for sigma in (1.0, 2.5):
        blurred = blur(frames, sigma)
        assert blurred.dtype == np.uint8
        for frame, made in zip(frames, blurred, strict=True):
            size = 2 * int(4 * sigma + 0.5) + 1
            expected = cv2.GaussianBlur(frame.astype(np.float32), (size, size), sigma, borderType=cv2.BORDER_REPLICATE)
            assert np.abs(made - expected).max() <= 0.51
    assert (blur(frames, 0) == frames).all()


def test_darkness_is_srgbs() -> None:
    white = np.full((2, 2, 3), 255, np.uint8)
    assert [int(dark(white, stops)[0, 0, 0]) for stops in (0, 1, 2, 3)] == [255, 188, 137, 99]  # IEC 61966-2-1
    crops = np.full((1, 2, 2, 3), 127.5, np.float32)
    assert dark(crops, 1).dtype == np.float32 and dark(crops, 1)[0, 0, 0, 0] == pytest.approx(92.0, abs=0.5)


@pytest.mark.parametrize("factor", [2, 4])
def test_low_resolution_is_opencvs(random: np.random.Generator, factor: int) -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is the reference")
    frames = random.integers(0, 256, (2, 48, 64, 3), dtype=np.uint8)
    for frame, made in zip(frames, lowres(frames, factor), strict=True):
        size = (64 // factor, 48 // factor)
        small = cv2.resize(frame.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        expected = cv2.resize(small, (64, 48), interpolation=cv2.INTER_LINEAR)
        assert np.abs(made - expected).max() <= 0.51


@pytest.mark.parametrize("factor", [1, 1.7, 100])
def test_low_resolution_of_any_factor_keeps_an_even_frame(factor: float) -> None:
    even = np.full((33, 47, 3), 119, np.uint8)
    assert (lowres(even, factor) == even).all()


@pytest.mark.parametrize("wer", [0.0, 0.1, 0.4])
def test_word_errors_by_edit_distance(random: np.random.Generator, wer: float) -> None:
    said = [f"word{i}" for i in range(2000)]  # all different, so that no alignment hides an error
    heard = asr_errors(" ".join(said), wer, WORDS, random).split()
    assert distance(said, heard) / len(said) == pytest.approx(wer, abs=0.03)
    assert len(heard) == pytest.approx(len(said), abs=60)  # as many come in as go out


def distance(said: list[str], heard: list[str]) -> int:
    """Levenshtein's, over words, in a band around the diagonal."""
    row = np.arange(len(heard) + 1)
    for i, word in enumerate(said, 1):
        cost = np.minimum(row[1:] + 1, row[:-1] + np.array([word != other for other in heard]))
        steps = np.concatenate([[i], cost]) - np.arange(len(heard) + 1)
        row = np.minimum.accumulate(steps) + np.arange(len(heard) + 1)
    return int(row[-1])


def test_word_errors_need_words(random: np.random.Generator) -> None:
    with pytest.raises(UsageError, match="vocabulary of two words"):
        asr_errors("a b", 0.5, ["a", "a"], random)
    assert asr_errors("", 0.5, WORDS, random) == ""


def test_a_list_of_corruptions() -> None:
    found = parse_corruptions(" noise:5, blur,noise:5 ,asr-errors:0.25")
    usual = [Corruption("blur", severity) for severity in KINDS["blur"].usual]
    assert list(found) == [Corruption("noise", 5), *usual, Corruption("asr-errors", 0.25)]
    assert {each.name for each in parse_corruptions("all")} == set(KINDS)
    assert str(found[0]) == "noise:5" and found[0].modality == "audio"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("fog:1", "no corruption 'fog'"),
        ("noise:loud", "noise:loud: not within -40 to 80 dB SNR"),
        ("noise:nan", "not within"),
        ("asr-errors:2", "not within 0 to 1 WER"),
        ("codec:1", "not within 6 to 128"),
        ("all:3", "no corruption 'all'"),
        (" , ", "names no corruption"),
    ],
)
def test_a_wrong_list_is_one_line(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parse_corruptions(text)


@pytest.mark.parametrize("corruption", parse_corruptions("all"), ids=str)
def test_every_corruption_changes_its_modality_and_repeats_with_its_seed(corruption: Corruption) -> None:
    sound, frames = voice(), np.random.default_rng(1).integers(0, 256, (1, 24, 24, 3), dtype=np.uint8)

    def made() -> NDArray | str:
        random = np.random.default_rng(3)
        if corruption.modality == "audio":
            return corruption.sound(sound, RATE, random, [voice(1), voice(2)])
        if corruption.modality == "visual":
            return corruption.frames(frames)
        return corruption.words("the doctor and the team " * 20, WORDS, random)

    clean = {"audio": sound, "visual": frames, "text": "the doctor and the team " * 20}[corruption.modality]
    assert np.array_equal(made(), made()) and not np.array_equal(made(), clean)
