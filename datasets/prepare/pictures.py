"""One recording's pictures: which frame is on screen when, and the JPEG files of every utterance, in one pass."""

from __future__ import annotations

import heapq
import io
import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from mmx.datasets.prepare.plan import Compat, Utterance
from mmx.runtime.errors import BadDataError, missing_extra
from mmx.runtime.media.decode import VideoTrack, upright_rgb
from mmx.runtime.media.packets import MediaFile
from mmx.runtime.people.choice import People

EPSILON_S = 1e-6  # times this close are the same
CROP = 224  # pixels, of IEMOCAP's halves
JPEG = {"quality": 95, "subsampling": "4:2:0"}  # what the public notebooks' OpenCV writes by default
MOSEI_RATE = 2  # images a second
UPSTREAM_LIMIT_S = 280  # the public MOSEI notebook reads no further
LARGEST = People()
LONGEST_LAST_S = 10.0  # a last frame that claims to be shown for longer is not believed

Timed = Iterator[tuple[float, VideoFrame | None]]
"""Frames with the times from which they are shown, and at last the time at which the video ends."""


class Shot(NamedTuple):
    """One image to be written: the time in seconds whose frame it shows, the utterance's place, the image's number."""

    time: float
    utterance: int
    number: int


def write_pictures(
    video: Path,
    utterances: tuple[Utterance, ...],
    folder: Path,
    dataset: str,
    compat: Compat,
    alive: Callable[[], object],
    people: People = LARGEST,
) -> tuple[float, list[int]]:
    """Write every utterance's images to ``folder/<utterance>``.

    Args:
        people: MOSEI: the part of the frame that the images show.
        alive: called with each frame.

    Returns:
        The file's frames a second, and how many images each utterance has (both sides together count once).

    Raises:
        BadDataError: the video cannot be read, says no frame rate, or has pictures that are too small.
    """
    with MediaFile(video) as file:
        fps = file.info.fps
        if not fps or not 0 < fps <= 1000:
            raise BadDataError(f"{video} has no picture with a frame rate")
        wanted = iemocap_shots if dataset == "iemocap" else mosei_shots
        shots = heapq.merge(*(wanted(place, said, fps, compat) for place, said in enumerate(utterances)))
        encode = _both_sides if dataset == "iemocap" else partial(_part, people)
        counts = [0] * len(utterances)
        for frame, shown in on_screen(_frames(file, fps, dataset, compat, alive), shots):
            images = encode(upright_rgb(frame), video)
            for shot in shown:
                place = folder / utterances[shot.utterance].name
                if not counts[shot.utterance]:
                    place.mkdir(parents=True, exist_ok=True)
                for prefix, jpeg in images.items():
                    (place / f"{prefix}{shot.number}.jpg").write_bytes(jpeg)
                counts[shot.utterance] += 1
        return fps, counts


def iemocap_shots(place: int, said: Utterance, fps: float, compat: Compat) -> Iterator[Shot]:
    """Every frame of the utterance, counted from the video's start."""
    first = max(0, int(fps * said.start))
    for index in range(first, int(fps * said.end)):
        yield Shot(index / fps, place, index - first)


def mosei_shots(place: int, said: Utterance, fps: float, compat: Compat) -> Iterator[Shot]:
    """An image each half second; one in the middle of a clip that is too short to have any."""
    if compat == "upstream" and int(MOSEI_RATE * said.start) < 0:
        return  # the notebook's slice then starts at the end
    start = max(0.0, said.start)
    first, end = math.floor(MOSEI_RATE * start), math.floor(MOSEI_RATE * said.end)
    if first == end and compat == "correct":
        yield Shot((start + said.end) / 2, place, 0)
    for index in range(first, end):
        yield Shot(index / MOSEI_RATE, place, index - first)


def on_screen(frames: Timed, shots: Iterable[Shot]) -> Iterator[tuple[VideoFrame, list[Shot]]]:
    """Each frame that is on screen at the time of one or more shots, with these.

    Before the first frame the first is shown, and after the video's end none is.
    """
    waiting = iter(shots)
    shot = next(waiting, None)
    shown: VideoFrame | None = None
    for time, frame in frames:
        mine = []
        while shown is not None and shot is not None and shot.time < time - EPSILON_S:
            mine.append(shot)
            shot = next(waiting, None)
        if shown is not None and mine:
            yield shown, mine
        if shot is None:
            return
        shown = frame


def _frames(file: MediaFile, fps: float, dataset: str, compat: Compat, alive: Callable[[], object]) -> Timed:
    """The file's frames by their own times, or as the public notebooks count them."""
    track = VideoTrack(file, threads=1)
    frames = _watched(track, alive)
    if compat == "correct":
        return _by_time(frames, track, reordered_avi=_is_reordered_avi(file))
    if dataset == "iemocap":
        return _by_count(frames, fps, 1, math.inf)
    every = round(fps / 2)  # to even, as numpy's round
    if not every:
        raise BadDataError(f"{file.name} has {fps:g} frames a second, too few for the public notebook")
    return _by_count(frames, MOSEI_RATE, every, int(fps * UPSTREAM_LIMIT_S))


def _watched(track: VideoTrack, alive: Callable[[], object]) -> Iterator[tuple[float, VideoFrame]]:
    for time, frame in track:
        alive()
        yield time, frame


def _by_time(frames: Iterable[tuple[float, VideoFrame]], track: VideoTrack, *, reordered_avi: bool) -> Timed:
    """Frames at their times; the last is shown for as long as the file says, or for one frame's time."""
    shift: float | None = None
    step = end = 0.0
    for time, frame in frames:
        step = track.end - time
        if shift is None:  # AVI has decoding times only, so frames that are reordered come late by that much
            shift = time if reordered_avi and time <= 3 * step + EPSILON_S else 0.0
        duration = float((frame.duration or 0) * frame.time_base) if frame.time_base else 0.0
        end = time - shift + max(step, duration if duration <= LONGEST_LAST_S else 0.0)
        yield time - shift, frame
    yield end, None


def _by_count(frames: Iterable[tuple[float, VideoFrame]], rate: float, every: int, limit: float) -> Timed:
    """Each ``every``-th of the first ``limit`` frames, ``rate`` of them a second, whatever their own times."""
    taken = 0
    for number, (_, frame) in enumerate(frames):
        if number >= limit:
            break
        if number % every == 0:
            yield taken / rate, frame
            taken += 1
    yield taken / rate, None


def _is_reordered_avi(file: MediaFile) -> bool:
    return file.container.format.name == "avi" and bool(file.container.streams.video[0].codec_context.has_b_frames)


def _both_sides(rgb: NDArray[np.uint8], video: Path) -> dict[str, bytes]:
    """The middle of the left and of the right half."""
    height, half = rgb.shape[0], rgb.shape[1] // 2
    if height < CROP or half < CROP:
        raise BadDataError(f"{video} has pictures of {rgb.shape[1]}x{height}; 720x480 is IEMOCAP's size")
    top, left = (height - CROP) // 2, (half - CROP) // 2
    rows = rgb[top : top + CROP]
    return {
        "image_L_": encode_jpeg(rows[:, left : left + CROP]),
        "image_R_": encode_jpeg(rows[:, half + left : half + left + CROP]),
    }


def _part(people: People, rgb: NDArray[np.uint8], video: Path) -> dict[str, bytes]:
    return {"image_": encode_jpeg(people.seen_part(rgb)[0])}


def encode_jpeg(rgb: NDArray[np.uint8]) -> bytes:
    """A picture (uint8 RGB [height, width, 3]) as colour JPEG of quality 95 with halved chroma, always the same bytes.

    Raises:
        EnvironmentMissing: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError as e:
        raise missing_extra("Pillow", "prepare") from e
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(buffer, "JPEG", **JPEG)
    return buffer.getvalue()
