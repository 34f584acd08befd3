"""Which packets of a picture need not be decoded, so that the frames that are looked at stay exactly the same.

Of 25 frames a second two are looked at. The others still have to be decoded where a later one refers to them; but not
- a frame that no other refers to (half of H.264's B frames, or more): the decoder itself knows those;
- the rest of a group of pictures after the last frame in it that is looked at or referred to by one.

A frame is known not to be looked at when the next one comes before the next time that is looked at. That is decided
from the packets' times, read some way ahead. Whatever makes those doubtful, and every format in which
a packet may hold no whole frame, makes everything be decoded.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from av.packet import Packet

AHEAD_PACKETS = 64
AHEAD_BYTES = 32 * 2**20
KEPT_TIMES = 256
GAP_S = 1.0  # frames further apart than this are decoded: something is odd about the times

Looks = Callable[[float, float], bool]
"""Whether a frame that is on screen from one time to another, in seconds, is looked at."""


class How(Enum):
    """What to do with a packet."""

    DECODE = auto()
    DECODE_IF_REFERRED_TO = auto()
    DROP = auto()
    DECODE_AFRESH = auto()  # packets before it were dropped


@dataclass
class _Waiting:
    packet: Packet | None
    time: float | None  # of its frame; None where that is unknown
    depth: int  # frames that are decoded before it and shown after it
    needless: bool = False


class Foresight:
    """Reads packets ahead and says of each what to do with it.

    Args:
        stream: the video stream. origin: seconds at which its file starts.
        looks: see ``Looks``.
        trusted: whether all times and frames so far were in order.
    """

    def __init__(self, stream: Any, origin: float, looks: Looks, trusted: Callable[[], bool]) -> None:
        self._time_base = stream.time_base
        self._intra_only = stream.codec_context.codec.intra_only
        self._length_size = _nal_length_size(stream.codec_context)
        self._origin = origin
        self._looks = looks
        self._trusted = trusted
        self._ahead: deque[_Waiting] = deque()
        self._times: list[float] = []
        self._depths: dict[float, int] = {}
        self._proven_depth = 0
        self._dropping = False

    @property
    def helps(self) -> bool:
        """Whether anything can be skipped in this format: H.264 as MP4 and Matroska hold it, and key frames alone."""
        return self._intra_only or self._length_size > 0

    def plan(self, packets: Iterator[Packet | None]) -> Iterator[tuple[Packet | None, How]]:
        """All packets in order, each with what to do with it. None (the file breaks off) is passed on."""
        held = 0
        for packet in packets:
            self._ahead.append(self._read(packet))
            held += packet.size if packet else 0
            while len(self._ahead) > AHEAD_PACKETS or (held > AHEAD_BYTES and self._ahead):
                first = self._next()
                held -= first[0].size if first[0] else 0
                yield first
        while self._ahead:
            yield self._next()

    def came_out(self, time: float) -> None:
        """A frame was decoded: the decoder waits long enough for frames that are as much out of order as it."""
        self._proven_depth = max(self._proven_depth, self._depths.get(time, 0))

    def _read(self, packet: Packet | None) -> _Waiting:
        if packet is None or packet.pts is None or packet.is_corrupt or packet.is_discard or not packet.size:
            return _Waiting(packet, None, 0)
        time = float(packet.pts * self._time_base) - self._origin
        depth = len(self._times) - bisect_right(self._times, time)
        insort(self._times, time)
        self._depths[time] = depth
        if len(self._times) > KEPT_TIMES:
            for old in self._times[: KEPT_TIMES // 2]:
                self._depths.pop(old, None)
            del self._times[: KEPT_TIMES // 2]
        return _Waiting(packet, time, depth)

    def _next(self) -> tuple[Packet | None, How]:
        waiting = self._ahead[0]
        how = self._decide(waiting)
        self._ahead.popleft()
        return waiting.packet, how

    def _decide(self, first: _Waiting) -> How:
        if self._dropping:
            if not self._restarts(first):
                return How.DROP
            self._dropping = False
            return How.DECODE_AFRESH
        if not self._trusted() or not self._needless(first):
            return How.DECODE
        if self._intra_only:
            return How.DROP
        if max(waiting.depth for waiting in self._ahead) > self._proven_depth:
            return How.DECODE  # a decoder that does not expect so much reordering would lose frames
        for waiting in self._ahead:
            if waiting is not first and self._restarts(waiting):
                self._dropping = True
                return How.DROP
            if not self._needless(waiting):
                break
        return How.DECODE_IF_REFERRED_TO

    def _needless(self, waiting: _Waiting) -> bool:
        """Whether the next frame replaces it before it is looked at. The first and the last are never needless."""
        if waiting.needless or waiting.time is None:
            return waiting.needless
        place = bisect_left(self._times, waiting.time)
        if place == 0 or place + 1 >= len(self._times) or self._times[place + 1] == waiting.time:
            return False
        after = self._times[place + 1]
        waiting.needless = after - waiting.time <= GAP_S and not self._looks(waiting.time, after)
        return waiting.needless

    def _restarts(self, waiting: _Waiting) -> bool:
        """Whether nothing from this packet on refers to anything before it."""
        packet = waiting.packet
        return bool(packet and packet.is_keyframe and waiting.time is not None and _is_idr(packet, self._length_size))


def _nal_length_size(context: Any) -> int:
    """Bytes of the length before each NAL unit of H.264 as MP4 and Matroska hold it, a frame a packet; 0 otherwise."""
    extra = context.extradata
    if context.codec.canonical_name != "h264" or not extra or len(extra) < 5 or extra[0] != 1:
        return 0
    return (extra[4] & 3) + 1


def _is_idr(packet: Packet, length_size: int) -> bool:
    """Whether the packet's picture is an instantaneous decoding refresh."""
    data = bytes(packet)
    place = 0
    while place + length_size < len(data):
        kind = data[place + length_size] & 31
        if 1 <= kind <= 5:
            return kind == 5
        place += length_size + int.from_bytes(data[place : place + length_size], "big")
    return False
