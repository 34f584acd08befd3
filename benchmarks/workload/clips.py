"""Real video files for ``--scope pipeline``: a talking face, cut and repeated to each utterance's length.

Made once from one source video, in the user's cache. Without ``--clip`` the source is the demo's talking face, which a
checkout of the project downloads.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np

from mmx.benchmarks.cache import bench_folder, keyed_folder
from mmx.benchmarks.workload.utterances import Utterance, Workload
from mmx.benchmarks.workload.vocabulary import speech
from mmx.runtime.errors import BadDataError, EnvironmentMissing, UsageError
from mmx.runtime.files import sha256_of, whole_file

VERSION = "1"  # of how a clip is made
WIDTH, FPS, SOUND_RATE = 640, 25, 16000
LARGEST_BYTES = 2 * 2**30
BYTES_PER_SECOND = 120_000  # what a clip takes, roughly
DEMO = Path(__file__).parents[2] / "demo" / "clip.py"


@dataclass(frozen=True)
class Clip:
    """A video file of one utterance, and what is said in it."""

    path: Path
    text: str


def source_video(given: Path | None) -> Path:
    """The video to cut from: ``given``, or the demo's, made on first use.

    Raises:
        EnvironmentMissing: neither is to be had.
    """
    if given is not None:
        return given
    path = bench_folder() / "talking-face.mp4"
    if path.exists():
        return path
    if not DEMO.exists():
        raise EnvironmentMissing("--scope pipeline needs a video with a talking face", "--clip talk.mp4")
    path.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([sys.executable, str(DEMO), str(path)], capture_output=True, text=True)
    if done.returncode or not path.exists():
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise EnvironmentMissing(f"the demo's talking face can't be made here: {last}", "--clip talk.mp4")
    return path


def clip_folder(source: Path, part: Workload) -> Path:
    """Where the clips of a set go, checked for size.

    Raises:
        UsageError: the clips of ``part`` would take more than the cap.
    """
    needed = int(sum(u.duration for u in part.utterances) * BYTES_PER_SECOND)
    folder = keyed_folder(
        f"clips-{part.dataset}", hashlib.sha256(f"{VERSION} {sha256_of(source)}".encode()).hexdigest()[:12]
    )
    if needed > LARGEST_BYTES:
        raise UsageError(
            f"{len(part.utterances)} clips would take about {needed / 2**30:.1f} GB in {folder}; "
            f"{LARGEST_BYTES / 2**30:.0f} GB is the most",
            "--samples 100",
        )
    return folder


def make_clip(source: Path, folder: Path, utterance: Utterance) -> Clip:
    """The clip of an utterance, from the cache or encoded now (H.264 and AAC in MP4).

    Raises:
        BadDataError: the source has no picture or no sound, or can't be read.
    """
    path = folder / f"{utterance.index:05d}.mp4"
    if not path.exists():
        with whole_file(path) as part:
            try:
                _encode(source, part, utterance.duration)
            except (av.FFmpegError, IndexError) as e:
                raise BadDataError(
                    f"{source} can't be cut into clips: {e}", "give a video with picture and sound"
                ) from e
    return Clip(path, speech(utterance.words))


def _encode(source: Path, out: Path, seconds: float) -> None:
    """Frames and sound of the source, from its start and over again, for so many seconds."""
    with av.open(str(out), "w", format="mp4") as target:
        with av.open(str(source)) as probe:
            stream = probe.streams.video[0]
            height = round(WIDTH * stream.height / stream.width / 2) * 2
        video = target.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": "21"})
        video.width, video.height, video.pix_fmt = WIDTH, height, "yuv420p"
        audio = target.add_stream("aac", rate=SOUND_RATE, layout="mono")
        for number, frame in zip(range(round(seconds * FPS)), _frames(source, height), strict=False):
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            target.mux(video.encode(frame))
        target.mux(video.encode(None))
        sound = _sound(source)
        wanted = round(seconds * SOUND_RATE)
        whole = np.tile(sound, -(-wanted // len(sound)))[:wanted]
        frame_size = audio.codec_context.frame_size or 1024
        for start in range(0, wanted, frame_size):
            piece = av.AudioFrame.from_ndarray(whole[None, start : start + frame_size], "fltp", "mono")
            piece.sample_rate, piece.pts, piece.time_base = SOUND_RATE, start, Fraction(1, SOUND_RATE)
            target.mux(audio.encode(piece))
        target.mux(audio.encode(None))


def _frames(source: Path, height: int) -> Iterator[av.VideoFrame]:
    """The source's frames at the clips' frame rate and size, over and over."""
    while True:
        with av.open(str(source)) as container:
            shown = 0
            for frame in container.decode(video=0):
                while frame.time is not None and frame.time >= shown / FPS:
                    yield frame.reformat(WIDTH, height, "yuv420p")
                    shown += 1


def _sound(source: Path) -> np.ndarray:
    """The source's sound, float32 [n], mono at the clips' rate."""
    resampler = av.AudioResampler("fltp", "mono", SOUND_RATE)
    with av.open(str(source)) as container:
        pieces = [
            part.to_ndarray()[0]
            for frame in chain(container.decode(audio=0), [None])
            for part in resampler.resample(frame)
        ]
    return np.concatenate(pieces)
