"""Where media come from: a file on the disk, a URL, a file object, or bytes; each can be read more than once."""

from __future__ import annotations

import io
import os
import shutil
import stat
import tempfile
import threading
from pathlib import Path
from typing import Any, BinaryIO

from mmx.runtime.download import fetched
from mmx.runtime.errors import BadDataError, MissingPath, UsageError
from mmx.runtime.urls import is_url, shown

VIDEO = frozenset(".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .m2ts .flv .wmv .3gp .ogv".split())  # noqa: SIM905
SOUND = frozenset(".wav .mp3 .m4a .aac .flac .ogg .opus".split())  # noqa: SIM905
MEDIA = VIDEO | SOUND  # what is taken out of a folder; a file that is named may be called anything

MediaInput = str | os.PathLike[str] | bytes | BinaryIO


def name_of(media: object) -> str:
    """What messages call media: the path as given, a URL without passwords, the file object's name, or "<bytes>".

    Raises:
        UsageError: it is nothing that media can be read from.
    """
    if isinstance(media, str) and is_url(media):
        return shown(media)
    if isinstance(media, (str, os.PathLike)):
        return os.fspath(media)
    if isinstance(media, (bytes, bytearray, memoryview)):
        return "<bytes>"
    kind = type(media).__name__
    if not callable(getattr(media, "read", None)):
        raise UsageError(f"media cannot be read from {kind}", "give a path, bytes, a file object, or MediaArrays")
    if isinstance(media, io.TextIOBase):
        raise UsageError(f"media cannot be read from a file in text mode ({kind})", 'open it with mode "rb"')
    if getattr(media, "closed", False):
        raise UsageError(f"media cannot be read from a closed file ({kind})", "close it after the last prediction")
    name = getattr(media, "name", None)
    return name if isinstance(name, str) else f"<{kind}>"


class Source:
    """Media that can be opened.

    Args:
        media: a path, an HTTP(S) URL (a str), the bytes of a file, or a binary file object. A URL, and an object that
            cannot seek, is first copied to an unnamed temporary file. A file object is read from its start, stays the
            caller's to close, and must not be used by others meanwhile.

    Attributes:
        name: see ``name_of``.

    Raises:
        MissingPath: the path does not exist. BadDataError: it is unreadable, or no regular file; nothing is in it.
        UsageError: see ``name_of``; a URL of another protocol.
    """

    def __init__(self, media: MediaInput) -> None:
        self._path: Path | None = None
        self._data: bytes | None = None
        self._file: Any = None
        self._lock = threading.Lock()
        self.name = name_of(media)
        if isinstance(media, str) and is_url(media):
            self._file = _fetched(media)
            size = self._file.seek(0, os.SEEK_END)
        elif isinstance(media, (str, os.PathLike)):
            self._path = Path(media)
            size = _size(self._path, self.name)
        elif isinstance(media, (bytes, bytearray, memoryview)):
            self._data = bytes(media)
            size = len(self._data)
        else:
            self._file = media if _seekable(media) else _copied(media, self.name)
            size = self._file.seek(0, os.SEEK_END)
        if not size:
            raise BadDataError(f"{self.name} is empty (0 bytes)", "copy or download it again")
        self.size = size

    def for_ffmpeg(self) -> str | BinaryIO:
        """What ``av.open`` takes: a URL of the file protocol, or a file object."""
        return f"file:{self._path.absolute()}" if self._path else self.reader()

    def reader(self) -> BinaryIO:
        """A file object of its own, at the start."""
        if self._path:
            return self._path.open("rb")
        if self._data is not None:
            return io.BytesIO(self._data)
        return _View(self._file, self.size, self._lock)


class _View(io.RawIOBase, BinaryIO):
    """A place of one's own in a file object that others read too."""

    def __init__(self, file: Any, size: int, lock: threading.Lock) -> None:
        self._shared, self._size, self._place, self._lock = file, size, 0, lock

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        with self._lock:
            self._shared.seek(self._place)
            data: bytes = self._shared.read(-1 if size is None else size) or b""
        self._place += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def tell(self) -> int:
        return self._place


def _fetched(url: str) -> BinaryIO:
    scheme = url.partition("://")[0].lower()
    if scheme not in ("http", "https"):
        hint = "mmx live BUNDLE URL" if scheme.startswith("rt") else "http:// and https:// are; or download it first"
        raise UsageError(f"{shown(url)}: {scheme}:// URLs are not read here", hint)
    return fetched(url)


def _size(path: Path, name: str) -> int:
    try:
        status = path.stat()
    except (OSError, ValueError) as e:
        kind = MissingPath if isinstance(e, FileNotFoundError) else BadDataError
        raise kind(f"{name} cannot be read: {getattr(e, 'strerror', None) or e}", "check the path") from e
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
        raise BadDataError(f"{name} is {what}", "give a video or sound file")
    return status.st_size


def _seekable(file: Any) -> bool:
    try:
        return bool(file.seekable())
    except AttributeError:
        return hasattr(file, "seek")


def _copied(file: Any, name: str) -> BinaryIO:
    """The rest of a file object that cannot seek, in a temporary file that has no name."""
    copy = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as its source)
    try:
        shutil.copyfileobj(file, copy)
    except (OSError, TypeError) as e:
        copy.close()
        raise BadDataError(f"{name} cannot be read: {e}", "give a file object in binary mode") from e
    return copy
