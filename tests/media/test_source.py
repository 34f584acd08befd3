"""Media from a path, bytes and file objects are the same media."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mmx.runtime.errors import BadDataError
from mmx.runtime.manifest import Preprocessing
from mmx.runtime.media import packets
from mmx.runtime.media.container import probe
from mmx.runtime.media.reader import Frame, read_segments
from mmx.runtime.media.source import MediaInput


class _Pipe(io.RawIOBase):
    """A file object that can only be read on, as a socket or a pipe."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        return self._data.readinto(buffer)


def _read(media: MediaInput) -> list[tuple]:
    events = read_segments(media, None, Preprocessing(), threads=1)
    return [(e.time, e.rgb.tobytes()) if isinstance(e, Frame) else (e.span, e.sound.tobytes(), e.flags) for e in events]


@pytest.mark.parametrize("kind", ["bytes", "BytesIO", "file", "pipe"])
@pytest.mark.parametrize("apart", [False, True])
def test_the_same_answer_as_from_a_path(
    talking_face: tuple[Path, str], kind: str, apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``apart``: each track goes on through a demuxer of its own, two of them on one file object."""
    path, _ = talking_face
    expected = _read(path)
    if apart:
        monkeypatch.setattr(packets, "WAITING_BYTES", 1000)
    data = path.read_bytes()
    with path.open("rb") as file:
        media = {"bytes": data, "BytesIO": io.BytesIO(data), "file": file, "pipe": _Pipe(data)}[kind]
        assert _read(media) == expected
        if kind != "pipe":
            assert not getattr(media, "closed", False) and _read(media) == expected


def test_what_is_wrong_with_them(make_media: Callable[..., Path], tmp_path: Path) -> None:
    for media, message in (
        (b"", "<bytes> is empty"),
        (io.BytesIO(b"just words, " * 99), "<BytesIO> cannot be read as media: it is text"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n/etc/passwd\n", "<bytes> cannot be read as media"),
    ):
        with pytest.raises(BadDataError, match=message):
            probe(media)
    path = make_media(tmp_path / "a.wav", sound={"samples": np.zeros((1, 8000), np.int16), "rate": 8000})
    with path.open("rb") as file:
        assert probe(file).name == str(path) and probe(file).duration == 1.0
