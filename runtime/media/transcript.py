"""Transcript files: .txt -> the words, .srt and .vtt -> the words with their times.

A parser of our own rather than a subtitle library: those are made to be lenient (a minus sign is dropped, a malformed
cue becomes part of the words of the one before), and words at the wrong time make wrong predictions without a trace.
"""

from __future__ import annotations

import codecs
import html
import re
from dataclasses import dataclass, field
from pathlib import Path

from mmx.runtime.errors import BadDataError
from mmx.runtime.types import Span

MAX_BYTES = 10 * 2**20
TIME = r"(?P<{0}sign>-?)(?:(?P<{0}h>\d{{1,5}}):)?(?P<{0}m>[0-5]?\d):(?P<{0}s>[0-5]?\d)(?:[.,](?P<{0}f>\d{{1,9}}))?"
TIMING = re.compile(rf"{TIME.format('a')}\s*-->\s*{TIME.format('b')}(?:\s.*)?")
MEANT_AS_TIMING = re.compile(r"(-?\d\S*)?\s*-->")
MARKUP = re.compile(r"</?[a-zA-Z][^<>]*>|<[\d:.]+>|\{\\[^{}]*\}")  # <i>, <v Ann>, <c.red>, <00:01.500>, {\an8}
NOT_SPOKEN = re.compile(r"(WEBVTT|NOTE|STYLE|REGION)(\s|$)")


def read_transcript(path: str | Path) -> str | list[Span]:
    """Read a transcript; its suffix says which kind it is.

    The text may be UTF-8, UTF-16 (with a byte order mark) or else Windows-1252, with any line ends. Of timed cues the
    markup goes and the lines are joined; they come sorted by start, may overlap, and may lie beyond the end of the
    media (the reader says so). A start before 0 becomes 0; a cue that ends by then, lasts no time or has no words is
    left out.

    Returns:
        .txt: the text (empty for an empty file). .srt, .vtt: the cues.

    Raises:
        BadDataError: no such file, another suffix, larger than 10 MB, not text; and for timed cues, a time that cannot
            be read, a cue that ends before it starts, no cue at all.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in (".txt", ".srt", ".vtt"):
        raise BadDataError(f"{path} is no transcript that mmx reads", "give a .txt, .srt or .vtt file")
    text = _decoded(path)
    if kind == ".txt":
        return text.strip()
    cues = _cues(text, path, stray_lines_are_words=kind == ".srt")
    if not cues:
        raise BadDataError(f"{path} holds no cue (start --> end, and words)", "words without times go in a .txt file")
    return sorted(cues, key=lambda cue: (cue.start, cue.end))


@dataclass
class _Cue:
    """A cue whose words are still being read."""

    start: float
    end: float
    lines: list[str] = field(default_factory=list)

    def span(self) -> Span | None:
        """The finished cue; None if it lasts no time or has no words."""
        words = html.unescape(MARKUP.sub("", "\n".join(self.lines)))
        text = " ".join(words.split())
        start = max(self.start, 0.0)
        return Span(start, self.end, text) if text and start < self.end else None


def _cues(text: str, path: Path, *, stray_lines_are_words: bool) -> list[Span]:
    """Parse the cues. A stray line, after a blank one, belongs to the cue above in .srt, and is skipped in .vtt."""
    lines = [line.strip() for line in text.splitlines()]
    cues: list[_Cue] = []
    in_words = in_note = False
    for index, line in enumerate(lines):
        following = lines[index + 1] if index + 1 < len(lines) else ""
        if MEANT_AS_TIMING.match(line):
            cues.append(_Cue(*_times(line, f"{path}, line {index + 1}")))
            in_words, in_note = True, False
        elif not line:
            in_words = in_note = False
        elif MEANT_AS_TIMING.match(following) and (line.isdigit() or not in_words):
            in_words = False  # the number or name of the next cue
        elif in_words:
            cues[-1].lines.append(line)
        elif in_note or NOT_SPOKEN.match(line):
            in_note = True
        elif cues and stray_lines_are_words:
            cues[-1].lines.append(line)
            in_words = True
    return [span for span in (cue.span() for cue in cues) if span]


def _times(line: str, where: str) -> tuple[float, float]:
    """Start and end in seconds."""
    found = TIMING.fullmatch(line)
    if not found:
        raise BadDataError(f"{where}: {line[:60]!r} has no times that can be read", "00:01:02.500 --> 00:01:04")
    start, end = _seconds(found, "a"), _seconds(found, "b")
    if end < start:
        raise BadDataError(f"{where}: the cue ends at {end:g} s, before it starts at {start:g} s", "mend its times")
    return start, end


def _seconds(found: re.Match[str], which: str) -> float:
    hours, minutes, seconds = (int(found[which + unit] or 0) for unit in "hms")
    value = hours * 3600 + minutes * 60 + seconds + float(f"0.{found[which + 'f'] or 0}")
    return -value if found[which + "sign"] else value


def _decoded(path: Path) -> str:
    """The file's text, without byte order mark."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise BadDataError(f"{path} has {size} bytes", f"mmx reads transcripts of up to {MAX_BYTES >> 20} MB")
        data = path.read_bytes()
    except OSError as e:
        raise BadDataError(f"{path} cannot be read: {e.strerror}", "check the path") from e
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if not wide and b"\0" in data:
        raise BadDataError(f"{path} is not text", "save the transcript as UTF-8 text")
    if wide:
        return data.decode("utf-16", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")
