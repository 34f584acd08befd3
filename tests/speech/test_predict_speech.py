"""A video without a transcript: what is said in it is recognised on the way."""

from __future__ import annotations

import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from speech_sounds import (
    RECORDINGS,
    load_clip_maker,
    plain,
    read_sound,
    said_in,
    time_errors,
    word_errors,
    write_wav,
)

from mmx.runtime.media.transcript import read_transcript
from mmx.runtime.predictor import Predictor
from mmx.runtime.preprocess import Preprocessor
from mmx.runtime.speech.recogniser import Language, Word
from mmx.runtime.types import Span


def listening(bundle: Path, asr: Path | str, **options) -> Predictor:
    return Predictor(bundle, backend="onnxruntime", asr=str(asr), **options)


def test_a_video_alone_has_text(tiny_bundle: Path, clip: tuple[Path, str], english_model: Path) -> None:
    """The answers are those for the same words given with their times: what is recognised is only a transcript."""
    with listening(tiny_bundle, english_model, language="en") as predictor:
        heard = list(predictor.predict(clip[0]))
        spans = [Span(p.start, p.end, p.text) for p in heard]
        given = list(predictor.predict(clip[0], transcript=spans))
    assert word_errors(plain(clip[1]), plain(" ".join(p.text or "" for p in heard))) == 0
    assert len(heard) > 1
    for ours, theirs in zip(heard, given, strict=True):
        assert "text" in ours.modalities and "text_recognised" in ours.flags
        assert (ours.language, ours.language_probability) == ("en", 1.0)
        assert ours.recogniser and ours.recogniser.startswith("whisper:")
        assert [word.text for word in ours.words] == (ours.text or "").split()
        assert all(ours.start <= (w.start + w.end) / 2 < ours.end for w in ours.words)
        assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-6)
        assert ours.faces == theirs.faces
        assert not theirs.words and theirs.recogniser is None


def test_windows_get_the_words_spoken_in_them(tiny_bundle: Path, clip: tuple[Path, str], english_model: Path) -> None:
    with listening(tiny_bundle, english_model, language="en") as predictor:
        windows = list(predictor.predict(clip[0], window=3.0))
    assert [p.start for p in windows] == [0.0, 3.0, 6.0, 9.0]
    assert word_errors(plain(clip[1]), plain(" ".join(p.text or "" for p in windows))) == 0


def test_given_words_win(tiny_bundle: Path, clip: tuple[Path, str], english_model: Path) -> None:
    with listening(tiny_bundle, english_model, language="en") as predictor:
        (prediction,) = predictor.predict(clip[0], text="I am so glad.")
    assert prediction.text == "I am so glad." and not prediction.words and prediction.recogniser is None


def test_without_a_recogniser_nothing_changes(tiny_bundle: Path, clip: tuple[Path, str]) -> None:
    with listening(tiny_bundle, "none") as predictor:
        (prediction,) = predictor.predict(clip[0])
    assert prediction.left_out == {"text": "no transcript"} and prediction.recogniser is None


def test_auto_without_a_model_says_what_to_do(
    tiny_bundle: Path, clip: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MMX_ASR")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with listening(tiny_bundle, "auto") as predictor:
        (prediction,) = predictor.predict(clip[0])
    assert "mmx asr pull" in prediction.left_out["text"]


def test_where_nobody_speaks_there_are_segments_all_the_same(
    tiny_bundle: Path, black: Path, tone: Path, english_model: Path
) -> None:
    with listening(tiny_bundle, english_model, language="en") as predictor:
        (dark,), (hum,) = list(predictor.predict(black)), list(predictor.predict(tone))
    assert dark.left_out["text"] == "no transcript"  # nothing to listen to
    assert hum.left_out["text"] == "no speech in this segment"
    assert (hum.start, round(hum.end, 2)) == (0.0, 3.0)


def test_long_silence_is_segments_of_its_own(tiny_bundle: Path, clip: tuple[Path, str], english_model: Path) -> None:
    """Through the preprocessor, on sound alone: 25 s of silence, the speech, 12 s of silence."""
    import io
    import wave

    sound = np.concatenate([np.zeros(25 * 16000, np.float32), read_sound(clip[0]), np.zeros(12 * 16000, np.float32)])
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16000)
        out.writeframes((sound * 32767).astype("<i2").tobytes())
    from mmx.runtime.bundle import Bundle

    reader = Preprocessor(Bundle.open(tiny_bundle), asr=str(english_model), language="en")
    segments = list(reader.segments(buffer.getvalue()))
    spoken = [s for s in segments if s.words]
    silent = [s for s in segments if not s.words]
    assert word_errors(plain(clip[1]), plain(" ".join(s.span.text or "" for s in spoken))) <= 1
    assert [round(s.span.end - s.span.start) for s in silent] in ([25, 13], [25, 12])
    assert all(a.span.end <= b.span.start + 1e-6 for a, b in pairwise(segments))


class StandIn:
    """A recogniser that does as a test says, where a real one of many languages cannot be had."""

    name, detects_language, window_s = "stand-in", True, 20.0

    def __init__(self, language: str = "en", fails: bool = False) -> None:
        self._language, self._fails = language, fails

    def detect_language(self, sound: np.ndarray) -> Language:
        return Language(self._language, 0.9)

    def recognise(self, sound: np.ndarray, language: str) -> list[Word]:
        if self._fails:
            raise RuntimeError("out of patience\nand more")
        return [Word(0.5, 0.9, "hmm.", 0.2)]

    def close(self) -> None: ...


def with_stand_in(bundle: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> Predictor:
    monkeypatch.setattr("mmx.runtime.preprocess.resolve", lambda asr: asr)
    monkeypatch.setattr("mmx.runtime.preprocess.find_recogniser", lambda asr, **options: stand_in)
    return listening(bundle, "stand-in")


def test_speech_of_another_language_is_left_out_and_said(
    tiny_bundle: Path, clip: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with with_stand_in(tiny_bundle, StandIn("de"), monkeypatch) as predictor:
        predictions = list(predictor.predict(clip[0]))
    assert len(predictions) > 1  # where somebody speaks is known all the same
    for prediction in predictions:
        assert "text" not in prediction.modalities and "language_mismatch" in prediction.flags
        assert prediction.left_out["text"] == "the speech is de, which the text model does not know"
        assert (prediction.language, prediction.text) == ("de", None)


@pytest.mark.parametrize(("language", "flag"), [(None, "language_unknown"), ("de", "language_mismatch")])
def test_a_german_voice_is_flagged_and_not_fed(
    tiny_bundle: Path, english_model: Path, tmp_path: Path, language: str | None, flag: str
) -> None:
    """With a real model, which would make fluent English of it."""
    if not (espeak := shutil.which("espeak-ng")):
        pytest.skip("no German voice here: apt-get install espeak-ng")
    said = "Guten Morgen. Ich habe heute sehr schlecht geschlafen, und das Wetter ist auch nicht besser geworden."
    subprocess.run([espeak, "-v", "de", "-w", tmp_path / "german.wav", said], check=True)
    with listening(tiny_bundle, english_model, language=language) as predictor:
        predictions = list(predictor.predict(tmp_path / "german.wav"))
    assert predictions and all("audio" in p.modalities for p in predictions)
    for prediction in predictions:
        assert prediction.text is None and not prediction.words and "text" not in prediction.modalities
        assert flag in prediction.flags


@pytest.mark.slow
@pytest.mark.skipif(not RECORDINGS.is_dir(), reason="Debian's pocketsphinx-testdata is not installed")
def test_read_speech_on_a_real_face(tiny_bundle: Path, english_model: Path, clip: Any, tmp_path: Path) -> None:
    """Five recordings of a reader, a second apart, as the sound of a filmed face: a video as a user has it.

    At most one word in twenty is wrong; 95 % of the starts and ends of the right ones are within 0.2 s of a forced
    alignment, and all are within 0.3 s.
    """
    maker = load_clip_maker()
    recordings = sorted(RECORDINGS.glob("*.wav"))
    sounds = [np.pad(read_sound(path), (0, 16000)) for path in recordings]
    write_wav(tmp_path / "sound.wav", np.concatenate(sounds))
    maker.mux(maker.fetch(maker.FACE), tmp_path / "sound.wav", tmp_path / "video.mp4")
    with listening(tiny_bundle, english_model, language="en") as predictor:
        predictions = list(predictor.predict(tmp_path / "video.mp4"))
    said = plain(" ".join(map(said_in, recordings)))
    assert word_errors(said, plain(" ".join(p.text or "" for p in predictions))) <= 0.05 * len(said)
    assert any({"text", "visual", "audio"} == set(p.modalities) for p in predictions)
    words = [word for p in predictions for word in p.words]
    errors: list[float] = []
    begins = 0.0
    for path, sound in zip(recordings, sounds, strict=True):
        ends = begins + len(sound) / 16000
        errors += time_errors([word for word in words if begins <= word.start < ends], path.stem, begins)
        begins = ends
    assert len(errors) > 120 and np.quantile(errors, 0.95) <= 0.2 and max(errors) <= 0.3


def test_a_recogniser_that_fails_costs_the_text_alone(
    tiny_bundle: Path, clip: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with with_stand_in(tiny_bundle, StandIn(fails=True), monkeypatch) as predictor:
        (prediction,) = predictor.predict(clip[0])
    assert prediction.left_out["text"] == "speech recognition failed: out of patience"
    assert "recognition_failed" in prediction.flags and {"visual", "audio"} <= set(prediction.modalities)


def test_doubtful_words_are_flagged(tiny_bundle: Path, clip: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    with with_stand_in(tiny_bundle, StandIn(), monkeypatch) as predictor:
        predictions = list(predictor.predict(clip[0]))
    assert any("doubtful_words" in p.flags for p in predictions)


def test_recognised_words_as_subtitles_are_the_same_segments(
    tiny_bundle: Path, clip: tuple[Path, str], english_model: Path, tmp_path: Path
) -> None:
    from click.testing import CliRunner

    from mmx.cli.main import mmx

    out = tmp_path / "talk.srt"
    arguments = ["transcribe", str(clip[0]), "--asr", str(english_model), "--language", "en", "--out", str(out)]
    assert CliRunner().invoke(mmx, arguments).exit_code == 0
    with listening(tiny_bundle, english_model, language="en") as predictor:
        heard = list(predictor.predict(clip[0]))
    cues = read_transcript(out)
    assert [cue.text for cue in cues if isinstance(cue, Span)] == [p.text for p in heard]


def test_workers_recognise_too(tiny_bundle: Path, clip: tuple[Path, str], english_model: Path, tmp_path: Path) -> None:
    """In confinement, through the command; resuming with another recogniser is another run."""
    import json

    from click.testing import CliRunner

    from mmx.cli.main import mmx
    from mmx.runtime.errors import UsageError

    out = tmp_path / "out.jsonl"
    shared = [
        "predict",
        str(tiny_bundle),
        str(clip[0]),
        "--workers",
        "1",
        "--out",
        str(out),
        "--backend",
        "onnxruntime",
    ]
    done = CliRunner().invoke(mmx, [*shared, "--asr", str(english_model), "--language", "en"])
    assert done.exit_code == 0, done.output
    (record,) = [json.loads(line) for line in out.read_text().splitlines() if "predictions" in line]
    texts = [prediction["text"] or "" for prediction in record["predictions"]]
    assert word_errors(plain(clip[1]), plain(" ".join(texts))) == 0
    again = CliRunner().invoke(mmx, [*shared, "--resume", "--asr", "none"])
    assert isinstance(again.exception, UsageError) and "another asr" in str(again.exception)
