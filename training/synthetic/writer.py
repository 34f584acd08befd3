"""``mmx synth``: the synthetic data set on disk, in the public layout of processed MOSEI, whole or not at all.

DIR/synthetic.json                                   what this is, how it was drawn, and how well anything can do
DIR/MOSEI_RAW_PROCESSED/<utterance>/image_0.jpg ...  a frame each 500 ms
DIR/MOSEI_RAW_PROCESSED/<utterance>/audio.wav        16 kHz mono
DIR/MOSEI_RAW_PROCESSED/meta.pkl                     utterance -> text, label
DIR/MOSEI_SPLIT/{train,valid,test}_split.txt         speakers of one split are in no other
DIR/clips/<emotion>_<n>.mp4, .txt                    unseen clips, where asked for: all modalities agree
"""

from __future__ import annotations

import json
import pickle
import wave
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from mmx.datasets.dataset import SYNTHETIC_MARKER
from mmx.datasets.processed import LABELS
from mmx.runtime.errors import UsageError
from mmx.runtime.files import whole_folder
from mmx.training.synthetic.emotions import EXPRESSIONS, PROSODIES
from mmx.training.synthetic.face import Person, View, draw
from mmx.training.synthetic.ideal import FIDELITY, expressed, ideal
from mmx.training.synthetic.sentences import compose
from mmx.training.synthetic.voice import RATE, Voice, speak

NOTE = "Drawn faces, synthesised voices, composed sentences: a test bed for mmx, of which nothing follows for people."
SHARES = {"train": 0.7, "valid": 0.15, "test": 0.15}
EMOTIONS = LABELS["mosei"]
PER_SPEAKER = 5  # utterances, about
FRAME_S = 0.5
CLIP_FPS = 10
FACE_SPREAD, VOICE_SPREAD, FRAME_SPREAD = 0.3, 0.3, 0.1
FEWEST = 30

Progress = Callable[[int, int], None]
"""Called with what is done and how much there is."""


@dataclass(frozen=True)
class Utterance:
    """One made-up utterance: its frames (uint8 [h, w, 3]), sound (float32 [n] at 16 kHz) and words."""

    emotion: str
    shown: str
    voiced: str
    frames: tuple[NDArray[np.uint8], ...]
    sound: NDArray[np.float32]
    text: str


def make_utterance(
    emotion: str,
    speaker: np.random.Generator,
    random: np.random.Generator,
    *,
    fps: float = 1 / FRAME_S,
    agree: bool = False,
) -> Utterance:
    """Draw one utterance said with ``emotion``.

    Args:
        speaker: decides who speaks: the same generator state gives the same face and voice.
        random: decides everything else.
        agree: face and voice show the emotion itself, instead of doing so with the chances of ``ideal.FIDELITY``.
    """
    person, voice = Person.drawn(speaker), Voice.drawn(speaker)
    shown, voiced, text = say_and_show(emotion, random, agree=agree)
    sound = speak(text, voice, PROSODIES[voiced].moved(random, VOICE_SPREAD), random)
    expression = EXPRESSIONS[shown].at(random.uniform(0.6, 1.1)).moved(random, FACE_SPREAD)
    view = View.drawn(random)
    frames = []
    for _ in range(int(np.ceil(len(sound) / RATE * fps))):
        frames.append(draw(person, expression.moved(random, FRAME_SPREAD), view, random))
        view = view.swayed(random)
    return Utterance(emotion, shown, voiced, tuple(frames), sound, text)


def say_and_show(emotion: str, random: np.random.Generator, *, agree: bool = False) -> tuple[str, str, str]:
    """What face and voice express, and the words: the first that is drawn of an utterance."""
    shown = emotion if agree else expressed(emotion, "visual", random)
    voiced = emotion if agree else expressed(emotion, "audio", random)
    return shown, voiced, compose(emotion, random)


def random_of(seed: int, number: int) -> np.random.Generator:
    """What decides everything of a set's utterance but its speaker."""
    return np.random.default_rng([seed, 3, number])


def write_synthetic(
    root: Path, samples: int, seed: int = 0, *, clips: int = 0, workers: int = 1, progress: Progress | None = None
) -> dict[str, int]:
    """Write the set to ``root``.

    Args:
        samples: utterances in all; the emotions are equally frequent. clips: unseen clips for each emotion; with no
            samples they are all there is.
        workers: processes that draw; the files are the same with any number of them.

    Returns:
        Utterances by split.

    Raises:
        UsageError: ``root`` holds something already, or too few samples for six emotions in three splits.
    """
    if samples < FEWEST and (samples or not clips):
        hint = f"{FEWEST} or more, so that each split has each emotion; or 0 and some --clips"
        raise UsageError(f"--samples {samples} is too few", hint)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UsageError(f"{root} exists and is not empty", "name a new folder")
    with whole_folder(root, sync=False) as part:
        names = _write_utterances(part, samples, seed, workers, progress) if samples else {}
        for number in range(clips * len(EMOTIONS)):
            write_clip(part / "clips", EMOTIONS[number % len(EMOTIONS)], number // len(EMOTIONS), seed)
        marker = {
            "note": NOTE,
            "seed": seed,
            "samples": samples,
            "splits": {split: len(mine) for split, mine in names.items()},
            "best_possible_accuracy": asdict(ideal()),
            "chance": 1 / len(EMOTIONS),
            "fidelity": FIDELITY,
        }
        (part / SYNTHETIC_MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
    return {split: len(mine) for split, mine in names.items()}


def write_clip(folder: Path, emotion: str, number: int, seed: int) -> Path:
    """A clip (MP4, with its words in a .txt beside it) of a speaker who is in no data set of this seed."""
    folder.mkdir(parents=True, exist_ok=True)
    stream = [seed, 2, EMOTIONS.index(emotion), number]
    made = make_utterance(
        emotion, np.random.default_rng([*stream, 0]), np.random.default_rng([*stream, 1]), fps=CLIP_FPS, agree=True
    )
    path = folder / f"{emotion}_{number}.mp4"
    _write_mp4(path, made)
    path.with_suffix(".txt").write_text(made.text + "\n", encoding="utf-8")
    return path


def _write_utterances(
    root: Path, samples: int, seed: int, workers: int, progress: Progress | None
) -> dict[str, list[str]]:
    raw = root / "MOSEI_RAW_PROCESSED"
    speakers = max(6, samples // PER_SPEAKER)
    split_of = _splits(speakers)
    names: dict[str, list[str]] = {split: [] for split in SHARES}
    meta = {}
    emotions = np.random.default_rng([seed, 0]).permutation(np.arange(samples) % len(EMOTIONS))
    tasks = [(raw, seed, number, number % speakers, EMOTIONS[emotions[number]]) for number in range(samples)]
    with ProcessPoolExecutor(workers, get_context("spawn")) if workers > 1 else nullcontext() as pool:
        drawn = map(_draw, tasks) if pool is None else pool.map(_draw, tasks, chunksize=4)
        for number, (name, text) in enumerate(drawn):
            names[split_of[number % speakers]].append(name)
            meta[name] = {"text": text, "label": [int(tasks[number][-1] == emotion) for emotion in EMOTIONS]}
            if progress:
                progress(number + 1, samples)
    (raw / "meta.pkl").write_bytes(pickle.dumps(meta, protocol=4))
    (root / "MOSEI_SPLIT").mkdir()
    for split, mine in names.items():
        (root / "MOSEI_SPLIT" / f"{split}_split.txt").write_text("\n".join(mine) + "\n", encoding="ascii")
    return names


def _draw(task: tuple[Path, int, int, int, str]) -> tuple[str, str]:
    """Write one utterance; returns its name and its words."""
    raw, seed, number, who, emotion = task
    made = make_utterance(emotion, np.random.default_rng([seed, 1, who]), random_of(seed, number))
    name = f"synth{who:04d}_{number:05d}"
    _write_utterance(raw / name, made)
    return name, made.text


def _splits(speakers: int) -> list[str]:
    """The split of each speaker, in the shares of ``SHARES``."""
    ends = np.cumsum([round(share * speakers) for share in SHARES.values()])
    ends[-1] = speakers
    return [list(SHARES)[int(np.searchsorted(ends, who, side="right"))] for who in range(speakers)]


def _write_utterance(folder: Path, made: Utterance) -> None:
    folder.mkdir(parents=True)
    for number, frame in enumerate(made.frames):
        _write_jpeg(folder / f"image_{number}.jpg", frame)
    with wave.open(str(folder / "audio.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(_pcm(made.sound).tobytes())


def _pcm(sound: NDArray[np.float32]) -> NDArray[np.int16]:
    return np.rint(sound * 32767).astype("<i2")


def _write_jpeg(path: Path, frame: NDArray[np.uint8]) -> None:
    codec = av.CodecContext.create("mjpeg", "w")
    codec.height, codec.width = frame.shape[:2]
    codec.pix_fmt, codec.time_base = "yuvj420p", Fraction(1, 2)
    codec.options = {"qmin": "2", "qmax": "3"}
    packets = [*codec.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")), *codec.encode(None)]
    path.write_bytes(b"".join(bytes(packet) for packet in packets))


def _write_mp4(path: Path, made: Utterance) -> None:
    with av.open(path, "w", format="mp4") as clip:
        # H.264 plays in a browser. One thread: so that every machine writes the same file.
        video = clip.add_stream("libx264", rate=CLIP_FPS, options={"crf": "18", "threads": "1"})
        video.height, video.width = made.frames[0].shape[:2]
        video.pix_fmt = "yuv420p"
        audio = clip.add_stream("aac", rate=RATE, layout="mono")
        for frame in made.frames:
            clip.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        clip.mux(video.encode(None))
        sound = av.AudioFrame.from_ndarray(made.sound[None], format="fltp", layout="mono")
        sound.sample_rate, sound.pts = RATE, 0
        for part in [*av.AudioResampler("fltp", "mono", RATE, frame_size=1024).resample(sound), None]:
            clip.mux(audio.encode(part))
