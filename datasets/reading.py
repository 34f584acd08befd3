"""One utterance of a processed data set as the network takes it: faces of its images, mel of its sound, its words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from mmx.datasets.processed import Item
from mmx.datasets.table import Clip
from mmx.runtime.errors import BadDataError, missing_extra
from mmx.runtime.manifest import Preprocessing
from mmx.runtime.media.container import check_size
from mmx.runtime.media.decode import upright_rgb
from mmx.runtime.media.faces import FaceDetector
from mmx.runtime.media.mel import mel_pieces
from mmx.runtime.media.packets import MediaFile
from mmx.runtime.media.reader import SegmentEnd, read_segments
from mmx.runtime.media.text import Tokenizer
from mmx.runtime.packing import FACE_SHAPE
from mmx.runtime.types import Sample, Span

LARGEST_IMAGE_BYTES = 64 * 2**20
UPSTREAM_CROP = 360  # pixels
IMAGE_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": "jpeg_pipe,image2"}


@dataclass(frozen=True)
class Media:
    """What is on disk of one utterance: frames uint8 [height, width, 3], and mono sound, float32 at ``rate`` Hz."""

    frames: list[NDArray[np.uint8]]
    sound: NDArray[np.float32]
    rate: int


def read_utterance(
    item: Item | Clip, spec: Preprocessing, tokenizer: Tokenizer | None, detector: FaceDetector
) -> Sample:
    """One utterance on disk as the network takes it; without words where there is no tokenizer.

    Raises:
        BadDataError: a picture or the sound of it is damaged. EnvironmentMissing: ``compat: upstream`` without Pillow.
    """
    media = read_media(item, spec)
    return Sample(
        token_ids=None if tokenizer is None else tokenizer.encode(item.text)[0],
        faces=faces_of(media.frames, spec, detector),
        pieces=mel_pieces(media.sound, spec.mel, media.rate),
    )


def read_media(item: Item | Clip, spec: Preprocessing) -> Media:
    """The frames that are taken of an utterance, and its sound. Raises: see ``read_utterance``."""
    frames, parts = _of_clip(item, spec) if isinstance(item, Clip) else _of_item(item, spec, spec.compat == "upstream")
    return Media(frames, np.concatenate([part.sound for part in parts]), parts[0].sample_rate)


def faces_of(frames: list[NDArray[np.uint8]], spec: Preprocessing, detector: FaceDetector) -> NDArray[np.float32]:
    """The faces in frames, float32 [faces, 3, 48, 48]."""
    no_face = "upstream" if spec.compat == "upstream" else spec.video.no_face
    crops = [crop.pixels for crop in detector.extract(frames, no_face)] if frames else []
    pixels = [crop for crop in crops if crop is not None]
    return np.stack(pixels) if pixels else np.empty((0, *FACE_SHAPE), np.float32)


def _of_item(item: Item, spec: Preprocessing, upstream: bool) -> tuple[list[NDArray[np.uint8]], list[SegmentEnd]]:
    """The images that are taken of a processed utterance, and the parts of its sound."""
    frames = [read_upstream_image(path, item.layout) if upstream else read_image(path) for path in item.chosen(spec)]
    events = read_segments(item.audio, None, spec)
    return frames, [event for event in events if isinstance(event, SegmentEnd)]


def _of_clip(clip: Clip, spec: Preprocessing) -> tuple[list[NDArray[np.uint8]], list[SegmentEnd]]:
    """The frames that are taken of a stretch of a media file, and the parts of its sound."""
    spans = None
    if clip.start is not None or clip.end is not None:
        end = clip.end if clip.end is not None else _length(clip.path)
        if end <= (clip.start or 0.0):
            raise BadDataError(f"{clip.path} ends before {clip.start} s, where line {clip.line} of the table starts")
        spans = [Span(clip.start or 0.0, end)]
    frames: list[NDArray[np.uint8]] = []
    parts: list[SegmentEnd] = []
    for event in read_segments(clip.path, spans, spec):
        if isinstance(event, SegmentEnd):
            parts.append(event)
        else:
            frames.append(event.rgb)
    return frames, parts


def _length(path: Path) -> float:
    with MediaFile(path) as file:
        return file.length


def read_image(path: Path) -> NDArray[np.uint8]:
    """A picture as RGB [height, width, 3].

    Raises:
        BadDataError: it is not a picture, or a huge one.
    """
    try:
        if path.stat().st_size > LARGEST_IMAGE_BYTES:
            raise BadDataError(f"{path} is larger than {LARGEST_IMAGE_BYTES >> 20} MB", "frames of the sets are small")
        with av.open(f"file:{path.absolute()}", container_options=IMAGE_OPTIONS) as container:
            return upright_rgb(next(container.decode(video=0)))
    except (av.FFmpegError, OSError, StopIteration, IndexError) as e:
        raise BadDataError(f"{path} can't be read as a picture: {e}", "extract the data set again") from e


def read_upstream_image(path: Path, layout: str) -> NDArray[np.uint8]:
    """A picture as RGB [height, width, 3], to the last bit as the public loader gets it: decoded by Pillow.

    MOSEI's pictures that are higher than 360 are halved (rounded down), and from all of them 360x360 is cut out of the
    middle, black where the picture is smaller.

    Raises:
        BadDataError: it is no JPEG, or a huge one. EnvironmentMissing: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError as e:
        raise missing_extra("Pillow, which compat: upstream reads images with,", "prepare") from e
    try:
        if path.stat().st_size > LARGEST_IMAGE_BYTES:
            raise BadDataError(f"{path} is larger than {LARGEST_IMAGE_BYTES >> 20} MB", "frames of the sets are small")
        with Image.open(path, formats=["JPEG"]) as image:
            check_size(*image.size, str(path))
            picture = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:
        raise BadDataError(f"{path} can't be read as a picture: {e}", "extract the data set again") from e
    if layout == "mosei":
        width, height = picture.size
        if height > UPSTREAM_CROP:
            width, height = width // 2, height // 2
            picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        left, top = round((width - UPSTREAM_CROP) / 2), round((height - UPSTREAM_CROP) / 2)
        picture = picture.crop((left, top, left + UPSTREAM_CROP, top + UPSTREAM_CROP))
    return np.asarray(picture)
