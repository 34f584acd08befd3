"""One plain clip, and the means to wrap the very same frames and sound in other ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition

FPS, SECONDS, RATE = 25, 2, 48000
HELD = 4  # frames of the same content in a row, so that repeats can be left out
LATE_S = 0.24  # the clip begins with so much stillness: one content, no sound
SIZE = (320, 180)

Sound = np.ndarray  # float32 [channels, n]


@dataclass(frozen=True)
class Clip:
    """The frames (yuv420p, with times in seconds) and the mono sound (48 kHz) that every twin shows."""

    frames: tuple[av.VideoFrame, ...]
    sound: np.ndarray


def plain_clip(talking_face: Path) -> Clip:
    """Two seconds of the demo clip, small, each content for 4 frames; still and silent at first."""
    contents: list[av.VideoFrame] = []
    with av.open(talking_face) as media:
        for i, frame in enumerate(media.decode(video=0)):
            if i % HELD == 0:
                contents.append(frame.reformat(*SIZE, format="yuv420p"))
            if len(contents) * HELD >= FPS * SECONDS:
                break
    with av.open(talking_face) as media:
        resampler = av.AudioResampler("fltp", "mono", RATE)
        parts = [part.to_ndarray()[0] for frame in media.decode(audio=0) for part in resampler.resample(frame)]
    sound = np.concatenate(parts)[RATE : RATE * (1 + SECONDS)]
    sound[: round(LATE_S * RATE)] = 0.0
    still = round(LATE_S * FPS)
    return Clip(tuple(contents[0 if i <= still else i // HELD] for i in range(FPS * SECONDS)), sound)


@dataclass(frozen=True)
class Video:
    """How the frames are written: codec, pixel format, encoder options, and what is done to frames and times."""

    codec: str = "ffv1"
    pixels: str = "yuv420p"
    options: dict[str, str] = field(default_factory=dict)
    matrix: Sequence[int] | None = None
    turn: Callable[[np.ndarray], np.ndarray] | None = None  # of the RGB pixels, before they are encoded
    chosen: Callable[[int], bool] = lambda number: True
    time: Callable[[int], float] = lambda number: number / FPS
    black: bool = False
    disposition: int = int(Disposition.default)
    prepare: Callable[[av.VideoFrame], av.VideoFrame] = lambda frame: frame
    colour: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Audio:
    """How the sound is written: codec, rate, layout, and how channels, samples and times are made."""

    codec: str = "pcm_s16le"
    rate: int = RATE
    layout: str = "mono"
    options: dict[str, str] = field(default_factory=dict)
    channels: Callable[[np.ndarray, list[str]], Sound] | None = None  # mono and channel names -> all channels
    start: float = 0.0  # seconds of sound left out, and where the rest begins
    shift: float = 0.0
    silent: bool = False
    disposition: int = int(Disposition.default)


def write(
    path: Path,
    clip: Clip,
    tracks: Sequence[Video | Audio] = (Video(), Audio()),
    *,
    options: dict[str, str] | None = None,
    subtitle_until: float | None = None,
    format: str | None = None,
) -> Path:
    """Write the clip with these tracks, in this order."""
    with av.open(path, "w", format=format, container_options=options or {}) as out:
        made: list[tuple[av.stream.Stream, Iterator[av.Packet]]] = []
        for track in tracks:
            made.append(_video(out, clip, track) if isinstance(track, Video) else _audio(out, clip, track))
        words = out.add_mux_stream("subrip") if subtitle_until else None
        packets = [packet for _, encoded in made for packet in encoded]
        if words is not None and subtitle_until:
            packet = av.Packet(b"words")
            packet.stream, packet.time_base = words, Fraction(1, 1000)
            packet.pts = packet.dts = round(subtitle_until * 1000) - 1000
            packet.duration = 1000
            packets.append(packet)
        for packet in sorted(packets, key=lambda p: (p.dts if p.dts is not None else 0) * p.time_base):
            out.mux(packet)
    return path


def _video(out: Any, clip: Clip, track: Video) -> tuple[Any, Iterator[av.Packet]]:
    width, height = SIZE
    if track.turn is not None:
        height, width = track.turn(np.zeros((height, width, 3), np.uint8)).shape[:2]
    stream = out.add_stream(track.codec, rate=FPS, options=track.options)
    stream.width, stream.height, stream.pix_fmt = width, height, track.pixels
    stream.codec_context.time_base = Fraction(1, 1000) if track.codec in ("ffv1", "libx264") else Fraction(1, FPS)
    for name, value in track.colour.items():
        setattr(stream.codec_context, name, value)
    if track.matrix is not None:
        stream.set_display_matrix(track.matrix)
    stream.disposition = track.disposition

    def packets() -> Iterator[av.Packet]:
        for number, plain in enumerate(clip.frames):
            if not track.chosen(number):
                continue
            frame = track.prepare(plain)
            if track.turn is not None:
                frame = av.VideoFrame.from_ndarray(
                    np.ascontiguousarray(track.turn(plain.to_ndarray(format="rgb24"))), format="rgb24"
                )
            elif track.black:
                frame = av.VideoFrame.from_ndarray(np.zeros((height, width, 3), np.uint8), format="rgb24")
            else:
                frame = frame.reformat(format=track.pixels)
            frame.pts, frame.time_base = round(track.time(number) * 1000), Fraction(1, 1000)
            yield from stream.encode(frame)
        yield from stream.encode(None)

    return stream, packets()


def _audio(out: Any, clip: Clip, track: Audio) -> tuple[Any, Iterator[av.Packet]]:
    stream = out.add_stream(track.codec, rate=track.rate, layout=track.layout, options=track.options)
    stream.disposition = track.disposition
    mono = np.zeros_like(clip.sound) if track.silent else clip.sound
    names = [channel.name for channel in av.AudioLayout(track.layout).channels]
    channels = track.channels(mono, names) if track.channels else np.tile(mono, (len(names), 1))
    channels = channels[:, round(track.start * RATE) :]

    def packets() -> Iterator[av.Packet]:
        packed = np.ascontiguousarray(channels.T, np.float32).reshape(1, -1)
        whole = av.AudioFrame.from_ndarray(packed, format="flt", layout=track.layout)
        whole.sample_rate, whole.pts, whole.time_base = RATE, 0, Fraction(1, RATE)
        size = stream.codec_context.frame_size or track.rate // 10
        resampler = av.AudioResampler(stream.format.name, track.layout, track.rate, frame_size=size)
        done = 0
        for frame in [*resampler.resample(whole), *resampler.resample(None)]:
            frame.pts = round((track.start + track.shift) * track.rate) + done
            frame.time_base = Fraction(1, track.rate)
            done += frame.samples
            yield from stream.encode(frame)
        yield from stream.encode(None)

    return stream, packets()
