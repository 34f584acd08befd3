"""A media file that is open, and its packets: one pass over the file for every track that is read, in bounded memory.

Packets of a track that is not at its turn wait, up to ``WAITING_BYTES``. In a file that is interleaved worse than that,
and from the first fault on, each track goes on through a demuxer of its own, which passes over what the track has had.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from typing import Any, Self

from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Discard

from mmx.runtime.media.container import (
    DEFAULT_TRACKS,
    MAX_GAP_S,
    MediaInfo,
    Tracks,
    audio_stream,
    describe,
    open_media,
    origin,
    video_stream,
)
from mmx.runtime.media.source import MediaInput, Source

WAITING_BYTES = 16 * 2**20


class OpenFile:
    """A container that is open, and which of its tracks are read; use it in a ``with``, or close it.

    Attributes: ``name``, ``container``, ``info`` (what its header says).

    Raises:
        BadDataError: there is no such track; it is closed then.
    """

    def __init__(self, container: InputContainer, name: str, tracks: Tracks = DEFAULT_TRACKS) -> None:
        self.name, self.container, self._tracks = name, container, tracks
        try:
            self.info: MediaInfo = describe(container, name, tracks)
        except BaseException:
            container.close()
            raise
        self._waiting: dict[int, deque[Packet]] = {}  # of each track that is read, by the stream's index

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; twice is fine."""
        self.container.close()

    def stream(self, kind: str) -> Any | None:
        """The chosen track, ``video`` or ``audio``; None where the file has none."""
        if kind == "video":
            return video_stream(self.container, self._tracks.video, self.name)
        return audio_stream(self.container, self._tracks.audio, self.name)

    @property
    def origin(self) -> float:
        """Where the file starts on its own clock, in seconds."""
        return origin(self.container, self.stream("video"))

    def chosen(self, kind: str) -> bool:
        """Whether the caller chose the ``video`` or ``audio`` track by number."""
        return (self._tracks.video if kind == "video" else self._tracks.audio) is not None

    def add(self, stream: Any) -> None:
        """Say that a stream's packets will be read; all are to be added before the first is read."""
        self._waiting[stream.index] = deque()

    def demux(self) -> Iterator[Packet]:
        """The packets of the added streams as the container holds them. Raises what FFmpeg does."""
        choose(self.container, set(self._waiting))
        return self.container.demux(*(self.container.streams[index] for index in self._waiting))


class MediaFile(OpenFile):
    """One open file.

    Args:
        media: a path, bytes or a file object (see ``source.Source``). tracks: which to read.

    Raises:
        BadDataError: see ``container.probe``.
    """

    def __init__(self, media: MediaInput, tracks: Tracks = DEFAULT_TRACKS) -> None:
        self._source = Source(media)
        super().__init__(open_media(self._source), self._source.name, tracks)
        self._held = 0
        self._shared: Iterator[Packet] | None = None
        self._over = self._apart = False

    @cached_property
    def length(self) -> float:
        """Seconds to the end of the chosen tracks: as declared, or by reading all packets once, without decoding.

        0.0 where packets have no times.
        """
        if self.info.duration is not None:
            return self.info.duration
        wanted = {stream.index for stream in (self.stream("video"), self.stream("audio")) if stream}
        with open_media(self._source) as own:
            return max(0.0, _last_end(own, wanted, self.origin))

    def packets(self, stream: Any) -> Iterator[Packet | None]:
        """An added stream's packets; None at last if the file breaks off or cannot be read on."""
        mine = self._waiting[stream.index]
        had = 0
        while mine or not (self._over or self._apart):
            if mine:
                had += 1
                self._held -= mine[0].size
                yield mine.popleft()
            else:
                self._read_on()
        if self._apart:
            with open_media(self._source) as own:
                yield from _alone(own, own.streams[stream.index], had)

    def _read_on(self) -> None:
        """Bring the next packet, of whichever track, to those that wait."""
        if self._shared is None:
            self._shared = self.demux()
        try:
            packet = next(self._shared)
        except StopIteration:
            self._over = True
        except (IndexError, FFmpegError, OSError):  # each track finds out alone how far it gets
            self._apart = True
        else:
            self._waiting[packet.stream.index].append(packet)
            self._held += packet.size
            self._apart = self._held > WAITING_BYTES


def _alone(container: InputContainer, stream: Any, had: int) -> Iterator[Packet | None]:
    """One stream's packets after the first ``had``; None at last as in ``MediaFile.packets``."""
    choose(container, {stream.index})
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except IndexError:  # PyAV meets a packet of a stream that the header did not announce
            packets = container.demux(stream)
        except (FFmpegError, OSError):
            yield None
            return
        else:
            had -= 1
            if had < 0:
                yield packet


def _last_end(container: InputContainer, streams: set[int], start: float) -> float:
    """Where the last packet of these streams ends, in seconds from ``start``, as far as it can be read."""
    choose(container, streams)
    last = 0.0
    with suppress(FFmpegError, OSError, IndexError):
        for packet in container.demux(*(container.streams[index] for index in streams)):
            if packet.pts is not None and packet.time_base:
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base) - start
                last = max(last, end) if end - last <= MAX_GAP_S else last
    return last


def choose(container: InputContainer, streams: set[int]) -> None:
    """Have the demuxer leave out all other streams."""
    for stream in container.streams:
        stream.discard = Discard.default if stream.index in streams else Discard.all
