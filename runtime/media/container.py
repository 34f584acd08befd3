"""Open a media file and read its header, trusting nothing.

Files are untrusted: only real container formats are opened, from the local disk or from memory (no playlist, no concat
list, no URL), and frame sizes and sample rates are capped, before anything is decoded.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition

from mmx.runtime.errors import BadDataError
from mmx.runtime.media.source import MediaInput, Source
from mmx.runtime.types import DEFAULT_TRACKS, Tracks

# Containers that hold their own media. Left out on purpose: hls, dash, concat, image2, lavfi and other pointers.
FORMATS = (
    "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,wav,w64,flac,mp3,aac,aiff,caf,amr,au,mxf,gif,nut,ivf,dv,rm,h264,hevc,m4v"
)
MAX_PIXELS = 36_000_000  # 8K video is 33 million
SCALE_DOWN = f"mmx decodes {MAX_PIXELS} pixels at most; scale it down first"
SAMPLE_RATES = (1_000, 768_000)  # Hz
MAX_GAP_S = 3600.0  # no two frames of a real file, nor its start and its first frame, are further apart

# Formats of which FFmpeg guesses the length from the bit rate of the first packets.
GUESSED_LENGTH = frozenset({"mp3", "aac", "amr", "h264", "hevc", "m4v", "mpeg", "dv", "ac3", "mpegvideo"})
# Formats that hold no length of a single track: where FFmpeg gives one, it guessed that too.
NO_TRACK_LENGTH = frozenset({"matroska", "flv"})
# Pictures, not video: beside a video track, such a track of one frame is a cover or a thumbnail.
STILL_CODECS = frozenset({"png", "mjpeg", "bmp", "gif", "webp", "tiff", "jpeg2000", "jpegls"})
COVER = Disposition.attached_pic | Disposition.timed_thumbnails
ASIDE = (
    Disposition.still_image | Disposition.dependent | Disposition.visual_impaired | Disposition.hearing_impaired
) | (Disposition.comment | Disposition.non_diegetic | Disposition.karaoke)
# Formats without a clock of their own: where sound comes first by an encoder's delay, the file starts with the video.
NO_TIMELINE = frozenset({"mpegts", "mpeg", "flv"})
ENCODER_DELAY_S = 0.1
# Titles that are not UTF-8 do not matter; from version 19 on PyAV takes them without being asked.
LENIENT = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
DURATION_TAG = re.compile(r"(\d{1,4}):(\d\d):(\d\d(?:\.\d+)?)")


@dataclass(frozen=True)
class MediaInfo:
    """What a file's header says.

    Attributes:
        name: the path as given, or what stands for it.
        duration: seconds from the file's start to the end of the chosen tracks; None where the header has none, or
            FFmpeg could only guess it.
        width, height: pixels as stored, on its side where the file says that the frames are to be turned.
        fps: frames per second, None where unknown. sample_rate: Hz. channels: of the audio track; 0 without one.
        video_tracks, audio_tracks: how many there are to choose from.
    """

    name: str
    duration: float | None
    has_video: bool
    has_audio: bool
    width: int
    height: int
    fps: float | None
    sample_rate: int
    channels: int
    video_tracks: int
    audio_tracks: int


def probe(media: MediaInput, tracks: Tracks = DEFAULT_TRACKS) -> MediaInfo:
    """Read a file's header, decode nothing.

    Raises:
        BadDataError: no such file, or none that can be read as media, or neither video nor sound in it,
            or no such track.
    """
    source = Source(media)
    with open_media(source) as container:
        return describe(container, source.name, tracks)


def describe(container: InputContainer, name: str, tracks: Tracks = DEFAULT_TRACKS) -> MediaInfo:
    """What the header of an open file says. Raises BadDataError for a track that it does not have."""
    video = video_stream(container, tracks.video, name)
    audio = audio_stream(container, tracks.audio, name)
    rate = video.average_rate or video.guessed_rate if video else None
    return MediaInfo(
        name=name,
        duration=declared_duration(container, [s for s in (video, audio) if s]),
        has_video=video is not None,
        has_audio=audio is not None,
        width=video.width if video else 0,
        height=video.height if video else 0,
        fps=float(rate) if rate else None,
        sample_rate=audio.rate or 0 if audio else 0,
        channels=audio.channels if audio else 0,
        video_tracks=len(_moving(container)),
        audio_tracks=len(container.streams.audio),
    )


def open_media(media: MediaInput | Source) -> InputContainer:
    """Open media for reading; close it, or use it in a ``with``.

    Raises:
        BadDataError: as ``probe``.
    """
    source = media if isinstance(media, Source) else Source(media)
    options = {"protocol_whitelist": "file", "format_whitelist": FORMATS, "max_streams": "100"}
    try:
        media_open: Any = av.open  # whose type does not distinguish reading from writing
        container: InputContainer = media_open(
            source.for_ffmpeg(),
            options={"max_pixels": str(MAX_PIXELS)},  # of the decoders, with which the header may have to be read
            container_options=options,
            **LENIENT,
        )
    except (FFmpegError, OSError, ValueError) as e:
        reason, hint = _why_unreadable(source, e)
        raise BadDataError(f"{source.name} cannot be read as media: {reason}", hint) from e
    try:
        _check(container, source.name)
    except BaseException:
        container.close()
        raise
    return container


def video_stream(container: InputContainer, track: int | None = None, name: str = "the file") -> Any | None:
    """The video track of that number; by default the one that the file marks as default, else the first.

    Cover art and thumbnails are none, and a still is none beside a video. None without any; BadDataError for a number
    that is not there.
    """
    return _chosen(_moving(container), track, "video", name)


def audio_stream(container: InputContainer, track: int | None = None, name: str = "the file") -> Any | None:
    """The audio track of that number; by default the one that the file marks as default, else the first."""
    return _chosen(list(container.streams.audio), track, "audio", name)


def _chosen(streams: list[Any], track: int | None, kind: str, name: str) -> Any | None:
    if track is not None and not 0 <= track < len(streams):
        there = f"{len(streams)} {kind} track{'s' * (len(streams) != 1)}"
        raise BadDataError(f"{name} has {there}, and track {track} was asked for", "tracks are counted from 0")
    if track is not None:
        if not streams[track].codec_context:
            raise BadDataError(f"{name}: {kind} track {track} is in a format that cannot be decoded")
        return streams[track]
    usable = [stream for stream in streams if stream.codec_context]
    return max(usable, key=_standing, default=None)  # the first of the best


def _standing(stream: Any) -> tuple[bool, bool]:
    disposition = stream.disposition
    return bool(disposition & Disposition.default), not disposition & ASIDE


def _moving(container: InputContainer) -> list[Any]:
    """The video tracks, without covers; without stills where there is anything else."""
    videos = [stream for stream in container.streams.video if not stream.disposition & COVER]
    return [stream for stream in videos if not _is_still(stream)] or videos


def _is_still(stream: Any) -> bool:
    if stream.frames > 1:
        return False
    context = stream.codec_context
    is_picture = context is not None and context.codec.canonical_name in STILL_CODECS
    return bool(stream.frames == 1 or is_picture or stream.disposition & Disposition.still_image)


def _check(container: InputContainer, name: str) -> None:
    """Reject a file without video and sound, and sizes that no real file has."""
    video, audio = video_stream(container), audio_stream(container)
    if video is None and audio is None:
        raise BadDataError(f"{name} holds no video and no sound that can be decoded", "give a video or sound file")
    if video is not None:
        check_size(video.width, video.height, name)
        if video.codec_context.pix_fmt and not video.width * video.height:  # what FFmpeg leaves of one beyond the limit
            raise BadDataError(f"{name} has frames of no size, or of more than {MAX_PIXELS} pixels", SCALE_DOWN)
    if audio is not None and audio.rate:
        check_rate(audio.rate, name)


def check_size(width: int, height: int, name: str) -> None:
    """Reject frames beyond 8K, which are a mistake or meant to fill the memory."""
    if width * height > MAX_PIXELS:
        raise BadDataError(f"{name} has frames of {width}x{height} pixels", SCALE_DOWN)


def check_rate(rate: int, what: str) -> None:
    """Reject sample rates that no recording has: resampling those would multiply the sound's size by thousands."""
    low, high = SAMPLE_RATES
    if not low <= rate <= high:
        raise BadDataError(f"{what} has a sample rate of {rate} Hz", f"mmx takes {low} to {high} Hz")


def origin(container: InputContainer, video: Any | None) -> float:
    """Where the file starts on its own clock, in seconds."""
    start = (container.start_time or 0) / av.time_base
    if video is None or video.start_time is None or not NO_TIMELINE & set(container.format.name.split(",")):
        return start
    first = float(video.start_time * video.time_base)
    return first if 0 < first - start <= ENCODER_DELAY_S else start


def declared_duration(container: InputContainer, streams: list[Any]) -> float | None:
    """Seconds from the file's start to the end of the chosen streams, as declared; None where that is not known.

    A length that FFmpeg guessed from the bit rate is not, nor one of the whole file that another track may have set.
    """
    names = set(container.format.name.split(","))
    if GUESSED_LENGTH & names or (NO_TRACK_LENGTH & names and any(stream.duration for stream in streams)):
        return None
    ends = [end for end in (_declared_end(stream) for stream in streams) if end is not None]
    if ends and len(ends) == len(streams):
        longest = max(ends) - origin(container, next((s for s in streams if s.type == "video"), None))
    elif len(container.streams) == len(streams):
        longest = (container.duration or 0) / av.time_base
    else:
        return None
    return longest if 0 < longest <= max(MAX_GAP_S, container.size) else None  # a byte a second, or it is damaged


def _declared_end(stream: Any) -> float | None:
    """Where a stream ends on the file's clock, from its own duration or Matroska's tag of it."""
    start = float((stream.start_time or 0) * stream.time_base)
    if stream.duration:
        return start + float(stream.duration * stream.time_base)
    found = DURATION_TAG.match(stream.metadata.get("DURATION", ""))
    return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3]) if found else None


def _why_unreadable(source: Source, error: Exception) -> tuple[str, str]:
    """(reason, hint) in words for a file that FFmpeg would not open."""
    head = b"\0"
    with suppress(OSError), source.reader() as file:
        head = file.read(512)
    is_text = b"\0" not in head and head.isascii()
    if isinstance(error, av.error.ArgumentError):
        reason = "a playlist, or a format that is not taken"
        return f"it is text: {reason}" if is_text else reason, "give the video or sound file itself"
    with suppress(OSError), source.reader() as file:
        if head[4:8] == b"ftyp" and not _has_moov(file, source.size):
            return "its index (moov) is missing", "the recording or the copy was cut short; record or copy it again"
    if is_text:
        return "it is text", "give a video or sound file"
    reason = getattr(error, "strerror", None) or str(error)
    return reason[:1].lower() + reason[1:], "try to play it; convert it to MP4 if other programs can read it"


def _has_moov(file: BinaryIO, size: int) -> bool:
    """Whether an MP4 file's top-level boxes, walked by their sizes, include the index."""
    position = 0
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
