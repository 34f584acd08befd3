"""Transcript files: what is kept, what is cleaned away, and one clear line for each file that cannot be trusted."""

from __future__ import annotations

from pathlib import Path

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
def test_refused(tmp_path: Path, name: str, data: bytes, message: str) -> None:
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
