"""The mel pieces against torchaudio's (published arrays) and librosa's, and what happens to very short sounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmx.runtime.errors import BadDataError
from mmx.runtime.manifest import MelSpec, Preprocessing
from mmx.runtime.media.mel import filter_bank, mel_pieces, mel_spectrogram
from mmx.runtime.media.reader import read_segments

SPEC = MelSpec()


@pytest.fixture(scope="module")
def published(reference: Path) -> dict[str, np.ndarray]:
    with np.load(reference / "mel.npz") as file:
        return {name.split("/")[-1]: file[name] for name in file.files}


def _librosa(sound: np.ndarray) -> np.ndarray:
    librosa = pytest.importorskip("librosa")
    return librosa.feature.melspectrogram(
        y=sound, sr=16000, n_fft=400, hop_length=200, n_mels=128, htk=True, norm=None, pad_mode="reflect"
    )


def test_published_pieces_and_filter_bank(published: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(filter_bank(SPEC), published["fb"])
    pieces, expected = mel_pieces(published["wav"][0], SPEC), published["pieces"][:, 0]
    assert pieces.shape == expected.shape and pieces.dtype == np.float32 and pieces.flags.c_contiguous
    assert np.abs(pieces - expected).max() <= 5e-7 * expected.max()


@pytest.mark.filterwarnings("ignore:Empty filters", "ignore:n_fft=400")
@pytest.mark.parametrize("samples", [201, 399, 6200, 80_000, 16000 * 50])
def test_librosa_agrees(samples: int) -> None:
    rng = np.random.default_rng(samples)
    time = np.arange(samples) / 16000
    voice = sum(np.sin(2 * np.pi * 140 * k * time) / k for k in range(1, 20)) * (0.6 + 0.4 * np.sin(9 * time))
    sound = (0.1 * voice + 0.01 * rng.standard_normal(samples)).astype(np.float32)
    expected = _librosa(sound)
    mel = mel_spectrogram(sound, SPEC)
    assert mel.shape == expected.shape == (128, 1 + samples // 200)
    assert np.abs(mel - expected).max() <= 3e-6 * expected.max()


@pytest.mark.parametrize(
    ("samples", "pieces"), [(0, 0), (1, 1), (200, 1), (6199, 1), (6200, 1), (6400, 2), (80_000, 13)]
)
def test_pieces_are_cut_and_filled_on_the_right(samples: int, pieces: int) -> None:
    sound = np.random.default_rng(0).standard_normal(samples).astype(np.float32)
    result = mel_pieces(sound, SPEC)
    assert result.shape == (pieces, 128, 32)
    columns = result.transpose(1, 0, 2).reshape(128, -1)
    mel = mel_spectrogram(sound, SPEC)
    np.testing.assert_array_equal(columns[:, : mel.shape[1]], mel)
    assert not columns[:, mel.shape[1] :].any()


def test_short_sounds_are_those_filled_with_zeros() -> None:
    sound = np.linspace(-1, 1, 57, dtype=np.float32)
    np.testing.assert_array_equal(mel_pieces(sound, SPEC), mel_pieces(np.pad(sound, (0, 144)), SPEC))


@pytest.mark.parametrize(
    "sound",
    [np.zeros((2, 900), np.float32), np.zeros(900, np.int16), np.array([0.0, np.nan] * 400), np.full(900, 1e30)],
)
def test_rejects_what_is_no_sound(sound: np.ndarray) -> None:
    with pytest.raises(BadDataError, match=r"one channel|not finite"):
        mel_pieces(sound, SPEC)


def test_parts_of_a_long_sound_do_not_depend_on_the_chunk() -> None:
    sound = np.random.default_rng(1).standard_normal(4200 * 200).astype(np.float32)
    tail = mel_spectrogram(sound[-40_000:], SPEC)[:, 2:]
    np.testing.assert_allclose(mel_spectrogram(sound, SPEC)[:, -tail.shape[1] :], tail, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:Empty filters", "ignore:n_fft=")
@pytest.mark.parametrize(("rate", "n_fft", "hop"), [(44100, 1102, 551), (32000, 800, 400), (48000, 1200, 600)])
def test_at_the_files_own_rate(
    rate: int, n_fft: int, hop: int, make_media: Callable[..., Path], tmp_path: Path
) -> None:
    """As the public MOSEI loader: n_fft = int(rate / 16000 * 400), hop half of it, and no resampling."""
    librosa = pytest.importorskip("librosa")
    samples = (np.random.default_rng(rate).standard_normal(rate) * 3000).astype(np.int16)
    path = make_media(tmp_path / "a.wav", sound={"samples": samples[None], "rate": rate})
    spec = replace(Preprocessing(), mel=replace(SPEC, own_rate=True))
    (end,) = read_segments(path, None, spec)
    assert end.sample_rate == rate and np.array_equal(end.sound, samples / np.float32(32768))
    expected = librosa.feature.melspectrogram(
        y=end.sound,
        sr=rate,
        n_fft=n_fft,
        hop_length=hop,
        n_mels=128,
        htk=True,
        norm=None,
        fmax=rate // 2,
        pad_mode="reflect",
    )
    mel = mel_pieces(end.sound, spec.mel, end.sample_rate).transpose(1, 0, 2).reshape(128, -1)
    assert np.abs(mel[:, : expected.shape[1]] - expected).max() <= 1e-5 * expected.max()
    assert not mel[:, expected.shape[1] :].any()
