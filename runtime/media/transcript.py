"""Transcript files: .txt -> the words, .srt and .vtt -> the words with their times.

A parser of our own, after trying pysubs2 1.8 and webvtt-py 0.6 on mistyped files: both are made to be lenient. A timing
line that pysubs2 cannot read becomes words of the cue before, webvtt-py leaves the cue out, and neither says so; words
at the wrong time make wrong predictions without a trace. On well-formed files all three agree, which the tests hold.
"""

from __future__ import annotations

import codecs
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmx.runtime.errors import BadDataError, MissingPath
from mmx.runtime.types import Span

Transcript = str | Path | Sequence[Span]  # a file, or its spans
MAX_BYTES = 10 * 2**20
TIME = (
    r"(?P<{0}sign>-?)(?:(?P<{0}h>\d{{1,5}}) ?: ?)?(?P<{0}m>[0-5]?\d) ?: ?(?P<{0}s>[0-5]?\d)"
    r"(?: ?[.,;] ?(?P<{0}f>\d{{1,9}})|:(?P<{0}colon_f>\d{{3}}))?(?!\d)"
)
ARROW = r"(?P<arrow>[-\u2010-\u2015\u2212=~]{0,4} ?[>\u2192\u21d2\u00bb]|[-\u2010-\u2015\u2212~]{1,3}|)"
TIMING = re.compile(rf"\[?{TIME.format('a')}\s*{ARROW}\s*{TIME.format('b')}(?:\](?P<words>.*)|\s.*)?")
MEANT_AS_TIMING = re.compile(r"(-?\d\S*)?\s*-->")
STARTS_WITH_TIME = re.compile(r"[\[(]?-?\d{1,5}\s?:\s?\d{1,2}\b")
LOOKS_LIKE_TIMING = re.compile(
    r"[\[(]?-?\d{1,5}\s?:\s?\d{1,2}\S*\s*[-=~>\u2010-\u2015\u2212\u2192\u21d2\u00bb]+\s*\d\S*(?:\s+[\w-]+:\S+)*"
)
INLINE_TIME = re.compile(r"<\d[\d:.]*>")
MARKUP = re.compile(r"</?[a-zA-Z][^<>]*>|<[\d:.]+>|\{\\[^{}]*\}")  # <i>, <v Ann>, <c.red>, <00:01.500>, {\an8}
NOT_SPOKEN = re.compile(r"(WEBVTT|NOTE|STYLE|REGION)(\s|$)")
FLASH_S = 0.05  # a cue this short that only repeats the one before is how rolling captions scroll
EXAMPLE = "00:01:02.500 --> 00:01:04"


def read_transcript(path: str | Path) -> str | list[Span]:
    """Read a transcript; its suffix says which kind it is.

    The text may be UTF-8, UTF-16 (with a byte order mark) or else Windows-1252, with any line ends. Of timed cues the
    markup goes and the lines are joined; they come sorted by start, may overlap, and may lie beyond the end of the
    media (the reader says so). A start before 0 becomes 0; a cue that ends by then, lasts no time or has no words is
    left out. Rolling captions, in which each cue repeats the last line of the one before, give each line once. Timing
    lines are also read with another arrow or dash, with spaces in the times, or in brackets before the words.

    Returns:
        .txt: the text (empty for an empty file), or the cues if there are timing lines in it. .srt, .vtt: the cues.

    Raises:
        MissingPath: no such file.
        BadDataError: another suffix, larger than 10 MB, not text; and for timed cues, a time that cannot be read, a cue
            that ends before it starts, no cue at all; a .txt whose lines begin with times.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in (".txt", ".srt", ".vtt"):
        raise BadDataError(f"{path} is no transcript that mmx reads", "give a .txt, .srt or .vtt file")
    text = _decoded(path)
    if kind == ".txt":
        if not any(_is_timing(line.strip(), begins_block=False) for line in text.splitlines()):
            _check_untimed(text, path)
            return text.strip()
        kind = ".vtt" if text.startswith("WEBVTT") else ".srt"
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

    def words(self) -> list[str]:
        """Its lines without markup; those without words are left out."""
        text = html.unescape(MARKUP.sub("", "\n".join(self.lines)))
        return [line for line in (" ".join(line.split()) for line in text.splitlines()) if line]


def _cues(text: str, path: Path, *, stray_lines_are_words: bool) -> list[Span]:
    """Parse the cues. A stray line, after a blank one, belongs to the cue above in .srt, and is skipped in .vtt.

    A line of spaces is no blank line in .vtt: YouTube's captions begin with one.
    """
    raw = text.splitlines()
    lines = [line.strip() for line in raw]
    cues: list[_Cue] = []
    in_words = in_note = False
    begins_block = True
    for index, line in enumerate(lines):
        following = lines[index + 1] if index + 1 < len(lines) else ""
        numbers_cue = line.isdigit() or not in_words
        if _is_timing(line, begins_block):
            cue, words = _times(line, f"{path}, line {index + 1}")
            cues.append(cue)
            cue.lines += [words] * bool(words)
            in_words, in_note = True, False
        elif not raw[index] or (not line and stray_lines_are_words):
            in_words = in_note = False
        elif numbers_cue and _is_timing(following, begins_block=True):
            in_words = False
        elif in_words:
            cues[-1].lines.append(line)
        elif in_note or NOT_SPOKEN.match(line):
            in_note = True
        elif cues and stray_lines_are_words:
            cues[-1].lines.append(line)
            in_words = True
        begins_block = not line or (numbers_cue and not in_words)
    return _spans(cues, rolling=bool(INLINE_TIME.search(text)))


def _spans(cues: list[_Cue], *, rolling: bool) -> list[Span]:
    """The finished cues, without those that last no time or have no words.

    ``rolling``: whether lines may repeat those of the cue before; a flash that does shows that they do, too.
    """
    words = [cue.words() for cue in cues]
    flashes = (
        cue.end - cue.start <= FLASH_S and said and said == before[-len(said) :]
        for cue, said, before in zip(cues[1:], words[1:], words, strict=False)
    )
    rolling = rolling or any(flashes)
    spans: list[Span] = []
    before: list[str] = []
    ended = -1.0
    for cue, said in zip(cues, words, strict=True):
        start = max(cue.start, 0.0)
        repeated = 0
        if rolling and abs(start - ended) <= FLASH_S:
            repeated = max((n for n in range(1, len(said) + 1) if said[:n] == before[-n:]), default=0)
        new = " ".join(said[repeated:])
        if new and start < cue.end:
            spans.append(Span(start, cue.end, new))
        elif repeated and spans:
            spans[-1] = replace(spans[-1], end=max(spans[-1].end, cue.end))
        before, ended = said, cue.end
    return spans


def _is_timing(line: str, begins_block: bool) -> bool:
    """Whether a line gives the times of a cue, or was meant to."""
    if MEANT_AS_TIMING.match(line):
        return True
    found = TIMING.fullmatch(line)
    if found and (">" in found["arrow"] or "\u2192" in found["arrow"] or "\u21d2" in found["arrow"]):
        return True
    if found and all(found[which + "f"] or found[which + "colon_f"] for which in "ab"):
        return True  # no one says thousandths of a second
    return begins_block and len(line) < 200 and bool(LOOKS_LIKE_TIMING.fullmatch(line))


def _times(line: str, where: str) -> tuple[_Cue, str]:
    """The cue that a timing line begins, and the words that stand in the same line."""
    found = TIMING.fullmatch(line)
    if not found:
        raise BadDataError(f"{where}: {line[:60]!r} has no times that can be read", EXAMPLE)
    start, end = _seconds(found, "a"), _seconds(found, "b")
    if end < start:
        raise BadDataError(f"{where}: the cue ends at {end:g} s, before it starts at {start:g} s", "mend its times")
    return _Cue(start, end), (found["words"] or "").strip()


def _seconds(found: re.Match[str], which: str) -> float:
    hours, minutes, seconds = (int(found[which + unit] or 0) for unit in "hms")
    fraction = found[which + "f"] or found[which + "colon_f"] or 0
    value = hours * 3600 + minutes * 60 + seconds + float(f"0.{fraction}")
    return -value if found[which + "sign"] else value


def _check_untimed(text: str, path: Path) -> None:
    """Reject plain text in which most lines begin with a time, which would be read as words."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    timed = [line for line in lines if STARTS_WITH_TIME.match(line)]
    if len(timed) >= 3 and 2 * len(timed) > len(lines):
        raise BadDataError(
            f"{path} has times in it ({timed[0][:30]!r}) and no timing lines", f"remove them, or write cues: {EXAMPLE}"
        )


def _decoded(path: Path) -> str:
    """The file's text, without byte order mark."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise BadDataError(f"{path} has {size} bytes", f"mmx reads transcripts of up to {MAX_BYTES >> 20} MB")
        data = path.read_bytes()
    except OSError as e:
        kind = MissingPath if isinstance(e, FileNotFoundError) else BadDataError
        raise kind(f"{path} cannot be read: {e.strerror}", "check the path") from e
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if not wide and b"\0" in data:
        raise BadDataError(f"{path} is not text", "save the transcript as UTF-8 text")
    if wide:
        return data.decode("utf-16", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")
