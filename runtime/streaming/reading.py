"""Packets as they come -> the frames and the sound of rolling windows, in time order.

What a window holds is what ``media.reader`` gives for the same stretch of a file with the same frames. Where reading
falls behind, frames are dropped, as if they had never come: the one before them stays on screen. So lag has a bound.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.manifest import Preprocessing
from mmx.runtime.media.container import MediaInfo
from mmx.runtime.media.desk import Desk, Event, Faults, Frame, Glance, SegmentEnd, Shown, in_pieces
from mmx.runtime.media.skipping import How
from mmx.runtime.streaming.arrivals import Arrival
from mmx.runtime.streaming.clock import Clock
from mmx.runtime.streaming.windows import Rolling, RollingCuts

MAX_LAG_S = 1.0
PATIENCE_S = 0.5  # how far one track may be behind the other before it is waited for no longer
FILE_PATIENCE_S = 10.0  # in a file all of it comes
CAUGHT_UP = 0.25  # of the largest lag: what came later is looked at again
KEY_FRAMES_ONLY = 2.0  # times the largest lag: nothing is decoded until the next key frame


class VideoSide(Protocol):
    """Frames out of what comes, as ``decode.VideoTrack`` gives them."""

    hdr: bool
    end: float

    def take(self, packet: Any, how: How) -> Iterator[tuple[float, Any]]: ...
    def rgb(self, frame: Any) -> NDArray[np.uint8]: ...
    def faults(self) -> tuple[int, int, int]: ...


class AudioSide(Protocol):
    """Samples out of what comes, as ``decode.SoundTrack`` gives them."""

    sample_rate: int
    end: float

    def take(self, packet: Any) -> Iterator[tuple[int, NDArray[np.float32]]]: ...
    def flush(self) -> Iterator[tuple[int, NDArray[np.float32]]]: ...
    def faults(self) -> tuple[int, int, int]: ...


class LiveStream(Protocol):
    """An open source, see ``arrivals.Stream``."""

    info: MediaInfo
    ends: bool
    flags: set[str]
    video: Any
    audio: Any

    def arrivals(self, clock: Clock, *, paced: bool) -> Iterator[Arrival]: ...
    def close(self) -> None: ...


@dataclass
class _Side:
    """What is known of one track: its events that wait for the other, and the time up to which all is there."""

    events: deque[Event]
    known: float = 0.0
    given_up: bool = False  # it was waited for in vain


class LiveReading:
    """The frames and window ends of a stream.

    Args:
        stream: what is read. clock: see ``Clock``.
        paced: see ``Stream.arrivals``.
        max_lag: frames that came so many seconds ago and were not looked at are dropped; None: none is.

    Attributes:
        dropped: frames so far. now: seconds from the stream's start up to which everything was dealt out.
    """

    def __init__(
        self,
        stream: LiveStream,
        rolling: Rolling,
        preprocessing: Preprocessing,
        clock: Clock,
        *,
        paced: bool,
        max_lag: float | None,
    ) -> None:
        self._stream, self._clock, self._paced, self._max_lag = stream, clock, paced, max_lag
        self._video: VideoSide | None = stream.video
        self._audio: AudioSide | None = stream.audio
        self._patience = FILE_PATIENCE_S if stream.ends else PATIENCE_S
        rate = self._audio.sample_rate if self._audio else preprocessing.mel.sample_rate
        self._hop = rolling.hop
        self._always = set(stream.flags)
        self._desk = Desk(RollingCuts(rolling), preprocessing.video, rate, self._always)
        self._sides = {kind: _Side(deque()) for kind in ("video", "audio") if getattr(stream, kind) is not None}
        self._faults = Faults([track for track in (self._video, self._audio) if track is not None])
        self._shown: Shown | None = None
        self._begins = False  # whether none of it was handed out
        self._until = -math.inf  # what is on screen was handed out up to here
        self._catching_up = self._waits_for_key = False
        self._due: deque[tuple[float, float]] = deque()  # (time, when the first of that time or later came)
        self._given = 0.0  # where the last window ended
        self.dropped = 0
        self.now = 0.0

    def __iter__(self) -> Iterator[list[Frame] | SegmentEnd]:
        """Looks at one frame by all windows that look at it now, and the windows' ends."""
        for arrival in self._stream.arrivals(self._clock, paced=self._paced):
            self._note(arrival)
            if arrival.kind == "video":
                self._take_video(arrival)
            else:
                self._take_audio(arrival)
            yield from self._released()
        yield from self._ended()

    def _ended(self) -> Iterator[list[Frame] | SegmentEnd]:
        """What the stream's end lets out; of the windows that are not full, the one that has most that is new."""
        if self._audio:
            self._heard(self._audio.flush())
        if self._video:
            self._show(None, self._video.end)
        for side in self._sides.values():
            side.known = math.inf
        yield from self._released()
        self.now = max(track.end for track in (self._video, self._audio) if track is not None)
        rest = next(self._desk.close_all(self.now, truncated=False), None)
        if rest is not None and rest.span.start < self.now and self.now - self._given >= self._hop / 2:
            yield rest

    def behind(self, time: float) -> float:
        """Seconds since ``time`` was over in the stream: since the first packet of a later time came."""
        while len(self._due) > 1 and self._due[0][0] < time:
            self._due.popleft()
        return max(0.0, self._clock.now() - self._due[0][1]) if self._due else 0.0

    def _note(self, arrival: Arrival) -> None:
        if not self._due or arrival.time > self._due[-1][0]:
            self._due.append((arrival.time, arrival.at))

    def _take_video(self, arrival: Arrival) -> None:
        assert self._video is not None
        how = self._how(arrival)
        if how is How.DROP:
            self.dropped += 1
            self._show(None, arrival.time)
        for time, frame in self._video.take(arrival.packet, how):
            if self._catching_up:
                self.dropped += 1
                self._show(None, time)
            else:
                self._show(Shown(partial(self._video.rgb, frame), first=self._shown is None), time)

    def _how(self, arrival: Arrival) -> How:
        """What to do with a packet: of what is late only what the rest needs is decoded, at last nothing."""
        if self._max_lag is None or arrival.last:
            return How.DECODE
        late = self._clock.now() - arrival.at
        self._catching_up = late > (self._max_lag * CAUGHT_UP if self._catching_up else self._max_lag)
        if self._waits_for_key and arrival.key:
            self._waits_for_key = False
            return How.DECODE_AFRESH
        if self._waits_for_key or late > KEY_FRAMES_ONLY * self._max_lag:
            self._waits_for_key = True
            return How.DROP
        return How.DECODE_IF_REFERRED_TO if self._catching_up else How.DECODE

    def _show(self, shown: Shown | None, time: float) -> None:
        """A frame comes on screen (None: the one before stays), which was handed out up to ``_until``."""
        side = self._sides["video"]
        time = max(time, self._until)
        if self._shown is not None and (time > self._until or self._begins):
            side.events.extend(in_pieces(self._until, self._shown, time, self._begins))
            self._begins = False
        self._until = time
        if shown is not None:
            self._shown, self._begins = shown, True
        side.known, side.given_up = max(side.known, time), False

    def _take_audio(self, arrival: Arrival) -> None:
        assert self._audio is not None
        self._heard(self._audio.take(arrival.packet))

    def _heard(self, pieces: Iterator[tuple[int, NDArray[np.float32]]]) -> None:
        assert self._audio is not None
        side, rate = self._sides["audio"], self._audio.sample_rate
        for index, sound in pieces:
            end = (index + len(sound)) / rate
            side.events.append(Event(index / rate, end, sound=sound, index=index))
            side.known, side.given_up = max(side.known, end), False

    def _released(self) -> Iterator[list[Frame] | SegmentEnd]:
        """What no other track can precede any more, in order of time: looks, and the windows that are over by then.

        A window comes before the looks at its end, which are not its own: it need not wait for their faces.
        """
        limit = self._limit()
        looks: list[list[Frame]] = []
        ends: list[SegmentEnd] = []
        while (event := self._next(limit)) is not None:
            ends += self._desk.close_until(event.time)
            looks += _together(self._desk.take(event), ends)
            self.now = max(self.now, event.end if math.isinf(limit) else min(event.end, limit))
            self._desk.flag(*self._faults.new())
            if self._video and self._video.hdr:
                self._always.add("hdr_video")
        if math.isfinite(limit):
            self.now = max(self.now, limit)
        ends += self._desk.close_until(self.now)
        for end in ends:
            while looks and looks[0][0].time < end.span.end:
                yield looks.pop(0)
            self._given = end.span.end
            yield end
        yield from looks

    def _limit(self) -> float:
        """The time up to which every track is known, but those that were waited for in vain."""
        newest = max(side.known for side in self._sides.values())
        for kind, side in self._sides.items():
            if side.known < newest - self._patience:
                side.given_up = True
            if side.given_up and kind == "video" and math.isfinite(newest):
                self._show(None, newest)  # what is on screen stays there
                side.given_up = True
        return min((side.known for side in self._sides.values() if not side.given_up), default=newest)

    def _next(self, limit: float) -> Event | None:
        """The first event that begins before ``limit``, of either track."""
        sides = [side for side in self._sides.values() if side.events]
        first = min(sides, key=lambda side: side.events[0].time, default=None)
        return first.events.popleft() if first and first.events[0].time < limit else None


def _together(events: Iterator[Frame | Glance | SegmentEnd], ends: list[SegmentEnd]) -> list[list[Frame]]:
    """The looks at a frame, those at the same time together; ends of windows go to ``ends``."""
    looks: list[list[Frame]] = []
    for event in events:
        if isinstance(event, SegmentEnd):
            ends.append(event)
        elif isinstance(event, Frame):
            if looks and looks[-1][0].time == event.time:
                looks[-1].append(event)
            else:
                looks.append([event])
    return looks
