"""What a real recogniser makes of real speech, and of what is no speech."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from speech_sounds import RECORDINGS, plain, read_sound, said_in, time_errors, word_errors

from mmx.runtime.errors import BadDataError
from mmx.runtime.speech.recogniser import SAMPLE_RATE, Language, Word
from mmx.runtime.speech.transcriber import Transcriber
from mmx.runtime.speech.utterances import utterances
from mmx.runtime.speech.whisper import WhisperRecogniser


def in_parts(sound: np.ndarray, size: int = 4096):
    """As a decoder yields it."""
    for start in range(0, len(sound), size):
        yield start, sound[start : start + size]


def test_read_speech_is_recognised(recogniser, beckett: tuple[np.ndarray, str]) -> None:
    sound, said = beckett
    found = list(Transcriber(recogniser, "en").words(in_parts(sound)))
    assert word_errors(plain(said), plain(" ".join(word.text for word in found))) == 0
    assert all(0 < word.probability <= 1 for word in found)
    assert all(a.start <= a.end <= b.start + 1e-6 for a, b in pairwise(found))


def test_words_are_where_they_are_spoken(recogniser, beckett: tuple[np.ndarray, str]) -> None:
    """The same recording at known times, far apart: loudness says where each begins and ends."""
    sound, said = beckett
    loud = np.flatnonzero(np.convolve(sound**2, np.ones(400) / 400, "same") > 1e-4) / SAMPLE_RATE
    places = [2.0, 17.0, 40.0]
    track = np.zeros(60 * SAMPLE_RATE, np.float32)
    for place in places:
        track[int(place * SAMPLE_RATE) :][: len(sound)] = sound
    found = list(Transcriber(recogniser, "en").words(in_parts(track)))
    assert word_errors(plain(said) * 3, plain(" ".join(word.text for word in found))) <= 1
    for place in places:
        there = [word for word in found if place - 1 < word.start < place + len(sound) / SAMPLE_RATE]
        assert abs(there[0].start - (place + loud[0])) <= 0.2
        assert abs(there[-1].end - (place + loud[-1])) <= 0.2


def test_each_word_is_where_a_forced_alignment_has_it(recogniser, beckett: tuple[np.ndarray, str]) -> None:
    errors = time_errors(Transcriber(recogniser, "en").words(in_parts(beckett[0])), "beckett")
    assert len(errors) == 24 and max(errors) <= 0.2


def test_a_hole_in_the_track_moves_what_follows(recogniser, beckett: tuple[np.ndarray, str]) -> None:
    sound, _ = beckett
    late = [(index + 30 * SAMPLE_RATE, part) for index, part in in_parts(sound)]
    here = list(Transcriber(recogniser, "en").words(in_parts(sound)))
    there = list(Transcriber(recogniser, "en").words([*in_parts(sound), *late]))
    assert [plain(word.text) for word in there] == [plain(word.text) for word in here] * 2
    assert np.allclose([w.start for w in there[len(here) :]], [w.start + 30 for w in here], atol=0.2)


@pytest.mark.skipif(not RECORDINGS.is_dir(), reason="Debian's pocketsphinx-testdata is not installed")
def test_at_most_one_word_in_twenty_is_wrong(recogniser) -> None:
    recordings = sorted(RECORDINGS.glob("*.wav"))
    said = [said_in(path) for path in recordings]
    sounds = [read_sound(path) for path in recordings]
    pause = np.zeros(2 * SAMPLE_RATE, np.float32)
    joined = np.concatenate([part for sound in sounds for part in (sound, pause)])
    found = list(utterances(Transcriber(recogniser, "en").words(in_parts(joined))))
    errors = word_errors(plain(" ".join(said)), plain(" ".join(span.text or "" for span in found)))
    assert errors <= 0.05 * len(plain(" ".join(said)))
    starts = np.cumsum([0, *[len(sound) + len(pause) for sound in sounds[:-1]]]) / SAMPLE_RATE
    assert len(found) == len(sounds)
    assert all(abs(span.start - start) < 0.6 for start, span in zip(starts, found, strict=True))


def band(time: np.ndarray) -> np.ndarray:
    """A melody with overtones and vibrato, a bass, and a drum on every beat."""
    notes = 220 * 2 ** (np.array([0, 3, 7, 10, 12, 10, 7, 3, 5, 8, 12, 8]) / 12)
    beat = (time * 3).astype(int)
    pitch = notes[beat % len(notes)] * (1 + 0.01 * np.sin(2 * np.pi * 5.5 * time))
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    plucked = np.exp(-4 * (time * 3 % 1))
    drum = np.random.default_rng(1).standard_normal(len(time)) * np.exp(-40 * (time * 3 % 1))
    bass = np.sin(2 * np.pi * np.cumsum(notes[beat // 4 % len(notes)] / 4) / SAMPLE_RATE)
    return 0.1 * plucked * sum(np.sin(n * phase) / n for n in range(1, 7)) + 0.1 * bass + 0.05 * drum


@pytest.mark.parametrize("kind", ["silence", "noise", "tone", "music", "band"])
def test_no_words_where_nobody_speaks(recogniser, kind: str) -> None:
    time = np.arange(20 * SAMPLE_RATE) / SAMPLE_RATE
    chord = sum(np.sin(2 * np.pi * f * time) for f in (261.6, 329.6, 392.0, 523.3)) * (0.5 + 0.5 * np.sin(12 * time))
    sound = {
        "silence": np.zeros_like(time),
        "noise": 0.1 * np.random.default_rng(0).standard_normal(len(time)),
        "tone": 0.3 * np.sin(2 * np.pi * 440 * time),
        "music": 0.1 * chord,
        "band": band(time),
    }[kind].astype(np.float32)
    assert list(Transcriber(recogniser, "en").words(in_parts(sound))) == []


def test_an_english_model_is_not_used_where_the_language_is_not_known(
    recogniser, beckett: tuple[np.ndarray, str]
) -> None:
    transcriber = Transcriber(recogniser)
    assert {word.text for word in transcriber.words(in_parts(beckett[0]))} == {""}  # where, and not what
    assert transcriber.language is None


def test_words_of_a_language_that_is_not_wanted_are_not_recognised(beckett: tuple[np.ndarray, str]) -> None:
    class German:
        name, detects_language, window_s = "stand-in", True, 28.0

        def detect_language(self, sound):
            return Language("de", 0.98)

        def recognise(self, sound, language):
            raise AssertionError("its words were not wanted")

    transcriber = Transcriber(German(), accepts=lambda code: code == "en")  # type: ignore[arg-type]
    assert {word.text for word in transcriber.words(in_parts(beckett[0]))} == {""}
    assert transcriber.language == Language("de", 0.98)


def test_memory_is_a_window_however_long_the_file(recogniser) -> None:
    """What is held back is bounded: after each part no more than a window and the part waits."""
    held: list[int] = []

    def speech(buffer: np.ndarray) -> list[tuple[int, int]]:
        held.append(len(buffer))
        return []

    silence = ((n * 16000, np.zeros(16000, np.float32)) for n in range(3600))
    assert list(Transcriber(recogniser, "en", find_speech=speech).words(silence)) == []
    assert max(held) <= (recogniser.window_s + 1) * SAMPLE_RATE


def test_a_folder_that_is_no_model(tmp_path: Path, english_model: Path) -> None:
    with pytest.raises(BadDataError, match=r"has no model\.bin"):
        WhisperRecogniser(tmp_path)
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((english_model / name).read_bytes())
    (tmp_path / "model.bin").write_bytes((english_model / "model.bin").read_bytes()[:100000])
    with pytest.raises(BadDataError, match="cannot be loaded"):
        WhisperRecogniser(tmp_path)


def spoken(text: str, starts: list[float], length: float = 0.3) -> list[Word]:
    return [Word(start, start + length, word, 0.9) for word, start in zip(text.split(), starts, strict=True)]


def test_utterances_end_at_pauses_and_sentences() -> None:
    words = spoken("Well I came. And then she left me. So", [0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.4, 2.8, 3.2])
    assert [span.text for span in utterances(words)] == ["Well I came. And then she left me.", "So"]
    pause = spoken("one two three", [0, 0.4, 1.6])
    assert [(round(s.start, 2), round(s.end, 2), s.text) for s in utterances(pause)] == [
        (0, 0.85, "one two"),
        (1.45, 2.05, "three"),
    ]


def test_an_utterance_without_end_is_cut_at_its_longest_pause() -> None:
    starts = [0.4 * n for n in range(60)]
    starts = [s + (0.3 if n >= 20 else 0) for n, s in enumerate(starts)]
    spans = list(utterances(spoken("na " * 60, starts)))
    assert spans[0].text == " ".join(["na"] * 20)
    assert all(span.end - span.start <= 15.5 for span in spans)
    assert sum(len((span.text or "").split()) for span in spans) == 60
