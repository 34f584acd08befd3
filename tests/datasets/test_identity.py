"""What a data set is to a resumed training or a record: its contents, not where they lie or when they were copied."""

from __future__ import annotations

import os
from pathlib import Path

from mmx.datasets.processed import Item
from mmx.datasets.samples import Utterances
from mmx.runtime.manifest import Preprocessing


def an_item(folder: Path) -> Item:
    folder.mkdir()
    images = tuple(folder / f"image_{n}.jpg" for n in range(3))
    for number, path in enumerate(images):
        path.write_bytes(bytes([number]) * 100)
    (folder / "audio.wav").write_bytes(b"sound" * 20)
    return Item("a", images, folder / "audio.wav", "words", (1, 0), 2.0, "mosei")


def identity(item: Item, folder: Path) -> str:
    return Utterances([item], Preprocessing(), {}, None, cache=folder / "cache").digest()


def test_a_copy_is_the_same_set_and_a_changed_byte_another(tmp_path: Path) -> None:
    here, there = an_item(tmp_path / "here"), an_item(tmp_path / "there")
    os.utime(there.audio, (1, 1))
    assert identity(here, tmp_path) == identity(there, tmp_path)
    status = there.audio.stat()
    there.audio.write_bytes(b"sound" * 19 + b"round")
    os.utime(there.audio, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert there.audio.stat().st_size == here.audio.stat().st_size
    assert identity(here, tmp_path) != identity(there, tmp_path)
