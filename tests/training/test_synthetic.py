"""The synthetic set is what it says: the public layout, faces that are found, emotions with a known ceiling."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from mmx.datasets.processed import LABELS, read_processed
from mmx.datasets.reading import read_image
from mmx.export.face_nets import face_nets
from mmx.runtime.errors import UsageError
from mmx.runtime.manifest import FaceSpec, MelSpec, Preprocessing
from mmx.runtime.media.faces import FaceDetector
from mmx.runtime.media.mel import mel_spectrogram
from mmx.runtime.media.reader import SegmentEnd, read_segments
from mmx.runtime.media.transcript import read_transcript
from mmx.training.synthetic.emotions import EXPRESSIONS, PROSODIES
from mmx.training.synthetic.example import example
from mmx.training.synthetic.ideal import FIDELITY, expressed, ideal
from mmx.training.synthetic.sentences import EMOTIONS, WORDS, compose, cue_chances
from mmx.training.synthetic.voice import RATE, Prosody, Voice, speak
from mmx.training.synthetic.writer import VOICE_SPREAD, make_utterance, write_synthetic


def test_the_layout_is_the_public_one(drawn: Path) -> None:
    splits = {split: read_processed(drawn, "mosei", split) for split in ("train", "valid", "test")}
    assert sum(map(len, splits.values())) == 30
    assert all(sum(item.target) == 1 and item.images and item.text for items in splits.values() for item in items)
    everyone = [{item.name.split("_")[0] for item in items} for items in splits.values()]
    assert not (everyone[0] & everyone[1] or everyone[0] & everyone[2] or everyone[1] & everyone[2])
    item = splits["train"][0]
    assert len(item.images) == np.ceil(item.duration() * 2)
    marker = json.loads((drawn / "synthetic.json").read_text())
    assert "test bed" in marker["note"] and marker["best_possible_accuracy"]["all"] < 1


def test_the_same_seed_gives_the_same_files(drawn: Path, tmp_path: Path) -> None:
    write_synthetic(tmp_path / "again", 30, seed=3, workers=2)
    write_synthetic(tmp_path / "other", 30, seed=4)
    names = [path.relative_to(drawn) for path in sorted(drawn.glob("MOSEI_*/**/*")) if path.is_file()]
    assert len(names) > 100
    assert all((drawn / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in names)
    assert (drawn / "MOSEI_RAW_PROCESSED/meta.pkl").read_bytes() != (
        tmp_path / "other/MOSEI_RAW_PROCESSED/meta.pkl"
    ).read_bytes()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match="not empty"):
        write_synthetic(tmp_path, 30)
    with pytest.raises(UsageError, match="too few"):
        write_synthetic(tmp_path / "new", 5)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_mtcnn_finds_the_faces(drawn: Path) -> None:
    images = [image for item in read_processed(drawn, "mosei", "train") for image in item.images][:60]
    found = FaceDetector(face_nets(), FaceSpec(), threads=1).detect([read_image(image) for image in images])
    assert sum(face is not None for face in found) >= 0.95 * len(found)


def test_clips_are_media_files_with_sound_and_picture(drawn: Path) -> None:
    clips = sorted((drawn / "clips").glob("*.mp4"))
    assert {clip.stem.split("_")[0] for clip in clips} == set(LABELS["mosei"])
    *frames, end = read_segments(clips[0], None, Preprocessing())
    assert isinstance(end, SegmentEnd) and len(end.sound) > RATE and len(frames) == end.frames > 1
    assert clips[0].with_suffix(".txt").read_text().strip()


def test_the_ceilings_are_those_of_an_ideal_observer() -> None:
    """Draw 20000 utterances and let Bayes' rule decide: the exact sums agree within the draw's error."""
    random = np.random.default_rng(0)
    chances = cue_chances()
    np.testing.assert_allclose(chances.sum(axis=1), 1)
    right = dict.fromkeys(("text", "visual", "audio", "all"), 0)
    count = 20000
    for _ in range(count):
        target = int(random.integers(6))
        words = chances[:, random.choice(len(WORDS), 3, p=chances[target])].prod(axis=1)
        seen = {}
        for modality, fidelity in FIDELITY.items():
            shown = EMOTIONS.index(expressed(EMOTIONS[target], modality, random))
            seen[modality] = np.where(np.arange(6) == shown, fidelity, (1 - fidelity) / 5)
        for name, likelihood in {"text": words, **seen, "all": words * seen["visual"] * seen["audio"]}.items():
            right[name] += int(likelihood.argmax() == target)
    exact = ideal()
    for name, hits in right.items():
        assert hits / count == pytest.approx(getattr(exact, name), abs=0.011), name
    assert max(exact.text, exact.visual, exact.audio) < exact.all - 0.1 < 1 - 0.1


def test_words_overlap_between_emotions() -> None:
    random = np.random.default_rng(1)
    said = {
        emotion: {w.strip(",.") for _ in range(300) for w in compose(emotion, random).lower().split()}
        for emotion in EMOTIONS
    }
    for first in EMOTIONS:
        assert all(len(said[first] & said[second]) > 20 for second in EMOTIONS)


def test_a_voice_does_what_its_prosody_says() -> None:
    voice = Voice(pitch=120, throat=1.0, rate=1.0, noise=0.001, gain=1.0)
    text = "maybe the letter, again"

    def said(**change: float) -> np.ndarray:
        return speak(text, voice, Prosody(swing=0.2, **change), np.random.default_rng(0))

    plain = said()
    assert len(said(rate=0.5)) > 1.7 * len(plain)
    assert np.std(said(loudness=6)) / np.std(plain) == pytest.approx(2, rel=0.1)
    assert centroid(said(tilt=6)) < 0.8 * centroid(plain)
    assert pitch(said(pitch=1.5)) / pitch(plain) == pytest.approx(1.5, rel=0.1)
    assert np.abs(said(loudness=40)).max() <= 1


def centroid(sound: np.ndarray) -> float:
    """Mean frequency of the power spectrum, Hz."""
    power = np.abs(np.fft.rfft(sound)) ** 2
    return float((power * np.fft.rfftfreq(len(sound), 1 / RATE)).sum() / power.sum())


def pitch(sound: np.ndarray) -> float:
    """Hz, by the autocorrelation of the whole, between 70 and 300."""
    power = np.abs(np.fft.rfft(sound, 2 * len(sound))) ** 2
    similar = np.fft.irfft(power)[: RATE // 70]
    return RATE / (RATE // 300 + int(similar[RATE // 300 :].argmax()))


def test_every_emotion_looks_and_sounds_its_own_way() -> None:
    assert set(EXPRESSIONS) == set(PROSODIES) == set(EMOTIONS) == set(LABELS["mosei"])
    assert len(set(EXPRESSIONS.values())) == len(set(PROSODIES.values())) == 6
    made = make_utterance("fear", np.random.default_rng(0), np.random.default_rng(1), agree=True)
    assert made.shown == made.voiced == "fear" and len(made.frames) == np.ceil(2 * len(made.sound) / RATE)


@pytest.mark.slow
def test_the_voice_alone_shows_the_emotion_of_unseen_speakers() -> None:
    """A forest on 48 statistics of the log-mel spectrum: what a network misses of the ceiling, it has not learned."""
    from sklearn.ensemble import RandomForestClassifier

    rows, targets = [], []
    for number in range(600):
        emotion, random = EMOTIONS[number % 6], np.random.default_rng([5, number])
        voice = Voice.drawn(np.random.default_rng([6, number // 6]))  # six sentences each, then somebody else
        sound = speak(compose(emotion, random), voice, PROSODIES[emotion].moved(random, VOICE_SPREAD), random)
        mel = np.log(mel_spectrogram(sound, MelSpec()) + 1e-6)
        bands = mel[:, mel.max(axis=0) > -8].reshape(16, 8, -1).mean(axis=1)
        rows.append(np.concatenate([bands.mean(1), bands.std(1), np.abs(np.diff(bands)).mean(1)]))
        targets.append(number % 6)
    forest = RandomForestClassifier(300, random_state=0).fit(rows[:420], targets[:420])
    assert forest.score(rows[420:], targets[420:]) > 0.85


def test_the_example_is_what_its_transcript_says(tmp_path: Path) -> None:
    """Each sentence is where its cue is: loud there, silent in the pauses. It needs no package but the runtime's."""
    code = "import sys, mmx.training.synthetic.example; print({'torch', 'scipy', 'sklearn', 'PIL'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
    clip, words = tmp_path / "example.mp4", tmp_path / "example.vtt"
    made = example()
    clip.write_bytes(made[0])
    words.write_text(made[1])
    cues = read_transcript(words)
    assert not isinstance(cues, str) and len(cues) == 3
    with av.open(clip) as opened:
        frames = [float(frame.time) for frame in opened.decode(video=0)]
    with av.open(clip) as opened:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in opened.decode(audio=0)])
    assert frames[-1] == pytest.approx(len(sound) / 16000, abs=0.3)

    def level(start: float, end: float) -> float:
        return float(np.sqrt(np.mean(sound[int(start * 16000) : int(end * 16000)] ** 2)))

    for cue, following in zip(cues, [*cues[1:], None], strict=True):
        pause_ends = following.start if following else len(sound) / 16000
        assert level(cue.start, cue.end) > 5 * level(cue.end + 0.1, pause_ends - 0.1)
