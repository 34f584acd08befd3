"""From a real file to an answer: PyTorch's, however it is cut and batched, and honest about what is missing."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from mmx.models.checkpoint import load_checkpoint
from mmx.runtime import MediaArrays, Prediction, Predictor, Span
from mmx.runtime.errors import BadDataError, MmxError, UsageError
from mmx.runtime.preprocess import Preprocessor, Segment

CUES = ["Ever tried. Ever failed.", "No matter. Try again.", "Fail again. Fail better."]
SRT = f"""1
00:00:00,000 --> 00:00:02,500
{CUES[0]}

2
00:00:02,500 --> 00:00:06,000
{CUES[1]}

3
00:00:06,000 --> 00:00:09,500
{CUES[2]}
"""


@pytest.fixture(scope="module")
def predictor(tiny_bundle: Path) -> Iterator[Predictor]:
    with Predictor(tiny_bundle, threads=1) as opened:
        yield opened


@pytest.fixture
def srt(tmp_path: Path) -> Path:
    path = tmp_path / "talk.srt"
    path.write_text(SRT)
    return path


def values(prediction: Prediction) -> np.ndarray:
    return np.array(
        [*prediction.logits.values(), *(x for m in prediction.modality_logits.values() for x in m.values())]
    )


def test_pytorch_gives_the_same_logits_for_a_real_clip(
    predictor: Predictor, clip: tuple[Path, str], tiny_checkpoint: Path
) -> None:
    path, text = clip
    (prediction,) = predictor.predict(path, text=text)
    (segment,) = Preprocessor(predictor.bundle, threads=1).segments(path, text=text)
    sample = segment.sample
    assert sample.token_ids is not None
    module = load_checkpoint(tiny_checkpoint).module
    with torch.inference_mode():  # unpadded, one sample: nothing of mmx.runtime.packing
        fused, *parts = module(
            torch.tensor(sample.token_ids)[None],
            torch.ones(1, len(sample.token_ids), dtype=torch.long),
            torch.tensor(sample.faces),
            torch.arange(len(sample.faces))[None],
            torch.tensor(sample.pieces),
            torch.arange(len(sample.pieces))[None],
        )
    for found, expected in zip(
        (prediction.logits, *(prediction.modality_logits[m] for m in ("text", "visual", "audio"))),
        (fused, *parts),
        strict=True,
    ):
        np.testing.assert_allclose(list(found.values()), expected[0], atol=2e-5 * float(expected.abs().max()))
    np.testing.assert_allclose(list(prediction.probabilities.values()), torch.sigmoid(fused.double())[0], atol=1e-6)
    assert prediction.modalities == ("text", "visual", "audio") and prediction.left_out == {}
    assert prediction.frames_seen == len(sample.faces) == 20  # 9.98 s, one each half second
    assert prediction.faces_found == len(prediction.faces) >= 18
    assert all(0 <= a < b <= 1 for face in prediction.faces for a, b in (face.box[::2], face.box[1::2]))
    assert set(prediction.timings_ms) == {"decode", "faces", "mel", "text", "network"}
    assert all(ms > 0 for ms in prediction.timings_ms.values())
    assert (prediction.file, prediction.start, prediction.text) == (str(path), 0.0, text)


def decoded(path: Path) -> MediaArrays:
    """A file's frames and sound as a service has them that decodes itself."""
    with av.open(path) as media:
        frames = [(float(frame.time), frame.to_ndarray(format="rgb24")) for frame in media.decode(video=0)]
    with av.open(path) as media:
        sound = [frame.to_ndarray() for frame in media.decode(audio=0)]
        rate = media.streams.audio[0].rate
    times, pixels = zip(*frames, strict=True)
    return MediaArrays(np.stack(pixels), times, np.concatenate(sound, axis=1), rate, name="camera 1")


def test_a_path_bytes_a_file_object_and_arrays_are_one_input(predictor: Predictor, clip: tuple[Path, str]) -> None:
    path, text = clip
    (expected,) = predictor.predict(path, text=text)
    arrays = decoded(path)
    with path.open("rb") as file:
        for media, name in ((path.read_bytes(), "<bytes>"), (file, str(path)), (arrays, "camera 1")):
            (found,) = predictor.predict(media, text=text)
            exact = media is not arrays  # whose times a container has rounded, and which an encoder's delay may precede
            np.testing.assert_allclose(values(found), values(expected), rtol=1e-6 if exact else 0.05, atol=0.02)
            assert found.file == name and found.faces_found == expected.faces_found
    several = list(predictor.predict([arrays, path.read_bytes(), path], text=[text, None, text]))
    assert [each.file for each in several] == ["camera 1", "<bytes>", str(path)]
    assert several[1].left_out == {"text": "no transcript"}


@pytest.mark.parametrize(
    ("files", "options", "words"),
    [
        (5, {}, "media cannot be read from int"),
        (None, {}, "media cannot be read from NoneType"),
        ([5], {}, "media cannot be read from int"),
        (np.zeros((3, 8, 8, 3), np.uint8), {}, "from ndarray .*MediaArrays"),
        (io.StringIO("text"), {}, "text mode"),
        ("a.mp4", {"text": 5}, "text is int"),
        (["a.mp4"], {"text": [b"words"]}, "text is bytes"),
        ("a.mp4", {"transcript": 5}, "transcript is int"),
        ("a.mp4", {"transcript": [("0", "1")]}, "transcript is tuple"),
        ("a.mp4", {"window": "5"}, "window is str"),
        (["a.mp4", b"data"], {"text": "one"}, "2 files and 1 of text"),
    ],
)
def test_what_is_no_media_or_no_words_is_one_line_at_once(
    predictor: Predictor, files: Any, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        predictor.predict(files, **options)


def test_an_error_names_what_it_is_about(predictor: Predictor) -> None:
    heard: list[tuple[str, MmxError]] = []
    assert not list(predictor.predict([b"no media", io.BytesIO(b"")], on_error=lambda *each: heard.append(each)))
    assert [name for name, _ in heard] == ["<bytes>", "<BytesIO>"]
    assert all(error.hint and error.exit_code == 5 for _, error in heard)
    closed = io.BytesIO(b"data")
    closed.close()
    with pytest.raises(UsageError, match="closed file"):
        predictor.predict(closed)


def test_without_a_transcript_the_text_is_left_out(predictor: Predictor, clip: tuple[Path, str]) -> None:
    (whole,) = predictor.predict(clip[0], text=clip[1])
    (silent,) = predictor.predict(clip[0])
    assert silent.modalities == ("visual", "audio") and silent.left_out == {"text": "no transcript"}
    weights = predictor.bundle.manifest.fusion_weights
    for label, logit in silent.logits.items():
        parts = [weights[m] * whole.modality_logits[m][label] for m in ("visual", "audio")]
        assert logit == pytest.approx(sum(parts), rel=1e-4, abs=1e-6)
        assert sum(part[label] for part in silent.contributions.values()) == pytest.approx(logit, rel=1e-12)
    (empty,) = predictor.predict(clip[0], text=" \n ")
    assert empty.left_out == {"text": "no words in this segment"} and empty.logits == pytest.approx(
        silent.logits, rel=1e-4
    )


def test_each_cue_is_an_utterance(predictor: Predictor, clip: tuple[Path, str], srt: Path) -> None:
    answers = list(predictor.predict(clip[0], transcript=srt))
    assert [(a.start, a.end) for a in answers] == [(0.0, 2.5), (2.5, 6.0), (6.0, 9.5)]
    assert [a.text for a in answers] == [
        "Ever tried. Ever failed.",
        "No matter. Try again.",
        "Fail again. Fail better.",
    ]
    assert [a.frames_seen for a in answers] == [5, 7, 7]
    spans = [Span(a.start, a.end, a.text) for a in answers]
    again = list(predictor.predict(clip[0], transcript=spans))
    for one, other in zip(answers, again, strict=True):
        np.testing.assert_allclose(values(one), values(other), rtol=1e-5)


def test_windows_take_the_words_spoken_in_them(predictor: Predictor, clip: tuple[Path, str], srt: Path) -> None:
    answers = list(predictor.predict(clip[0], transcript=srt, window=4))
    assert [a.start for a in answers] == [0.0, 4.0, 8.0]
    assert [a.text for a in answers] == [
        "Ever tried. Ever failed. No matter.",
        "Try again. Fail again.",
        "Fail better.",
    ]
    (quiet, *_) = predictor.predict(clip[0], transcript=[Span(4.0, 6.0, "later")], window=4)
    assert quiet.left_out == {"text": "no words in this segment"}
    untimed = list(predictor.predict(clip[0], text="Ever tried.", window=4))
    assert all(a.text == "Ever tried." and "text_of_whole_file" in a.flags for a in untimed)


def test_batching_does_not_matter(
    predictor: Predictor, tiny_bundle: Path, clip: tuple[Path, str], srt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows of a file in batches of any size: each is what it is alone."""
    windows = list(Preprocessor(predictor.bundle, threads=1).segments(clip[0], transcript=srt, window=1.5))
    assert len(windows) == 7
    monkeypatch.setattr(Preprocessor, "segments", lambda *arguments, **options: iter(windows))
    expected = [predictor.network.predict([segment])[0] for segment in windows]
    for batch_size in (1, 3, 16):
        with Predictor(tiny_bundle, threads=1, batch_size=batch_size) as other:
            found = list(other.predict(["twice", "the same"]))
        for one, alone in zip(found, expected * 2, strict=True):
            assert (one.start, one.text, one.modalities) == (alone.start, alone.text, alone.modalities)
            np.testing.assert_allclose(values(one), values(alone), rtol=1e-5, atol=1e-6)


def test_the_first_answer_waits_for_nothing(predictor: Predictor, tone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    real = Preprocessor.segments

    def segments(self: Preprocessor, *arguments, **options) -> Iterator[Segment]:
        for segment in real(self, *arguments, **options):
            drawn.append(segment)
            yield segment

    monkeypatch.setattr(Preprocessor, "segments", segments)
    answers = predictor.predict(tone, window=0.5)
    assert next(answers).start == 0 and len(drawn) == 1
    assert next(answers).start == 0.5 and len(drawn) == 3
    assert len(list(answers)) == 4


def test_an_empty_transcript_says_that_nothing_is_said(predictor: Predictor, tone: Path) -> None:
    (empty,) = predictor.predict(tone, transcript=[])
    (none,) = predictor.predict(tone)
    assert empty.left_out["text"] == "no words in this segment" and none.left_out["text"] == "no transcript"
    assert (empty.start, empty.end) == (none.start, none.end) and empty.logits == pytest.approx(none.logits)
    assert len(list(predictor.predict([tone, tone], transcript=[[], None]))) == 2


def test_sound_alone(predictor: Predictor, tone: Path) -> None:
    (answer,) = predictor.predict(tone)
    assert answer.modalities == ("audio",) and answer.frames_seen == 0
    assert answer.left_out == {"text": "no transcript", "visual": "no video track"}


def test_nothing_to_go_on_is_said(predictor: Predictor, black: Path) -> None:
    (answer,) = predictor.predict(black)
    assert (answer.probabilities, answer.labels, answer.modalities) == ({}, (), ())
    assert set(answer.flags) >= {"no_face", "nothing_to_go_on"} and answer.timings_ms["network"] == 0
    assert answer.left_out == {"text": "no transcript", "visual": "no face in 4 frames", "audio": "no audio track"}
    (read,) = predictor.predict(black, text="I am glad.")
    assert read.modalities == ("text",) and "nothing_to_go_on" not in read.flags


def test_long_and_odd_texts(predictor: Predictor, tone: Path) -> None:
    (long,) = predictor.predict(tone, text="never mind " * 2500)
    assert "truncated_text" in long.flags and "text" in long.modalities
    for text in ("😀🎉", "שלום עולם", "مرحبا", "\x00\x1b[2J", "e\u0301" * 50):
        (answer,) = predictor.predict(tone, text=text)
        assert "text" in answer.modalities and all(0 <= p <= 1 for p in answer.probabilities.values())


def test_a_bad_file_does_not_stop_the_others(predictor: Predictor, tone: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"")
    errors: list[tuple[str, MmxError]] = []
    answers = list(predictor.predict([bad, tone, tmp_path / "absent.mp4", tone], on_error=lambda *e: errors.append(e)))
    assert [a.file for a in answers] == [str(tone)] * 2
    assert [file for file, _ in errors] == [str(bad), str(tmp_path / "absent.mp4")]
    assert all(file in error.message for file, error in errors)
    with pytest.raises(MmxError):
        list(predictor.predict([bad, tone]))


def test_what_was_read_before_a_fault_is_answered(
    predictor: Predictor, tone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Preprocessor.segments

    def segments(self: Preprocessor, *arguments, **options) -> Iterator[Segment]:
        for number, segment in enumerate(real(self, *arguments, **options)):
            if number == 2:
                raise BadDataError("the file ends here")
            yield segment

    monkeypatch.setattr(Preprocessor, "segments", segments)
    answers = predictor.predict(tone, window=0.5)
    assert [next(answers).start, next(answers).start] == [0.0, 0.5]
    with pytest.raises(BadDataError, match="ends here"):
        next(answers)


def test_a_bundle_without_tokenizer_fails_only_when_there_is_text(altered: Callable[..., Path], tone: Path) -> None:
    with Predictor(altered(without="tokenizer"), threads=1) as predictor:
        assert next(predictor.predict(tone)).modalities == ("audio",)
        with pytest.raises(BadDataError, match="has no tokenizer"):
            next(predictor.predict(tone, text="hello"))


def test_a_bundle_without_face_nets_fails_only_when_there_is_a_picture(
    altered: Callable[..., Path], tone: Path, black: Path
) -> None:
    with Predictor(altered(without="faces"), threads=1) as predictor:
        assert next(predictor.predict(tone)).modalities == ("audio",)
        with pytest.raises(BadDataError, match="has no face nets"):
            next(predictor.predict(black))


def test_logits_that_are_no_numbers_are_an_error(
    predictor: Predictor, tone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = predictor.backend.run

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: values * np.nan for name, values in real(inputs).items()}

    monkeypatch.setattr(predictor.backend, "run", run)
    with pytest.raises(BadDataError, match="not finite"):
        next(predictor.predict(tone))


def test_not_waiting_for_the_network_changes_no_answer_and_hides_no_error(
    predictor: Predictor, tiny_bundle: Path, altered: Callable[..., Path], tone: Path
) -> None:
    """Neither a graph that was changed nor a backend that can't be had is a fault of the first file."""
    (expected,) = predictor.predict(tone)
    with Predictor(tiny_bundle, threads=1, backend=predictor.backend.name, wait=False) as soon:
        (found,) = soon.predict(tone)
    np.testing.assert_array_equal(values(found), values(expected))
    changed = altered(lambda manifest: manifest["files"].update({"model.onnx": "0" * 64}))
    for bundle, options, words in (
        (changed, {}, r"model\.onnx was changed"),
        (tiny_bundle, {"backend": "onnxruntime", "precision": "bf16"}, "bf16"),
    ):
        with Predictor(bundle, threads=1, wait=False, **options) as broken, pytest.raises(MmxError, match=words):
            list(broken.predict([tone, tone], on_error=lambda file, error: pytest.fail(f"{file}: {error}")))
        with pytest.raises(MmxError, match=words):
            Predictor(bundle, threads=1, **options)


def test_arguments_that_do_not_fit(predictor: Predictor, tone: Path) -> None:
    for arguments in (
        {"files": [tone, tone], "text": "one"},
        {"files": [tone, tone], "transcript": ["a.srt"]},
    ):
        with pytest.raises(UsageError, match="2 files"):
            predictor.predict(**arguments)  # at once, not when the generator is drawn from
    with pytest.raises(UsageError, match="both given"):
        next(predictor.predict(tone, text="x", transcript="y.srt"))
    for window in (0, -1, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="window"):
            next(predictor.predict(tone, window=window))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tiny_bundle: Path, tmp_path: Path) -> None:
    """Ten minutes take the memory of three; keeping crops, pieces or sound would take 60 MB more."""
    code = (
        "import resource, sys; from mmx.runtime import Predictor;"
        "n = sum(1 for _ in Predictor(sys.argv[1], threads=1).predict(sys.argv[2], window=10));"
        "print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    peak_mb = []
    for minutes in (3, 10):
        video = tmp_path / f"{minutes}.mkv"
        make_video(video, minutes * 60)
        done = subprocess.run(
            [sys.executable, "-c", code, tiny_bundle, video], capture_output=True, text=True, check=True
        )
        count, peak = done.stdout.split()
        assert int(count) == minutes * 6
        peak_mb.append(float(peak))
    assert peak_mb[1] < peak_mb[0] + 15


def make_video(path: Path, seconds: int) -> None:
    """Grey pictures with noise, four a second, and a noise at 16 kHz."""
    random = np.random.default_rng(0)
    with av.open(path, "w") as out:
        video, audio = out.add_stream("mpeg4", rate=4), out.add_stream("pcm_s16le", rate=16000, layout="mono")
        video.width, video.height, video.pix_fmt = 160, 120, "yuv420p"
        for _ in range(seconds):
            for _ in range(4):
                picture = random.integers(100, 140, (120, 160, 3), np.uint8)
                out.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            loudness = np.where(np.arange(16000) // 1600 % 2, 1.0, 0.2)  # steady noise would be left out
            noise = (loudness * random.integers(-3000, 3000, (1, 16000))).astype(np.int16)
            sound = av.AudioFrame.from_ndarray(noise, format="s16", layout="mono")
            sound.sample_rate = 16000
            out.mux(audio.encode(sound))
        out.mux([*video.encode(None), *audio.encode(None)])
