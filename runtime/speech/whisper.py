"""Whisper models through faster-whisper (CTranslate2), on windows as long as what is said in them.

faster-whisper pads each window to 30 s, so that a short one costs as much as a long one. Whisper's encoder takes any
length, and a second of silence at the end is all that its decoder needs to stop: ``python studies/speech.py`` measures
what that saves.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.errors import BadDataError, missing_extra
from mmx.runtime.speech.recogniser import SAMPLE_RATE, Language, Word, model_name

TAIL_S = 1.0
"""Silence after the sound. Without it the decoder goes on and repeats itself."""

MOST_REPETITIVE = 2.4
"""Whisper's own limit: text that zlib makes smaller by more is a loop, not speech."""

SHORTEST_WORD_S = 0.06
"""Words at the end that would be spoken faster were made up: the alignment found no sound for them."""

LATE_S = 0.08
"""Whisper's word times are late by about this much (median of 66 words of tiny.en against a forced alignment by
pocketsphinx: 0.11 s; tests/speech/word_times.json); less is subtracted, so that no word begins before its sound."""

SHORTEST_S = 1.0
"""Less sound than this is not recognised by itself."""

PADDED_S = 30.0

LEAST_LIKELY = -1.0
"""Whisper's own limit: the mean log probability of a token. Below it the words are guesses."""

_OPENING, _CLOSING = (
    "\"'“¿([{-",
    "\"'.。,，!！?？:：”)]}、",
)  # Whisper's: punctuation goes with the word after or before it


class WhisperRecogniser:
    """A CTranslate2 Whisper model in a plain folder (``model.bin``, ``config.json``, ``tokenizer.json``).

    Args:
        folder: the model. device: cpu | cuda. threads: on a CPU; 0 = as many as CTranslate2 likes.

    Raises:
        EnvironmentMissing: faster-whisper is not installed. BadDataError: the folder is no such model.
    """

    window_s = 29.0 - TAIL_S

    def __init__(self, folder: Path, *, device: str = "cpu", threads: int = 1) -> None:
        try:
            from faster_whisper import WhisperModel
        except ImportError as e:
            raise missing_extra("faster-whisper", "asr") from e
        if missing := [
            name for name in ("model.bin", "config.json", "tokenizer.json") if not (folder / name).is_file()
        ]:
            raise BadDataError(
                f"{folder} is no CTranslate2 Whisper model: it has no {missing[0]}", "mmx asr pull tiny makes one"
            )
        try:
            self._model = WhisperModel(
                str(folder), device=device, compute_type="int8" if device == "cpu" else "default", cpu_threads=threads
            )
        except (RuntimeError, ValueError) as e:
            raise BadDataError(f"{folder} cannot be loaded: {e}", "download the model again") from e
        self.name = f"whisper:{model_name(folder)}"
        self.detects_language: bool = self._model.model.is_multilingual

    def detect_language(self, sound: NDArray[np.float32]) -> Language:
        """See ``Recogniser``."""
        code, probability, _ = self._model.detect_language(sound)
        return Language(code, float(probability))

    def recognise(self, sound: NDArray[np.float32], language: str) -> list[Word]:
        """See ``Recogniser``.

        Where a short window makes the decoder repeat itself or stop early, it gets 30 s as in Whisper's training; where
        that fails, too, the sound is cut in two at its quietest place.
        """
        for tail_s in (TAIL_S, PADDED_S - len(sound) / SAMPLE_RATE):
            words = self._window(sound, language, tail_s)
            if words is not None:
                return words
        if len(sound) < 2 * SHORTEST_S * SAMPLE_RATE:
            return []
        cut = _quietest(sound)
        shift = cut / SAMPLE_RATE
        after = self.recognise(sound[cut:], language)
        moved = [Word(w.start + shift, w.end + shift, w.text, w.probability) for w in after]
        return self.recognise(sound[:cut], language) + moved

    def close(self) -> None:
        """See ``Recogniser``."""
        self._model.model.unload_model()

    def _window(self, sound: NDArray[np.float32], language: str, tail_s: float) -> list[Word] | None:
        """The words of one window; None if the decoder guessed, repeated itself or stopped early."""
        from faster_whisper.tokenizer import Tokenizer
        from faster_whisper.transcribe import merge_punctuations

        model = self._model
        multilingual = model.model.is_multilingual
        tokenizer = Tokenizer(model.hf_tokenizer, multilingual, task="transcribe", language=language)
        features = model.feature_extractor(np.pad(sound, (0, int(tail_s * SAMPLE_RATE))))
        features = features[:, : min(features.shape[1], 3000) // 2 * 2]
        encoded = model.encode(np.ascontiguousarray(features))
        # Whisper writes times into its text: without them it loops where speech is cut at the end of a window.
        prompt = model.get_prompt(tokenizer, [], without_timestamps=False)
        longest = min(model.max_length, 16 + int(12 * len(sound) / SAMPLE_RATE))  # nobody says 12 tokens a second
        result = model.model.generate(
            encoded, [prompt], beam_size=1, max_length=longest, return_scores=True, max_initial_timestamp_index=50
        )[0]
        tokens = [token for token in result.sequences_ids[0] if token < tokenizer.eot]
        text = tokenizer.decode(tokens).strip()
        if not tokens:
            return []
        if result.scores[0] < LEAST_LIKELY or _repetition(text) > MOST_REPETITIVE:
            return None
        words: list[dict[str, Any]] = model.find_alignment(tokenizer, [tokens], encoded, features.shape[1])[0]
        merge_punctuations(words, _OPENING, _CLOSING)
        found = _joined(words, len(sound) / SAMPLE_RATE)
        while found and found[-1].end - found[-1].start < SHORTEST_WORD_S:
            found.pop()
        rest = sound[int((found[-1].end + LATE_S + 0.2) * SAMPLE_RATE) :] if found else sound[:0]
        return None if len(rest) > SHORTEST_S * SAMPLE_RATE and _is_loud(rest, sound) else found


def _joined(parts: list[dict[str, Any]], end: float) -> list[Word]:
    """Words of Whisper's parts: one that begins without a space goes on the word before it (ill -disposed)."""
    spaced = any(part["word"].startswith(" ") for part in parts[1:])  # not in Chinese or Japanese
    words: list[Word] = []
    for part in parts:
        start, stop = (max(min(float(part[name]), end) - LATE_S, 0.0) for name in ("start", "end"))
        text, probability = part["word"].strip(), float(part["probability"])
        if words and spaced and not part["word"].startswith(" "):
            last = words.pop()
            words.append(Word(last.start, stop, last.text + text, min(last.probability, probability)))
        elif text:
            words.append(Word(start, stop, text, probability))
    return words


def _repetition(text: str) -> float:
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0


def _is_loud(part: NDArray[np.float32], whole: NDArray[np.float32]) -> bool:
    """Whether any 0.5 s of ``part`` is as loud as speech in ``whole`` is: within 20 dB of its loudest 0.5 s."""

    def loudest(sound: NDArray[np.float32]) -> float:
        size = min(len(sound), SAMPLE_RATE // 2)
        blocks = sound[: len(sound) // size * size].reshape(-1, size)
        return float((blocks**2).mean(axis=1).max())

    return loudest(part) > 0.01 * loudest(whole)


def _quietest(sound: NDArray[np.float32]) -> int:
    """The sample in the middle half of ``sound`` around which 0.2 s are the quietest."""
    size = SAMPLE_RATE // 5
    blocks = (sound[: len(sound) // size * size].reshape(-1, size) ** 2).mean(axis=1)
    first, last = len(blocks) // 4, max(len(blocks) * 3 // 4, len(blocks) // 4 + 1)
    return (first + int(np.argmin(blocks[first:last]))) * size + size // 2
