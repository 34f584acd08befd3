"""What recognition costs: windows as long as what is said in them against faster-whisper's 30 s, on the same speech.

    python studies/speech.py MODEL SOUND... [--passes 3] [--json OUT]

CPU seconds of one thread for a second of media, interleaved; the words of both are printed to be compared.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np

from mmx.evaluation.environment import describe
from mmx.runtime.files import write_text
from mmx.runtime.media.decode import SoundTrack
from mmx.runtime.speech.recogniser import SAMPLE_RATE
from mmx.runtime.speech.transcriber import Transcriber
from mmx.runtime.speech.whisper import WhisperRecogniser


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.argument("sounds", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--passes", default=3, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(model: Path, sounds: tuple[Path, ...], passes: int, out: Path | None) -> None:
    """Measure both on the sounds, joined with pauses of two seconds."""
    recogniser = WhisperRecogniser(model, threads=1)
    plain = recogniser._model  # the same weights, as faster-whisper runs them
    pause = np.zeros(2 * SAMPLE_RATE, np.float32)
    parts = []
    for path in sounds:
        with SoundTrack(path) as track:
            parts += [*(samples for _, samples in track), pause]
    sound = np.concatenate(parts)
    seconds = len(sound) / SAMPLE_RATE

    def ours() -> str:
        chunks = ((start, sound[start : start + 4096]) for start in range(0, len(sound), 4096))
        return " ".join(word.text for word in Transcriber(recogniser, "en").words(chunks))

    def joined() -> str:
        found, _ = plain.transcribe(sound, language="en", beam_size=1, word_timestamps=True, vad_filter=True)
        return "".join(part.text for part in found)

    def one_by_one() -> str:
        texts = []
        for part in parts[::2] if len(parts) == 2 * len(sounds) else [sound]:
            found, _ = plain.transcribe(part, language="en", beam_size=1, word_timestamps=True)
            texts += [each.text for each in found]
        return "".join(texts)

    ways: dict[str, Callable[[], str]] = {"mmx": ours, "faster-whisper": joined, "one by one": one_by_one}
    costs: dict[str, list[float]] = {name: [] for name in ways}
    words = {name: run() for name, run in ways.items()}
    for number in range(passes):
        for name in list(ways)[:: 1 if number % 2 else -1]:
            started = time.process_time()
            ways[name]()
            costs[name].append((time.process_time() - started) / seconds)
    for name, each in costs.items():
        click.echo(f"{name:15} {np.median(each):.4f} CPU s per second of media: {words[name].strip()[:200]}")
    if out:
        report = {"seconds": seconds, "costs": costs, "words": words, "environment": asdict(describe())}
        write_text(out, json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
