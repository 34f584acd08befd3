"""What a speech recogniser is to mmx."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.prediction import Word

__all__ = ["SAMPLE_RATE", "Language", "Recogniser", "Word", "model_name"]

SAMPLE_RATE = 16000
"""Hz: what recognisers take, and what mmx decodes sound to."""


@dataclass(frozen=True)
class Language:
    """A spoken language (ISO 639-1, such as ``en``) and how sure its detection is, 0..1; 1 if it was given."""

    code: str
    probability: float


class Recogniser(Protocol):
    """Speech -> words. Other packages offer theirs through the entry point group ``mmx_recognisers``.

    Attributes:
        name: of the model, as results name it.
        detects_language: whether it can detect the language. One that cannot makes fluent false words of a
            language that it does not know, so that it is only used where the language is known.
        window_s: seconds of sound that it takes best at once; ``recognise`` is never given more.
    """

    name: str
    detects_language: bool
    window_s: float

    def detect_language(self, sound: NDArray[np.float32]) -> Language:
        """The language of ``sound``, float32 [samples] at 16 kHz in -1..1. Only where ``detects_language``."""
        ...

    def recognise(self, sound: NDArray[np.float32], language: str) -> list[Word]:
        """The words of ``sound``, with times from its start; none if it holds no speech."""
        ...

    def close(self) -> None:
        """Give the model's memory back."""
        ...


def model_name(folder: Path | str) -> str:
    """What results call a model: the name of its folder, or of its repository where that is in the Hub's cache."""
    folder = Path(folder)
    if folder.parent.name == "snapshots":
        return folder.parent.parent.name.removeprefix("models--").replace("--", "/")
    return folder.name
