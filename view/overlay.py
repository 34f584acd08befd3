"""A video with its answers drawn in: boxes around faces with people's numbers, and the labels' probabilities over time.

Where each person has answers of their own, the labels stand at the boxes instead.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mmx.runtime.errors import BadDataError
from mmx.runtime.files import whole_file, write_error
from mmx.runtime.media.container import audio_stream, open_media, probe
from mmx.runtime.media.decode import VideoTrack
from mmx.runtime.prediction import Prediction, SeenFace

TIME_BASE = Fraction(1, 90_000)
SOUND_RATE = 48_000  # Hz
FACE_HELD_S = 0.3  # a box is shown this long around the frame it was found in, and between two frames of one stretch
FACE_GAP_S = 1.1
YELLOW, WHITE, GREY, DARK = (255, 210, 63), (255, 255, 255), (190, 190, 190), (0, 0, 0, 170)

Box = tuple[float, float, float, float]


def burn(source: Path, out: Path, predictions: Sequence[Prediction], thresholds: dict[str, float]) -> None:
    """Write ``out`` (MP4: H.264 and AAC) with the answers drawn into the picture of ``source``.

    Args:
        predictions: those of ``source``, in order of time.
        thresholds: by label; a label over its own is drawn in yellow.

    Raises:
        BadDataError: the file has no picture, or cannot be read.
        EnvironmentMissing, UsageError: ``out`` cannot be written, see ``files.write_error``.
    """
    info = probe(source)
    if not info.has_video:
        raise BadDataError(f"{source} has no picture to draw on", "mmx predict --html shows sound, too")
    with whole_file(out) as part:
        try:
            with av.open(str(part), "w", format="mp4", options={"movflags": "+faststart"}) as container:
                _encode(source, container, info.has_audio, round(info.fps or 25), _Drawing(predictions, thresholds))
        except FFmpegError as e:
            raise write_error(out, e) from e


def face_at(faces: Sequence[SeenFace], time: float) -> Box | None:
    """The box at a time, in fractions of the picture; between two frames of one stretch it moves in a straight line."""
    after = bisect_right([face.time for face in faces], time)
    pair = faces[max(after - 1, 0) : after + 1] if after else faces[:1]
    if len(pair) == 2 and pair[1].time - pair[0].time <= FACE_GAP_S:
        part = (time - pair[0].time) / (pair[1].time - pair[0].time)
        left, top, right, bottom = (a + part * (b - a) for a, b in zip(pair[0].box, pair[1].box, strict=True))
        return left, top, right, bottom
    return next((face.box for face in pair if abs(face.time - time) <= FACE_HELD_S), None)


class _Answers:
    """Predictions in order of time that do not overlap much: of the file, or of one person."""

    def __init__(self, predictions: Sequence[Prediction]) -> None:
        self._predictions = predictions
        self._starts = [each.start for each in predictions]

    def at(self, time: float) -> Prediction | None:
        number = bisect_right(self._starts, time) - 1
        return self._predictions[number] if number >= 0 and time < self._predictions[number].end else None


class _Drawing:
    """Draws what is known at a time on a frame."""

    def __init__(self, predictions: Sequence[Prediction], thresholds: dict[str, float]) -> None:
        self._thresholds = thresholds
        used = _by_person(face for each in predictions for face in each.faces)
        others = _by_person(face for each in predictions for face in each.others)
        self._boxes = [(who, faces, GREY) for who, faces in others.items()]
        self._boxes += [(who, faces, YELLOW) for who, faces in used.items()]
        self._numbered = len({who for who, _, _ in self._boxes}) > 1
        spans = [(each.start, each.end) for each in predictions]
        self._of_people: dict[int | None, _Answers] = {}
        self._of_all: _Answers | None = None
        if len(set(spans)) < len(spans):  # a prediction for each person
            people = {each.person for each in predictions}
            self._of_people = {who: _Answers([each for each in predictions if each.person == who]) for who in people}
        else:
            self._of_all = _Answers(predictions)

    def __call__(self, rgb: NDArray[np.uint8], time: float) -> NDArray[np.uint8]:
        picture = Image.fromarray(rgb)
        height, width = rgb.shape[:2]
        draw = ImageDraw.Draw(picture, "RGBA")
        for who, faces, colour in self._boxes:
            box = face_at(faces, time)
            if box:
                corners = [value * side for value, side in zip(box, (width, height) * 2, strict=True)]
                draw.rectangle(corners, outline=colour, width=max(2, height // 180))
                self._name(draw, corners, who, time, colour, height)
        if self._of_all and (now := self._of_all.at(time)):
            self._labels(draw, now, width, height)
        return np.asarray(picture)

    def _name(
        self,
        draw: ImageDraw.ImageDraw,
        corners: Sequence[float],
        who: int | None,
        time: float,
        colour: tuple[int, int, int],
        height: int,
    ) -> None:
        """A person's number, and labels of their own, on top of the box; nothing where there is one person alone."""
        parts = [str(who)] if who and self._numbered else []
        if (answers := self._of_people.get(who)) and (now := answers.at(time)):
            parts += now.labels
        if not parts:
            return
        font = ImageFont.load_default(max(10, height // 24))
        _, _, right, bottom = draw.textbbox((0, 0), " ".join(parts), font=font)
        y = max(corners[1] - bottom - 4, 0)
        draw.rectangle((corners[0], y, corners[0] + right + 6, y + bottom + 4), fill=DARK)
        draw.text((corners[0] + 3, y + 1), " ".join(parts), fill=colour, font=font)

    def _labels(self, draw: ImageDraw.ImageDraw, prediction: Prediction, width: int, height: int) -> None:
        """A panel in the lower left corner: a bar for each label, with a tick at its threshold."""
        line = max(9, min(height // 24, height // (len(self._thresholds) + 2)))
        font = ImageFont.load_default(round(line * 0.75))
        name_width = max(draw.textlength(label, font=font) for label in self._thresholds) + line / 2
        bar = min(width / 4, 8 * line)
        top = height - line * (len(self._thresholds) + 0.5)
        draw.rectangle((0, top - line / 4, name_width + bar + line, height), fill=DARK)
        for row, (label, threshold) in enumerate(self._thresholds.items()):
            if label not in prediction.probabilities:
                continue
            y = top + row * line
            colour = YELLOW if label in prediction.labels else WHITE
            left, value = name_width + line / 4, prediction.probabilities[label]
            draw.text((line / 4, y), label, fill=colour, font=font)
            draw.rectangle((left, y + line * 0.2, left + bar, y + line * 0.8), outline=(*WHITE, 120))
            draw.rectangle((left, y + line * 0.2, left + bar * value, y + line * 0.8), fill=colour)
            tick = left + bar * prediction.thresholds.get(label, threshold)
            draw.line((tick, y, tick, y + line), fill=WHITE, width=max(1, line // 12))


def _by_person(faces: Iterable[SeenFace]) -> dict[int | None, list[SeenFace]]:
    """The faces of each person in order of time: between two of them a box moves in a straight line."""
    found: dict[int | None, list[SeenFace]] = defaultdict(list)
    for face in sorted(faces, key=lambda face: face.time):
        found[face.person].append(face)
    return found


def _encode(source: Path, container: Any, has_audio: bool, fps: int, drawing: _Drawing) -> None:
    """Draw and encode frame by frame, the sound beside it, so that memory does not grow with its length."""
    video = container.add_stream("libx264", rate=fps, options={"crf": "20", "preset": "veryfast"})
    sound = container.add_stream("aac", rate=SOUND_RATE, layout="stereo") if has_audio else None
    pending: Iterator[Any] = _sound_frames(source) if sound else iter(())
    heard, shown = 0.0, -1
    with VideoTrack(source) as track:
        for time, frame in track:
            rgb = track.rgb(frame)
            height, width = (side - side % 2 for side in rgb.shape[:2])  # what 4:2:0 can hold
            if shown < 0:
                video.width, video.height, video.pix_fmt = width, height, "yuv420p"
                video.codec_context.time_base = TIME_BASE
            drawn = av.VideoFrame.from_ndarray(drawing(rgb[:height, :width], time), format="rgb24")
            shown = max(shown + 1, round(time / TIME_BASE))
            drawn.pts, drawn.time_base = shown, TIME_BASE
            container.mux(video.encode(drawn))
            while sound and heard <= time and (piece := next(pending, None)) is not None:
                heard += piece.samples / SOUND_RATE
                container.mux(sound.encode(piece))
    container.mux(video.encode(None))
    if sound:
        for piece in pending:
            container.mux(sound.encode(piece))
        container.mux(sound.encode(None))


def _sound_frames(source: Path) -> Iterator[Any]:
    """The sound as stereo frames at ``SOUND_RATE``, in time order; what cannot be decoded is passed over."""
    resampler = av.AudioResampler("fltp", "stereo", SOUND_RATE)
    with open_media(source) as container:
        stream = audio_stream(container)
        for packet in container.demux(stream):
            try:
                frames: list[Any] = list(packet.decode())
            except FFmpegError:
                continue
            for frame in frames:
                yield from resampler.resample(frame)
        yield from resampler.resample(None)
