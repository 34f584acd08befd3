"""Two made-up people in one picture, who change places, pass in front of each other and take turns to speak."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from mmx.runtime.media.arrays import MediaArrays
from mmx.training.synthetic.emotions import PROSODIES
from mmx.training.synthetic.face import SIZE, Expression, Person, View, draw
from mmx.training.synthetic.voice import RATE, Voice, speak

HEIGHT, WIDTH = 144, 320
BACKDROP = np.array([120.0, 130.0, 140.0])
SENTENCES = ("we never said that about him", "why would you even ask me now", "it is a long way home again")

Place = Callable[[float], tuple[float, float]]
"""Seconds -> where the middle of a head is, x and y in pixels."""


@dataclass(frozen=True)
class Turn:
    """Who speaks from ``start`` to ``end``, in seconds."""

    who: int
    start: float
    end: float


@dataclass(frozen=True)
class Scene:
    """A made-up video: ``media``, the middle of each head [frames, people, 2], and who speaks when."""

    media: MediaArrays
    places: NDArray[np.float64]
    turns: tuple[Turn, ...]


class Talker:
    """Somebody with a face and a voice."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._person = replace(Person.drawn(self._random), backdrop=BACKDROP)
        self.voice = Voice.drawn(self._random)
        self._view = replace(View.drawn(self._random), scale=0.36 * SIZE, place=(SIZE / 2, SIZE / 2), brightness=0.95)
        self._pose = self._view

    def paint(self, picture: NDArray[np.uint8], place: tuple[float, float], mouth: float) -> None:
        """Draw the head into a picture, over what is there."""
        x, y = (round(value) for value in place)
        swayed = self._pose.swayed(self._random)  # a living head comes back to where it was
        self._pose = replace(
            swayed,
            yaw=0.8 * swayed.yaw + 0.2 * self._view.yaw,
            roll=0.8 * swayed.roll + 0.2 * self._view.roll,
            scale=0.8 * swayed.scale + 0.2 * self._view.scale,
            place=(place[0] - x + SIZE / 2, place[1] - y + SIZE / 2),
            brightness=self._view.brightness,
        )
        face = draw(self._person, Expression(mouth=mouth).moved(self._random, 0.1), self._pose, self._random)
        rows, columns = np.mgrid[0:SIZE, 0:SIZE]
        reach = np.hypot((columns - SIZE / 2) / 0.36 / 1.05, (rows - SIZE / 2 + 5) / 0.36 / 1.2) / SIZE
        top, left = y - SIZE // 2, x - SIZE // 2
        r0, r1 = max(0, -top), min(SIZE, picture.shape[0] - top)
        c0, c1 = max(0, -left), min(SIZE, picture.shape[1] - left)
        if r0 >= r1 or c0 >= c1:
            return
        inside = (reach < 1)[r0:r1, c0:c1]
        picture[top + r0 : top + r1, left + c0 : left + c1][inside] = face[r0:r1, c0:c1][inside]


def speech(
    talkers: Sequence[Talker], turns: Sequence[tuple[int, float]], pause: float, seed: int
) -> tuple[NDArray[np.float32], tuple[Turn, ...]]:
    """The turns (who, for how many seconds) one after another, and when each one is."""
    random = np.random.default_rng(seed)
    parts, said, at = [], [], 0.0
    for number, (who, seconds) in enumerate(turns):
        text = ". ".join(SENTENCES[(number + i) % len(SENTENCES)] for i in range(int(seconds / 1.5) + 1))
        sound = speak(text, talkers[who].voice, PROSODIES["happy"], random)[: int(seconds * RATE)]
        parts += [sound, (random.standard_normal(int(pause * RATE)) * 1e-3).astype(np.float32)]
        said.append(Turn(who, at, at + len(sound) / RATE))
        at += len(sound) / RATE + pause
    return np.concatenate(parts), tuple(said)


def film(
    talkers: Sequence[Talker],
    places: Sequence[Place],
    sound: NDArray[np.float32],
    turns: Sequence[Turn],
    *,
    fps: float = 12.5,
    only: int | None = None,
    size: tuple[int, int] = (HEIGHT, WIDTH),
) -> Scene:
    """Film the talkers. ``only``: leave the others out of the picture; who stays looks the same to the last bit."""
    times = np.arange(0, len(sound) / RATE, 1 / fps)
    level = np.convolve(np.abs(sound), np.hanning(RATE // 10) / (RATE // 20), "same")
    level /= np.percentile(level, 95)
    frames, middles = [], []
    for time in times:
        picture = np.broadcast_to(BACKDROP.astype(np.uint8), (*size, 3)).copy()
        now = [place(time) for place in places]
        for who, talker in enumerate(talkers):
            speaks = any(turn.who == who and turn.start <= time < turn.end for turn in turns)
            mouth = 0.25 * float(level[int(time * RATE)]) if speaks else 0.0
            canvas = picture if only in (None, who) else picture.copy()
            talker.paint(canvas, now[who], mouth)
        frames.append(picture)
        middles.append(now)
    return Scene(MediaArrays(np.stack(frames), times, sound, RATE), np.array(middles), tuple(turns))


def crossing(seconds: float = 8.0) -> tuple[Place, Place]:
    """Two heads that pass in front of each other twice in so many seconds."""

    def swing(phase: float) -> Place:
        return lambda time: (160 + 90 * float(np.cos(2 * np.pi * time / seconds + phase)), 72.0)

    return swing(0.0), swing(np.pi)


def swapping(seconds: float = 2.0) -> tuple[Place, Place]:
    """Two heads that sit still, and exchange their places at once every so many seconds."""

    def sitting(first: float, second: float) -> Place:
        return lambda time: (second if int(time / seconds) % 2 else first, 72.0)

    return sitting(80.0, 240.0), sitting(240.0, 80.0)


def side_by_side() -> tuple[Place, Place]:
    """Two heads that stay where they are, the second one a little nearer to the middle."""
    return (lambda time: (80.0, 72.0)), (lambda time: (235.0, 72.0))


def conversation(
    seeds: tuple[int, int], places: tuple[Place, Place], turns: int, *, fps: float = 2.0, only: int | None = None
) -> Scene:
    """Two people who take turns of two seconds."""
    talkers = [Talker(seed) for seed in seeds]
    sound, said = speech(talkers, [(number % 2, 2.0) for number in range(turns)], 0.2, sum(seeds))
    return film(talkers, places, sound, said, fps=fps, only=only)


def write_video(path: Path, media: MediaArrays) -> None:
    """H.264 and AAC, a frame at each of its times."""
    assert media.frames is not None and media.times is not None and media.sound is not None
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=25, options={"crf": "18", "preset": "veryfast"})
        video.height, video.width = media.frames.shape[1:3]
        video.pix_fmt, video.codec_context.time_base = "yuv420p", Fraction(1, 1000)
        audio = out.add_stream("aac", rate=RATE, layout="mono")
        for time, rgb in zip(media.times, media.frames, strict=True):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = round(float(time) * 1000), Fraction(1, 1000)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        sound = av.AudioFrame.from_ndarray(media.sound[None].astype(np.float32), format="fltp", layout="mono")
        sound.sample_rate, sound.pts, sound.time_base = RATE, 0, Fraction(1, RATE)
        fifo = av.AudioFifo()
        fifo.write(sound)
        while (piece := fifo.read(1024, partial=True)) is not None:
            out.mux(audio.encode(piece))
        out.mux(audio.encode(None))
