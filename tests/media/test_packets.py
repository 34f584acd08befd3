"""One pass over a file gives each track the packets that it gets alone, whichever is asked first, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import repeat, zip_longest
from pathlib import Path

import av
import pytest

from mmx.runtime.media import packets
from mmx.runtime.media.packets import MediaFile

Taken = list[tuple[int | None, bytes]]


@pytest.fixture(scope="module")
def media(repeat_media: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return repeat_media(tmp_path_factory.mktemp("packets") / "clip.mkv", seconds=20, interleaved=True)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every file that is opened."""
    paths: list[Path] = []
    plain = packets.open_media
    monkeypatch.setattr(packets, "open_media", lambda path: (paths.append(Path(path.name)), plain(path))[1])
    return paths


def alone(path: Path, kind: str) -> Taken:
    """What PyAV gives for one stream, with nothing of mmx; the damaged file's end is no error here."""
    with av.open(str(path)) as container:
        found: Taken = []
        with suppress(av.error.FFmpegError):
            found.extend((packet.pts, bytes(packet)) for packet in container.demux(**{kind: 0}))
        return found


def together(path: Path, order: Callable[[Iterator, Iterator], Iterator]) -> tuple[Taken, Taken]:
    """Picture and sound, read in the order that ``order`` asks the two iterators in."""
    with MediaFile(path) as file:
        streams = [file.container.streams.video[0], file.container.streams.audio[0]]
        for stream in streams:
            file.add(stream)
        taken: tuple[Taken, Taken] = ([], [])
        labelled = [zip(repeat(n), file.packets(stream)) for n, stream in enumerate(streams)]
        for n, packet in order(*labelled):
            if packet is not None:
                taken[n].append((packet.pts, bytes(packet)))
    return taken


def by_turns(picture: Iterator, sound: Iterator) -> Iterator:
    return (each for pair in zip_longest(picture, sound) for each in pair if each is not None)


def sound_first(picture: Iterator, sound: Iterator) -> Iterator:
    yield from sound
    yield from picture


@pytest.mark.parametrize("order", [by_turns, sound_first])
def test_each_track_gets_what_it_gets_alone_from_a_file_opened_once(
    media: Path, opened: list[Path], order: Callable[[Iterator, Iterator], Iterator]
) -> None:
    assert together(media, order) == (alone(media, "video"), alone(media, "audio"))
    assert opened == [media]


def test_beyond_what_may_wait_each_track_goes_on_alone(
    media: Path, opened: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packets, "WAITING_BYTES", 100_000)
    assert together(media, sound_first) == (alone(media, "video"), alone(media, "audio"))
    assert opened == [media] * 3


def test_a_file_that_breaks_off_gives_each_track_all_that_it_has(media: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(media.read_bytes()[: media.stat().st_size * 2 // 3])
    assert together(cut, by_turns) == (alone(cut, "video"), alone(cut, "audio"))
