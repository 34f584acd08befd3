"""A worker's input: one file, how to read it, and the limits for it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmx.runtime.errors import BadDataError, ConnectionLost, EnvironmentMissing, MissingPath, MmxError, UsageError
from mmx.runtime.media.transcript import Transcript
from mmx.runtime.types import DEFAULT_TRACKS, Tracks

_KINDS = {kind.__name__: kind for kind in (UsageError, EnvironmentMissing, BadDataError, MissingPath, ConnectionLost)}


@dataclass(frozen=True)
class Task:
    """One media file, what is said in it, and how it is cut (see ``Preprocessor.segments``).

    ``tracks``: which video and audio track is read. ``name``: what predictions and messages call the file; its path if
    not given. ``transcript_name``: the same for a transcript that is a file. ``people``: whose faces.
    """

    path: str | Path
    text: str | None = None
    transcript: Transcript | None = None
    window: float | None = None
    tracks: Tracks = DEFAULT_TRACKS
    name: str | None = None
    transcript_name: str | None = None
    people: str = "largest"

    @property
    def shown(self) -> str:
        """The name of the file in predictions and messages."""
        return str(self.path) if self.name is None else self.name

    def to_plain(self) -> dict[str, Any]:
        """The task as JSON has it, for another process; paths become absolute."""
        transcript: Any = self.transcript
        named: dict[str, str] = {str(Path(self.path).absolute()): self.shown}
        if isinstance(transcript, (str, Path)):
            path = str(Path(transcript).absolute())
            named[path] = self.transcript_name or str(transcript)
            transcript = path
        elif transcript is not None:
            transcript = [[span.start, span.end, span.text] for span in transcript]
        return {
            "path": str(Path(self.path).absolute()),
            "text": self.text,
            "transcript": transcript,
            "window": self.window,
            "tracks": [self.tracks.video, self.tracks.audio],
            "people": self.people,
            "names": named,
        }


@dataclass(frozen=True)
class Limits:
    """Limits for one file.

    Attributes:
        memory: bytes of address space of a worker. seconds: for one file.
        stall_s: between two segments. media_s: length of the media. pixels: width x height of a frame.
    """

    memory: int = 3 * 2**30
    seconds: float = 3600.0
    stall_s: float = 600.0
    media_s: float | None = None
    pixels: int = 36_000_000

    def to_plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


class Rejected(BadDataError):
    """A file that exceeds a limit, or crashes the decoder. ``code``: the reason in one word.

    Codes: too_long, too_many_pixels, too_slow, too_much_memory, decoder_crashed.
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.code = code


def error_to_plain(error: MmxError) -> dict[str, Any]:
    """An error as JSON has it."""
    code = error.code if isinstance(error, Rejected) else ""
    kind = next((each.__name__ for each in type(error).__mro__ if each.__name__ in _KINDS), "")
    return {"class": kind, "code": code, "message": error.message, "hint": error.hint, "exit_code": error.exit_code}


def error_of(plain: dict[str, Any]) -> MmxError:
    """The error that ``error_to_plain`` wrote, of the same class."""
    message, hint, kind = (str(plain.get(name, "")) for name in ("message", "hint", "class"))
    if code := str(plain.get("code", "")):
        return Rejected(code, message, hint)
    return _KINDS.get(kind, MmxError)(message, hint)
