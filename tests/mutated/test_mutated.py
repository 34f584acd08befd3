"""Mutants of everything that comes from elsewhere, by seed: each is read, or rejected with an error of ours, within
limits of memory and time. Never a traceback, never a crash.

One again: python tests/mutated/attempts.py KIND SOURCE NEW_FOLDER NUMBER 1
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import onnx
import pytest

from mmx.runtime.bundle import Bundle

sys.path.insert(0, str(Path(__file__).parents[1]))

from variants import with_graph

ATTEMPTS = Path(__file__).with_name("attempts.py")
FEW = 8
MANY = {"bundle": 500, "record": 500, "graph": 300, "checkpoint": 300, "tensors": 5000, "media": 300}
SRT = "1\n00:00:00,000 --> 00:00:01,500\nI am so glad.\n\n2\n00:00:01,500 --> 00:00:03,000\nNo matter.\n"
SOURCES = (
    ("bundle", "tiny.mmx"),
    ("record", "variant.mmx"),
    ("graph", "tiny.mmx"),
    ("checkpoint", "tiny.pt"),
    ("checkpoint", "tiny.safetensors"),
    ("tensors", "sample.npz"),
    *(("media", f"talk{suffix}") for suffix in (".mp4", ".mkv", ".avi", ".webm")),
    ("media", "tone.wav"),
    ("media", "talk.srt"),
    ("media", "talk.vtt"),
)
CODECS = {".mp4": ("mpeg4", "aac"), ".mkv": ("h264", "flac"), ".avi": ("mjpeg", "mp3"), ".webm": ("vp8", "libopus")}


@pytest.fixture(scope="module")
def sources(tiny_bundle: Path, tiny_checkpoint: Path, tone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that is mutated."""
    from safetensors.torch import save_file

    from mmx.models.read_tensors import read_checkpoint_file

    folder = tmp_path_factory.mktemp("mutated")
    shutil.copytree(tiny_bundle, folder / "tiny.mmx")
    shutil.copytree(tiny_bundle, folder / "variant.mmx")
    with_graph(Bundle.open(folder / "variant.mmx"), "bf16", onnx.load(tiny_bundle / "model.onnx"))
    shutil.copy(tiny_checkpoint, folder / "tiny.pt")
    save_file(dict(read_checkpoint_file(tiny_checkpoint)["state_dict"]), folder / "tiny.safetensors")
    random = np.random.default_rng(0)
    faces = random.random((2, 3, 48, 48), np.float32)
    np.savez(folder / "sample.npz", token_ids=np.array([2, 5, 3]), faces=faces)
    shutil.copy(tone, folder / "tone.wav")
    (folder / "talk.srt").write_text(SRT)
    (folder / "talk.vtt").write_text("WEBVTT\n\n" + SRT.replace(",", "."))
    for suffix, codecs in CODECS.items():
        write_video(folder / f"talk{suffix}", *codecs)
    return folder


def write_video(path: Path, picture: str, sound: str) -> None:
    """Three seconds of noise."""
    random = np.random.default_rng(0)
    with av.open(path, "w") as out:
        video = out.add_stream(picture, rate=5)
        video.width, video.height = 64, 48
        video.pix_fmt = "yuvj420p" if picture == "mjpeg" else "yuv420p"
        audio = out.add_stream(sound, rate=48000, layout="mono")
        for _ in range(15):
            rgb = random.integers(0, 255, (48, 64, 3), np.uint8)
            out.mux(video.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        out.mux(video.encode(None))
        step = audio.codec_context.frame_size or 4800
        for first in range(0, 3 * 48000, step):
            noise = (random.standard_normal((1, step)) * 3000).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(noise, format="s16", layout="mono")
            frame.sample_rate, frame.pts = 48000, first
            out.mux(audio.encode(frame))
        out.mux(audio.encode(None))


def outcomes(kind: str, source: Path, scratch: Path, count: int) -> list[str]:
    """How the reading of each mutant ended; a crash fails the test at once."""
    command = [sys.executable, str(ATTEMPTS), kind, str(source), str(scratch), "0", str(count)]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]
    last = next((line["number"] for line in reversed(lines) if "number" in line), None)
    assert done.returncode == 0, f"number {last} ended the process ({done.returncode}):\n{done.stderr[-3000:]}"
    return [line["end"] for line in lines if "end" in line]


def check(kind: str, source: Path, scratch: Path, count: int) -> None:
    ends = outcomes(kind, source, scratch, count)
    faults = {number: end for number, end in enumerate(ends) if end not in ("read", "rejected")}
    assert len(ends) == count
    assert not faults, (
        f"{len(faults)} of {count}; " + "\n".join(f"number {n}:\n{end}" for n, end in faults.items())[:6000]
    )
    if count > FEW:
        assert "rejected" in ends  # the damage is seen


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k, n in SOURCES if n in ("tiny.mmx", "tiny.pt", "talk.mp4")])
def test_a_few_mutants(kind: str, name: str, sources: Path) -> None:
    check(kind, sources / name, sources / f"few-{kind}-{name}", FEW)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), SOURCES)
def test_many_mutants(kind: str, name: str, sources: Path) -> None:
    check(kind, sources / name, sources / f"many-{kind}-{name}", MANY[kind])
