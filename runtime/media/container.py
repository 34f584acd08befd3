"""Open a media file and read its header, trusting nothing.

Files are hostile until shown otherwise: only real container formats on the local disk are opened (no playlist, no
concat list, no URL), and picture sizes and sample rates are capped.
"""

from __future__ import annotations

import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition

from mmx.runtime.errors import BadDataError

# Containers that hold their own media. Left out on purpose: hls, dash, concat, image2, lavfi and other pointers.
FORMATS = (
    "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,wav,w64,flac,mp3,aac,aiff,caf,amr,au,mxf,gif,nut,ivf,dv,rm,h264,hevc,m4v"
)
MAX_PIXELS = 36_000_000  # 8K video is 33 million
SAMPLE_RATES = (1_000, 768_000)  # Hz


@dataclass(frozen=True)
class MediaInfo:
    """What a file's header says. Times in seconds; None where the file does not tell; sizes as stored,
    which is on its side where the file says that the picture is to be turned."""

    path: Path
    duration: float | None
    has_video: bool
    has_audio: bool
    width: int
    height: int
    fps: float | None
    sample_rate: int
    channels: int


def probe(path: str | Path) -> MediaInfo:
    """Read a file's header, decode nothing.

    Raises:
        BadDataError: no such file, or none that can be read as media, or neither picture nor sound in it.
    """
    with open_media(path) as container:
        return describe(container, Path(path))


def describe(container: InputContainer, path: Path) -> MediaInfo:
    """What the header of an open file says."""
    video, audio = video_stream(container), audio_stream(container)
    rate = video.average_rate or video.guessed_rate if video else None
    return MediaInfo(
        path=path,
        duration=declared_duration(container, [s for s in (video, audio) if s]),
        has_video=video is not None,
        has_audio=audio is not None,
        width=video.width if video else 0,
        height=video.height if video else 0,
        fps=float(rate) if rate else None,
        sample_rate=audio.rate or 0 if audio else 0,
        channels=audio.channels if audio else 0,
    )


def open_media(path: str | Path) -> InputContainer:
    """Open a local media file for reading; close it, or use it in a ``with``.

    Raises:
        BadDataError: as ``probe``.
    """
    path = Path(path)
    try:
        status = path.stat()
    except (OSError, ValueError) as e:
        raise BadDataError(f"{path} cannot be read: {getattr(e, 'strerror', None) or e}", "check the path") from e
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
        raise BadDataError(f"{path} is {kind}", "give a video or sound file")
    if not status.st_size:
        raise BadDataError(f"{path} is empty (0 bytes)", "copy or download it again")
    options = {"protocol_whitelist": "file", "format_whitelist": FORMATS, "max_streams": "100"}
    try:
        container = av.open(f"file:{path.absolute()}", container_options=options, metadata_errors="replace")
    except (FFmpegError, OSError, ValueError) as e:
        reason, hint = _why_unreadable(path, e)
        raise BadDataError(f"{path} cannot be read as media: {reason}", hint) from e
    try:
        _check(container, path)
    except BaseException:
        container.close()
        raise
    return container


def video_stream(container: InputContainer) -> Any | None:
    """The picture: the first video stream that has a decoder and is no cover art; None without one."""
    still = Disposition.attached_pic | Disposition.timed_thumbnails
    return next((s for s in container.streams.video if s.codec_context and not s.disposition & still), None)


def audio_stream(container: InputContainer) -> Any | None:
    """The sound: the first audio stream that has a decoder; None without one."""
    return next((s for s in container.streams.audio if s.codec_context), None)


def _check(container: InputContainer, path: Path) -> None:
    """Refuse a file without picture and sound, and sizes no real file has."""
    video, audio = video_stream(container), audio_stream(container)
    if video is None and audio is None:
        raise BadDataError(f"{path} holds no picture and no sound that can be decoded", "give a video or sound file")
    if video is not None:
        check_size(video.width, video.height, path)
    if audio is not None and audio.rate:
        check_rate(audio.rate, str(path))


def check_size(width: int, height: int, path: Path) -> None:
    """Refuse pictures beyond 8K, which are a mistake or meant to fill the memory."""
    if width * height > MAX_PIXELS:
        raise BadDataError(
            f"{path} has a picture of {width}x{height} pixels", f"mmx decodes {MAX_PIXELS} at most; scale it down first"
        )


def check_rate(rate: int, what: str) -> None:
    """Refuse sample rates that no recording has: resampling those would multiply the sound's size by thousands."""
    low, high = SAMPLE_RATES
    if not low <= rate <= high:
        raise BadDataError(f"{what} has a sample rate of {rate} Hz", f"mmx takes {low} to {high} Hz")


def declared_duration(container: InputContainer, streams: list[Any]) -> float | None:
    """The declared length in seconds from the file's start: of the chosen streams if they all tell, else the file's."""
    origin = (container.start_time or 0) / av.time_base
    ends = [float(((s.start_time or 0) + s.duration) * s.time_base) - origin for s in streams if s.duration]
    all_tell = ends and len(ends) == len(streams)
    longest = max(ends) if all_tell else (container.duration or 0) / av.time_base
    return longest if longest > 0 else None


def _why_unreadable(path: Path, error: Exception) -> tuple[str, str]:
    """(reason, hint) in words for a file that FFmpeg would not open."""
    if isinstance(error, av.error.ArgumentError):
        return "a playlist, or a format that is not taken", "give the video or sound file itself"
    with suppress(OSError), path.open("rb") as file:
        head = file.read(512)
        if head[4:8] == b"ftyp" and not _has_moov(path):
            return "its index (moov) is missing", "the recording or the copy was cut short; record or copy it again"
        if b"\0" not in head and head.isascii():
            return "it is text", "give a video or sound file"
    reason = getattr(error, "strerror", None) or str(error)
    return reason[:1].lower() + reason[1:], "try to play it; convert it to MP4 if other programs can read it"


def _has_moov(path: Path) -> bool:
    """Whether an MP4 file's top-level boxes, walked by their sizes, include the index."""
    size = path.stat().st_size
    position = 0
    with path.open("rb") as file:
        while position + 8 <= size:
            file.seek(position)
            header = file.read(16)
            length = int.from_bytes(header[:4], "big")
            if header[4:8] == b"moov":
                return position + length <= size
            if length == 1:
                length = int.from_bytes(header[8:16], "big")
            if length < 8:
                return False
            position += length
    return False
