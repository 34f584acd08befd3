"""The three forms of an answer: one JSON document, or a stream of segments as NDJSON or server-sent events."""

from __future__ import annotations

import json
import re
from typing import Any, Protocol

from mmx.runtime.prediction import SCHEMA_VERSION, Prediction
from mmx.serving.server.rejection import Rejection

_WEIGHT = re.compile(r"\d(\.\d{0,9})?")
JSON, NDJSON, SSE = "application/json", "application/x-ndjson", "text/event-stream"


class Form(Protocol):
    """Writes an answer. ``content_type`` is the response's; ``streams`` says whether segments go out as they come."""

    content_type: str
    streams: bool

    def segment(self, prediction: Prediction) -> bytes:
        """What is sent for one segment, now."""
        ...

    def end(self) -> bytes:
        """What is sent when the answer is whole."""
        ...

    def broken_off(self, rejection: Rejection) -> bytes:
        """What is sent when it ends before it is whole."""
        ...


class WholeJson:
    """Everything at the end, so that the status says whether it is whole."""

    content_type = JSON
    streams = False

    def __init__(self) -> None:
        self._segments: list[dict[str, Any]] = []

    def segment(self, prediction: Prediction) -> bytes:
        self._segments.append(prediction.to_dict())
        return b""

    def end(self) -> bytes:
        return _dumps({"schema_version": SCHEMA_VERSION, "segments": self._segments})

    def broken_off(self, rejection: Rejection) -> bytes:
        return b""


class Stream:
    """One event after another: ``segment``, then ``end`` or ``error``; a stream with neither was cut."""

    streams = True

    def __init__(self, content_type: str) -> None:
        self.content_type = content_type
        self._count = 0

    def segment(self, prediction: Prediction) -> bytes:
        self._count += 1
        fields = prediction.to_dict()
        return _dumps(fields) + b"\n" if self.content_type == NDJSON else _event("segment", fields)

    def end(self) -> bytes:
        return self._last("end", {"segments": self._count})

    def broken_off(self, rejection: Rejection) -> bytes:
        return self._last("error", rejection.body()["error"])

    def _last(self, kind: str, value: dict[str, Any]) -> bytes:
        return _dumps({kind: value}) + b"\n" if self.content_type == NDJSON else _event(kind, value)


def form_for(accept: str) -> Form:
    """The form that an Accept header asks for (RFC 9110, 12.5.1): of ours the one it weighs (``q``) the most; of
    several the one that it names, then the one it names first; JSON for anything, or nothing.

    Raises:
        Rejection: 406 where it takes none of them.
    """
    ranges = [_range(part) for part in accept.split(",") if part.strip()] or [("*/*", 1.0)]
    best, chosen = (0.0, False, 0), ""
    for kind in (JSON, NDJSON, SSE):
        for pattern in (kind, f"{kind.partition('/')[0]}/*", "*/*"):  # the most specific that there is counts
            if (place := next((n for n, (named, _) in enumerate(ranges) if named == pattern), None)) is not None:
                rank = (ranges[place][1], pattern == kind, -place)
                if rank[0] > 0 and (not chosen or rank > best):
                    best, chosen = rank, kind
                break
    if not chosen:
        offered = f"{JSON}, {NDJSON}, {SSE}"
        raise Rejection(406, "not_acceptable", "the Accept header takes nothing that is offered", offered)
    return WholeJson() if chosen == JSON else Stream(chosen)


def _range(part: str) -> tuple[str, float]:
    """A media range and its weight: 1 if it has none, 0 if that cannot be read."""
    kind, *parameters = (word.strip().lower() for word in part.split(";"))
    weight = next((word[2:] for word in parameters if word.startswith("q=")), "1")
    return kind, min(float(weight), 1.0) if _WEIGHT.fullmatch(weight) else 0.0


def _event(kind: str, value: dict[str, Any]) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + _dumps(value) + b"\n\n"


def _dumps(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
