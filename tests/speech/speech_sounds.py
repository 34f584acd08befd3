"""Sounds and words of the speech tests."""

from __future__ import annotations

import difflib
import importlib.util
import json
import re
import sys
import wave
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import av
import numpy as np

from mmx.runtime.prediction import Word

DEMO = Path(__file__).parents[2] / "demo" / "clip.py"
REFERENCE = Path(__file__).with_name("word_times.json")
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


def said_in(recording: Path) -> str:
    """What is said in one of ``RECORDINGS``, by its own transcription."""
    lines = (RECORDINGS / "transcription").read_text().splitlines()
    (line,) = [line for line in lines if f"({recording.stem})" in line]
    return line.partition("(")[0].replace("<s>", "").replace("</s>", "")


def time_errors(found: Iterable[Word], recording: str, begins: float = 0.0) -> list[float]:
    """How far starts and ends are from a forced alignment (``REFERENCE``), in seconds, for words that are right.

    begins: where the recording begins in the file.
    """
    reference = json.loads(REFERENCE.read_text())["recordings"][recording]
    heard = [
        (text, word, n, len(parts)) for word in found for parts in [plain(word.text)] for n, text in enumerate(parts)
    ]
    errors = []
    matcher = difflib.SequenceMatcher(
        None, [word for word, *_ in reference], [text for text, *_ in heard], autojunk=False
    )
    for block in matcher.get_matching_blocks():
        for i in range(block.size):
            _, start, end = reference[block.a + i]
            _, word, part, parts = heard[block.b + i]
            errors += [abs(word.start - begins - start)] * (part == 0)  # of cold-hearted the first part has the start
            errors += [abs(word.end - begins - end)] * (part == parts - 1)
    return errors


def write_wav(path: Path, sound: np.ndarray) -> None:
    """float32 [samples] in -1..1 as 16-bit mono at 16 kHz."""
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16000)
        out.writeframes((sound * 32767).astype("<i2").tobytes())


def load_clip_maker() -> ModuleType:
    """demo/clip.py, which is no package."""
    spec = importlib.util.spec_from_file_location("mmx_demo_clip_of_speech", DEMO)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
