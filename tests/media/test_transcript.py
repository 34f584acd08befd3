"""Transcript files: what is kept, what is cleaned away, and one clear line for each file that cannot be trusted."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from mmx.runtime.errors import BadDataError
from mmx.runtime.media.transcript import MAX_BYTES, read_transcript
from mmx.runtime.types import Span

SRT = """1
00:00:01,000 --> 00:00:02,500
<i>Hello</i> {\\an8}there,
you &amp; <font color="#ff0000">me</font>

2
00:00:03,250 --> 00:00:04,000
It is 3 < 4 and I <3 it.

and this line stayed

3
01:00:00,000 --> 01:00:01,5
- Late.
"""
SRT_CUES = [
    Span(1.0, 2.5, "Hello there, you & me"),
    Span(3.25, 4.0, "It is 3 < 4 and I <3 it. and this line stayed"),
    Span(3600.0, 3601.5, "- Late."),
]
VTT = """WEBVTT - a title
Kind: captions

NOTE two lines
that nobody says

STYLE
::cue { color: red }

intro
00:01.000 --> 00:02.000 align:start position:0%
<v Roger Bingham>We are <c.yellow.big>in</c> <00:01.500>New York

00:00:00.500 --> 00:00:01.250
Earlier
but written later
12
"""
VTT_CUES = [Span(0.5, 1.25, "Earlier but written later 12"), Span(1.0, 2.0, "We are in New York")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(("name", "text", "cues"), [("a.srt", SRT, SRT_CUES), ("a.VTT", VTT, VTT_CUES)])
def test_cues(tmp_path: Path, name: str, text: str, cues: list[Span], line_end: str, encoding: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.replace("\n", line_end).encode(encoding))
    assert read_transcript(path) == cues


def test_cues_without_blank_lines_or_words(tmp_path: Path) -> None:
    path = tmp_path / "tight.srt"
    path.write_text(
        "1\n00:00:01,000 --> 00:00:02,000\none\n2\n00:00:01,500 --> 00:00:03,000\ntwo\n"
        "3\n00:00:04,000 --> 00:00:05,000\n<i> </i>\n4\n00:00:06,000 --> 00:00:06,000\nno time\n"
        "5\n-00:00:01,000 --> 00:00:00,750\nbegins before the file\n6\n-00:00:02,000 --> -00:00:01,000\nover by then\n"
    )
    assert read_transcript(path) == [
        Span(0.0, 0.75, "begins before the file"),
        Span(1.0, 2.0, "one"),
        Span(1.5, 3.0, "two"),
    ]


def test_plain_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for data, text in ((b"", ""), (b"\xef\xbb\xbf hi there\r\n", "hi there"), (b"caf\xe9 \x96 ok", "café – ok")):
        path.write_bytes(data)
        assert read_transcript(path) == text


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.srt", b"", "holds no cue"),
        ("a.vtt", b"WEBVTT\n\nNOTE nothing\n", "holds no cue"),
        ("a.srt", b"just words\n", "holds no cue"),
        ("a.srt", b"1\n00:00:09,000 --> 00:00:08,000\nx\n", "line 2: the cue ends at 8 s, before it starts at 9 s"),
        ("a.srt", b"1\n00:00:nan --> 00:00:08,000\nx\n", "line 2: .* no times"),
        ("a.vtt", b"WEBVTT\n\n00:00:61.000 --> 00:01:08.000\nx\n", "line 3: .* no times"),
        ("a.srt", b"1\n" + b"9" * 5000 + b":00:00,000 --> 00:00:08,000\nx\n", "line 2: .* no times"),
        ("a.srt", b"1\n00:00:01,000 -->\nx\n", "line 2: .* no times"),
        ("a.srt", b"MZ\x00\x01\x02", "is not text"),
        ("a.srt", b" " * (MAX_BYTES + 1), "bytes"),
        ("a.json", b"{}", "no transcript that mmx reads"),
    ],
)
def test_rejected(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(BadDataError, match=message) as caught:
        read_transcript(path)
    assert str(path) in caught.value.message and caught.value.hint and "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    (tmp_path / "folder.srt").mkdir()
    for name in ("none.srt", "folder.srt"):
        with pytest.raises(BadDataError, match=rf"{name} cannot be read"):
            read_transcript(tmp_path / name)


def test_hostile_lines_take_no_time(tmp_path: Path) -> None:
    path = tmp_path / "a.srt"
    for line in (" " * 10**6, "<a" * 500_000, "1" * 10**6, "{\\" * 500_000, "-" * 10**6):
        path.write_text(f"1\n00:00:01,000 --> 00:00:02,000\nwords\n{line}\n")
        cues = read_transcript(path)
        assert isinstance(cues, list) and len(cues) == 1


WORDS = ("we", "they", "said", "3.5", "it's", "naïve", "—", "über", "ok!", "10:30", "no.", "yes,", "zu", "spät")


def _cue_texts(rng: np.random.Generator) -> list[tuple[float, float, list[str]]]:
    """Cues as people write them: one to three lines, gaps, overlaps, milliseconds."""
    cues, start = [], 0.0
    for _ in range(int(rng.integers(1, 25))):
        start = round(start + float(rng.uniform(0, 4)), 3)
        end = round(start + float(rng.uniform(0.2, 5)), 3)
        cues.append((start, end, [" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(rng.integers(1, 4))]))
    return cues


def _stamp(seconds: float, comma: str, hours: bool) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    clock = f"{minutes % 60:02d}:{rest // 1000:02d}{comma}{rest % 1000:03d}"
    return f"{minutes // 60:02d}:{clock}" if hours or minutes >= 60 else clock


@pytest.mark.parametrize("seed", range(50))
def test_srt_as_pysubs2_reads_it(tmp_path: Path, seed: int) -> None:
    pysubs2 = pytest.importorskip("pysubs2")
    rng = np.random.default_rng(seed)
    blocks = []
    for number, (start, end, lines) in enumerate(_cue_texts(rng), 1):
        lines = [f"<i>{line}</i>" if rng.random() < 0.2 else line for line in lines]
        times = f"{_stamp(start, ',', True)} --> {_stamp(end, ',', True)}"
        blocks.append("\n".join([str(number), times, *lines]))
    path = tmp_path / "a.srt"
    path.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
    cues = [(e.start / 1000, e.end / 1000, " ".join(e.plaintext.split())) for e in pysubs2.load(str(path))]
    _same(read_transcript(path), cues)


@pytest.mark.parametrize("seed", range(50))
def test_vtt_as_webvtt_py_reads_it(tmp_path: Path, seed: int) -> None:
    webvtt = pytest.importorskip("webvtt")
    rng = np.random.default_rng(1000 + seed)
    blocks = ["WEBVTT" + " - a title" * bool(rng.random() < 0.3)]
    for number, (start, end, lines) in enumerate(_cue_texts(rng), 1):
        if rng.random() < 0.1:
            blocks.append("NOTE\nnobody says this\n00:00 neither")
        lines = [f"<v Ann>{line}</v>" if rng.random() < 0.2 else line for line in lines]
        times = f"{_stamp(start, '.', rng.random() < 0.5)} --> {_stamp(end, '.', rng.random() < 0.5)}"
        settings = " align:start position:0%" * bool(rng.random() < 0.3)
        name = [f"cue {number}"] * bool(rng.random() < 0.5)
        blocks.append("\n".join([*name, times + settings, *([" "] if rng.random() < 0.3 else []), *lines]))
    path = tmp_path / "a.vtt"
    path.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
    cues = [(_seconds(c.start), _seconds(c.end), " ".join(c.text.split())) for c in webvtt.read(str(path))]
    _same(read_transcript(path), cues)


def _seconds(stamp: str) -> float:
    return sum(float(part) * 60**i for i, part in enumerate(reversed(stamp.split(":"))))


def _same(mine: str | list[Span], cues: list[tuple[float, float, str]]) -> None:
    assert isinstance(mine, list)
    expected = sorted((round(start, 3), round(end, 3), text) for start, end, text in cues)
    assert sorted((round(span.start, 3), round(span.end, 3), span.text) for span in mine) == expected


YOUTUBE = """WEBVTT
Kind: captions
Language: en

00:00:00.160 --> 00:00:02.389 align:start position:0%
~
good<00:00:00.480><c> morning</c><00:00:00.800><c> everyone</c>

00:00:02.389 --> 00:00:02.399 align:start position:0%
good morning everyone
~

00:00:02.399 --> 00:00:05.190 align:start position:0%
good morning everyone
thank<00:00:02.720><c> you</c><00:00:03.040><c> for</c><00:00:03.280><c> coming</c>

00:00:05.190 --> 00:00:05.200 align:start position:0%
thank you for coming
~

00:00:05.200 --> 00:00:07.000 align:start position:0%
thank you for coming
no<00:00:06.000><c> no</c>
""".replace("~", " ")


def test_rolling_captions_give_each_line_once(tmp_path: Path) -> None:
    path = tmp_path / "youtube.vtt"
    path.write_text(YOUTUBE)
    expected = [
        Span(0.16, 2.399, "good morning everyone"),
        Span(2.399, 5.2, "thank you for coming"),
        Span(5.2, 7.0, "no no"),
    ]
    assert read_transcript(path) == expected
    plain = tmp_path / "youtube.srt"  # as converters make it, without the times of words
    cues = YOUTUBE.split("\n\n")[1:]
    lines = [f"{n}\n{re.sub('<[^>]*>|align.*', '', cue)}" for n, cue in enumerate(cues, 1)]
    plain.write_text("\n\n".join(lines))
    assert read_transcript(plain) == expected


def test_what_is_said_twice_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.srt"
    path.write_text("1\n00:00:01,000 --> 00:00:02,000\nNo.\n\n2\n00:00:02,000 --> 00:00:03,000\nNo.\n")
    assert read_transcript(path) == [Span(1, 2, "No."), Span(2, 3, "No.")]


@pytest.mark.parametrize(
    "timing",
    [
        "00:00:03,000 -> 00:00:04,500",
        "00:00:03,000 ---> 00:00:04,500",
        "00:00:03,000 –> 00:00:04,500",
        "00:00:03,000 – 00:00:04,500",
        "00:00:03,000 → 00:00:04,500",
        "00:00:03 — 00:00:04.5",
        "00:00:03,000 - 00:00:04,500",
        "00:00:03,000 00:00:04,500",
        "00 : 00 : 03,000 --> 00:00:04, 500",
        "00:00:03 ,000 --> 00:00:04,500",
        "00:00:03:000 --> 00:00:04:500",
        "00:00:03.000-->00:00:04.500",
        "0:3 => 0:4.5",
    ],
)
@pytest.mark.parametrize("gap", ["\n\n2\n", "\n\n", "\n2\n"])
@pytest.mark.parametrize("suffix", [".srt", ".vtt", ".txt"])
def test_mistyped_timing_lines(tmp_path: Path, timing: str, gap: str, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    first = "WEBVTT\n\n" * (suffix == ".vtt")
    path.write_text(f"{first}1\n00:00:01,000 --> 00:00:02,000\none{gap}{timing}\ntwo\n", encoding="utf-8")
    assert read_transcript(path) == [Span(1, 2, "one"), Span(3, 4.5, "two")]


@pytest.mark.parametrize("timing", ["00:0O:03,000 -> 00:00:04,500", "00:00:03,000 --> soon", "00:61:00 -> 00:62:00"])
def test_timing_lines_that_cannot_be_read_are_named(tmp_path: Path, timing: str) -> None:
    path = tmp_path / "a.srt"
    path.write_text(f"1\n00:00:01,000 --> 00:00:02,000\none\n\n2\n{timing}\ntwo\n")
    with pytest.raises(BadDataError, match=r"line 6: .* no times"):
        read_transcript(path)


def test_times_that_are_spoken_stay_words(tmp_path: Path) -> None:
    path = tmp_path / "a.srt"
    path.write_text("1\n00:00:01,000 --> 00:00:02,000\nfrom\n10:30 - 11:45\nor 9:00\n\n12:15 - the bus comes\n")
    assert read_transcript(path) == [Span(1, 2, "from 10:30 - 11:45 or 9:00 12:15 - the bus comes")]


def test_timed_text_in_a_txt(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("[00:00:00.000 --> 00:00:04.000]  and so\n[00:00:04.000 --> 00:00:05.500]  it goes\n")
    assert read_transcript(path) == [Span(0, 4, "and so"), Span(4, 5.5, "it goes")]
    path.write_text(SRT)
    assert read_transcript(path) == SRT_CUES
    path.write_text("The train leaves at 10:30, not at 11:00.")
    assert read_transcript(path) == "The train leaves at 10:30, not at 11:00."
    path.write_text("[00:01] hello\n[00:03] there\n[00:09] you\n")
    with pytest.raises(BadDataError, match="has times in it"):
        read_transcript(path)
