"""A made-up clip to try a model with: a drawn person says three sentences, each with an emotion."""

from __future__ import annotations

import io
from collections.abc import Sequence

import av
import numpy as np
from numpy.typing import NDArray

from mmx.training.synthetic.voice import RATE
from mmx.training.synthetic.writer import CLIP_FPS, make_utterance

EMOTIONS = ("happy", "sad", "anger")
SEED = 20
PAUSE_S = 0.6


def example() -> tuple[bytes, str]:
    """The clip (MP4: H.264 and AAC, which browsers play) and its sentences with their times (WebVTT).

    The same bytes each time, on one version of FFmpeg. Takes about two seconds.
    """
    frames: list[NDArray[np.uint8]] = []
    sounds: list[NDArray[np.float32]] = []
    cues, end = ["WEBVTT"], 0.0
    for number, emotion in enumerate(EMOTIONS):
        person, random = np.random.default_rng(SEED), np.random.default_rng([SEED, number])
        said = make_utterance(emotion, person, random, fps=CLIP_FPS, agree=True)
        start, stop = end, end + len(said.sound) / RATE
        end = stop + PAUSE_S
        cues.append(f"{_time(start)} --> {_time(stop)}\n{said.text}")
        sounds += [said.sound, np.zeros(round(PAUSE_S * RATE), np.float32)]
        frames += said.frames
        frames += [said.frames[-1]] * (round(end * CLIP_FPS) - len(frames))
    return _mp4(frames, np.concatenate(sounds)), "\n\n".join(cues) + "\n"


def _mp4(frames: Sequence[NDArray[np.uint8]], sound: NDArray[np.float32]) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as clip:
        video = clip.add_stream("libx264", rate=CLIP_FPS, options={"crf": "18", "threads": "1"})
        video.height, video.width = frames[0].shape[:2]
        video.pix_fmt = "yuv420p"
        audio = clip.add_stream("aac", rate=RATE, layout="mono")
        for frame in frames:
            clip.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        clip.mux(video.encode(None))
        samples = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        samples.sample_rate, samples.pts = RATE, 0
        for part in [*av.AudioResampler("fltp", "mono", RATE, frame_size=1024).resample(samples), None]:
            clip.mux(audio.encode(part))
    return file.getvalue()


def _time(seconds: float) -> str:
    return f"{int(seconds // 60):02}:{seconds % 60:06.3f}"
