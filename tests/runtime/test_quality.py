"""Quality: numbers against what was put in, and what carries nothing is left out of the answer."""

from __future__ import annotations

import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mmx.runtime.bundle import Bundle
from mmx.runtime.manifest import QualitySpec
from mmx.runtime.media.reader import SegmentEnd, read_segments
from mmx.runtime.predictor import Predictor
from mmx.runtime.quality import of_faces, of_sound

RATE = 16000
ON, OFF = QualitySpec.usual(), QualitySpec()
TIME = np.arange(3 * RATE) / RATE


def noise(level: float, seed: int = 0) -> np.ndarray:
    """Three seconds of white noise of an RMS level."""
    return (level * np.random.default_rng(seed).standard_normal(3 * RATE)).astype(np.float32)


def test_a_sine_has_the_level_and_the_flatness_of_one() -> None:
    found = of_sound((0.5 * np.sin(2 * np.pi * 400 * TIME)).astype(np.float32), RATE, ON)
    assert found.numbers["sound_dbfs"] == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.06)
    assert found.numbers["sound_flatness"] < 0.01 and found.numbers["sound_clipped"] == 0
    assert found.nothing is None and found.flags == ()


@pytest.mark.parametrize(
    ("sound", "flag"),
    [
        (np.zeros(3 * RATE, np.float32), "silence"),
        (np.full(3 * RATE, 0.3, np.float32), "silence"),  # a constant is no sound
        (noise(1e-4), "silence"),
        (noise(0.001), "noise"),
        (noise(0.2), "noise"),
        (noise(0.2)[: RATE // 2], "noise"),
    ],
)
def test_silence_and_noise_carry_nothing(sound: np.ndarray, flag: str) -> None:
    found = of_sound(sound, RATE, ON)
    assert found.flags == (flag,) and found.nothing
    off = of_sound(sound, RATE, OFF)
    assert off.nothing is None and off.flags == () and off.numbers == found.numbers


def test_noise_of_five_hundred_seeds_is_found_at_any_rate() -> None:
    for seed in range(500):
        rate = (8000, 16000, 44100)[seed % 3]
        assert of_sound(noise(10 ** -(seed % 4), seed)[: rate * 3 // 4], rate, ON).nothing, seed


def test_speech_in_noise_is_kept() -> None:
    """A voice that comes and goes, as loud as the noise."""
    voice = np.sin(2 * np.pi * 200 * TIME) * (np.sin(2 * np.pi * 3 * TIME) > 0) * 0.2
    assert of_sound((voice + noise(0.1)).astype(np.float32), RATE, ON).nothing is None


def test_clipping_is_the_share_at_full_scale() -> None:
    found = of_sound(np.clip(2 * np.sin(2 * np.pi * 50 * TIME), -1, 1).astype(np.float32), RATE, ON)
    # a sine is over a half, or under minus a half, two thirds of the time
    assert found.numbers["sound_clipped"] == pytest.approx(2 / 3, abs=0.01)
    assert "clipped_sound" in found.flags


def test_no_sound_and_no_frames_have_no_numbers() -> None:
    assert of_sound(np.empty(0, np.float32), RATE, ON).numbers == {}
    assert of_faces([], [], 0).numbers == {}
    assert of_faces([], [], 4).numbers == {"face_share": 0.0}


def test_faces_by_size_light_and_sharpness() -> None:
    rows, columns = np.indices((48, 48))
    board = np.broadcast_to(100.0 * ((rows + columns) % 2), (3, 48, 48)).astype(np.float32)  # 0 and 100 in turn
    found = of_faces([board, board], [60.0, 80.0], 4)
    # each pixel's neighbours are all of the other kind: the Laplacian is 400 or -400
    assert found.numbers == {
        "face_share": 0.5,
        "face_pixels": 70.0,
        "face_brightness": 50.0,
        "face_sharpness": pytest.approx(400.0**2),
    }
    assert found.flags == ()
    dark = of_faces([np.full((3, 48, 48), 20, np.float32)], [30.0], 1)
    assert dark.flags == ("small_face", "dark_face") and dark.numbers["face_sharpness"] == 0


@pytest.fixture
def write(tmp_path: Path) -> Callable[[np.ndarray], Path]:
    """A WAV file with a sound of -1..1."""

    def make(sound: np.ndarray) -> Path:
        with wave.open(str(tmp_path / "sound.wav"), "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(RATE)
            out.writeframes((np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes())
        return tmp_path / "sound.wav"

    return make


def test_what_carries_nothing_is_left_out(tiny_bundle: Path, black: Path, write: Callable[..., Path]) -> None:
    bundle = Bundle.open(tiny_bundle)
    assert bundle.manifest.preprocessing.quality == ON
    with Predictor(bundle, backend="onnxruntime", threads=1, asr="none") as predictor:
        for sound, why in ((np.zeros(RATE), "silence"), (noise(0.1), "noise")):
            (found,) = predictor.predict(write(sound))
            assert found.modalities == () and found.probabilities == {} and why in found.flags
            assert why in found.left_out["audio"] and "nothing_to_go_on" in found.flags
        (dark,) = predictor.predict(black)
        assert dark.modalities == () and dark.quality == {"face_share": 0.0}
        (kept,) = predictor.predict(write(0.3 * np.sin(2 * np.pi * 300 * TIME)))
        assert kept.modalities == ("audio",) and kept.quality["sound_dbfs"] == pytest.approx(-13.5, abs=0.1)


def test_a_real_voice_and_a_real_face_are_kept(clip: tuple[Path, str], tiny_bundle: Path) -> None:
    spec = Bundle.open(tiny_bundle).manifest.preprocessing
    ends = [e for e in read_segments(clip[0], None, spec, window=1.0, threads=1) if isinstance(e, SegmentEnd)]
    assert len(ends) >= 9
    for end in ends:
        assert of_sound(end.sound, end.sample_rate, ON).nothing is None, end.span
