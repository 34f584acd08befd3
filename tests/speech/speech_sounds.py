"""Sounds and words of the speech tests."""

from __future__ import annotations

import re
from pathlib import Path

import av
import numpy as np

RECORDINGS = Path("/usr/share/pocketsphinx/test/data/librivox")


def read_sound(path: Path) -> np.ndarray:
    """float32 [samples] at 16 kHz, mono, through FFmpeg's resampler."""
    resampler = av.AudioResampler("flt", "mono", 16000)
    with av.open(path) as file:
        parts = [part.to_ndarray()[0] for frame in [*file.decode(audio=0), None] for part in resampler.resample(frame)]
    return np.concatenate(parts)


def plain(text: str) -> list[str]:
    """The words of a text as they are counted: no case, no punctuation."""
    text = text.lower().replace("-", " ").replace("mr.", "mister")
    return re.sub(r"[^a-z' ]", " ", text).split()


def word_errors(said: list[str], found: list[str]) -> int:
    """Words to insert, delete or replace (Levenshtein)."""
    row = list(range(len(found) + 1))
    for i, word in enumerate(said, 1):
        above, row = row, [i]
        for j, other in enumerate(found, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (word != other)))
    return row[-1]
