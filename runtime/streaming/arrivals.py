"""An open source, and its packets with the time at which they came.

A camera or stream is read by a thread of its own, so that what comes while frames are searched for faces is not taken
for late in coming. A file is paced: each packet comes when it would from a camera.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from av.error import FFmpegError
from av.packet import Packet

from mmx.runtime.errors import BadDataError, ConnectionLost
from mmx.runtime.manifest import Preprocessing
from mmx.runtime.media.decode import SoundTrack, VideoTrack
from mmx.runtime.media.packets import OpenFile
from mmx.runtime.streaming.clock import Clock
from mmx.runtime.streaming.raw import RawAudio, RawFormat, RawPiece, RawVideo, read_pieces
from mmx.runtime.streaming.sources import LiveSource, fed

WAITING_BYTES = 64 * 2**20  # packets that wait for the decoder; more wait in the network
LATE_START_S = 0.5  # a paced URL that is this late goes on from there


@dataclass(frozen=True)
class Arrival:
    """A packet that came.

    Attributes:
        at: when, by the clock. time: of what it holds, in seconds from the stream's start.
        kind: video or audio. packet: what the track's ``take`` takes. key: whether a decoder can begin with it.
        last: whether it only lets out what the decoder still holds.
    """

    at: float
    time: float
    kind: str
    packet: Packet | RawPiece | None
    key: bool = True
    last: bool = False


class _StreamFile(OpenFile):
    """An open stream; where its clock starts is known from its header, or its first packet."""

    start: float | None = None

    @property
    def origin(self) -> float:
        return super().origin if self.start is None else self.start


class Stream:
    """A source that is open.

    Args:
        video, audio: which tracks are wanted.

    Attributes:
        info: what its header says. video, audio: the tracks, None where there is none.
        ends: whether it is a recording, which comes to an end. flags: of every window.

    Raises:
        MmxError: see ``LiveSource.open``.
    """

    def __init__(
        self, source: LiveSource, preprocessing: Preprocessing, *, video: bool, audio: bool, threads: int
    ) -> None:
        self._source = source
        self._file = file = _StreamFile(source.open(), source.name)
        self.info = file.info
        self.ends = source.kind == "file" or file.info.duration is not None
        several = {"video": file.info.video_tracks, "audio": file.info.audio_tracks}
        self.flags = {f"several_{kind}_tracks" for kind, count in several.items() if count > 1}
        streams = [file.stream(kind) for kind, wanted in (("video", video), ("audio", audio)) if wanted]
        for stream in filter(None, streams):
            file.add(stream)
        if not any(streams):
            raise BadDataError(f"{source.name} has nothing that this model looks at", "mmx inspect BUNDLE")
        packets = self._packets(file.demux())
        self._first = next(packets, None)
        self._rest = packets
        first = self._first
        if file.container.start_time is None and first is not None and first.pts is not None and first.time_base:
            file.start = float(first.pts * first.time_base)
        mel = preprocessing.mel
        self.video = VideoTrack(file, threads, hdr=preprocessing.video.hdr) if video and streams[0] else None
        rate = None if mel.own_rate else mel.sample_rate
        self.audio = SoundTrack(file, rate, threads, mel.mix) if audio and streams[-1] else None

    def close(self) -> None:
        """Close it."""
        self._file.close()

    def arrivals(self, clock: Clock, *, paced: bool) -> Iterator[Arrival]:
        """Its packets as they come; None at last for each track, where a recording breaks off.

        Args:
            paced: whether a recording's packets come at their own times, rather than when they are asked for.

        Raises:
            ConnectionLost: a stream broke off.
        """
        if self._source.kind == "file":
            return self._dated(clock, paced)
        pump = Pump(self._dated(clock, paced and self.ends))
        pump.start()
        return iter(pump)

    def _dated(self, clock: Clock, paced: bool) -> Iterator[Arrival]:
        began = latest = clock.now()
        origin = self._file.origin
        last = {"video": 0.0, "audio": 0.0}
        packets = self._rest if self._first is None else _with_first(self._first, self._rest)
        for packet in packets:
            if packet is None:
                yield from (Arrival(clock.now(), time, kind, None, last=True) for kind, time in last.items())
                return
            kind = packet.stream.type
            stamp = packet.pts if packet.pts is not None else packet.dts
            if stamp is not None and packet.time_base:
                last[kind] = float(stamp * packet.time_base) - origin
            time = last[kind]
            at = clock.now()
            if paced:
                if self._source.kind != "file" and at > began + time + LATE_START_S:
                    began = at - time
                at = latest = max(latest, began + time)  # no frame comes before one that it refers to
                clock.wait_until(at)
            yield Arrival(at, time, kind, packet, bool(packet.is_keyframe), last=not packet.size)

    def _packets(self, demuxed: Iterator[Packet]) -> Iterator[Packet | None]:
        """The packets; None where a recording breaks off."""
        while True:
            try:
                packet = next(demuxed)
            except StopIteration:
                return
            except (IndexError, FFmpegError, OSError) as e:
                if self._source.kind == "file":
                    yield None
                    return
                raise ConnectionLost(f"{self.info.name} broke off: {getattr(e, 'strerror', None) or e}") from e
            yield packet


class RawStream:
    """A source of frames and samples as they are (see ``raw``), as ``Stream`` is one of packets."""

    ends = False

    def __init__(self, source: LiveSource, form: RawFormat, preprocessing: Preprocessing, *, video: bool, audio: bool):
        mel = preprocessing.mel
        self.info = form.info(source.name)
        self.flags: set[str] = set()
        self.video = RawVideo() if video and form.width else None
        rate = form.sample_rate if mel.own_rate else mel.sample_rate
        self.audio = RawAudio(form.sample_rate, rate) if audio and form.sample_rate else None
        if self.video is None and self.audio is None:
            raise BadDataError(f"{source.name} has nothing that this model looks at", "mmx inspect BUNDLE")
        self._form = form
        self._file = fed(source.address)

    def close(self) -> None:
        """Close it."""
        self._file.close()

    def arrivals(self, clock: Clock, *, paced: bool) -> Iterator[Arrival]:
        """See ``Stream.arrivals``; it has its own pace."""
        pump = Pump(self._dated(clock))
        pump.start()
        return iter(pump)

    def _dated(self, clock: Clock) -> Iterator[Arrival]:
        for piece in read_pieces(self._file, self._form):
            if getattr(self, piece.kind) is not None:
                yield Arrival(clock.now(), piece.time, piece.kind, piece)


def open_stream(source: LiveSource, preprocessing: Preprocessing, *, video: bool, audio: bool) -> Stream | RawStream:
    """A source, open; see ``Stream``."""
    if source.raw is not None:
        return RawStream(source, source.raw, preprocessing, video=video, audio=audio)
    return Stream(source, preprocessing, video=video, audio=audio, threads=1)


def _with_first(first: Packet, rest: Iterator[Packet | None]) -> Iterator[Packet | None]:
    yield first
    yield from rest


class Pump(threading.Thread):
    """Reads ahead of whoever iterates over it, up to ``WAITING_BYTES``."""

    def __init__(self, arrivals: Iterator[Arrival]) -> None:
        super().__init__(name="mmx-live", daemon=True)
        self._arrivals = arrivals
        self._waiting: deque[Arrival] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._over = False
        self._error: Exception | None = None

    def run(self) -> None:
        """Until the source ends."""
        try:
            for arrival in self._arrivals:
                with self._changed:
                    self._changed.wait_for(lambda: self._bytes <= WAITING_BYTES)
                    self._waiting.append(arrival)
                    self._bytes += _size(arrival)
                    self._changed.notify_all()
        except Exception as e:
            self._error = e
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Arrival]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._over)
                if not self._waiting:
                    break
                arrival = self._waiting.popleft()
                self._bytes -= _size(arrival)
                self._changed.notify_all()
            yield arrival
        if self._error is not None:
            raise self._error


def _size(arrival: Arrival) -> int:
    payload: Any = arrival.packet
    return 0 if payload is None else int(payload.size)
