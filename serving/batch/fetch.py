"""URLs -> local files for as long as they are needed, and what a task's files hold. Decoders read local files only."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from mmx.runtime.download import MAX_BYTES
from mmx.runtime.errors import EnvironmentMissing, MmxError
from mmx.runtime.urls import is_url, shown
from mmx.runtime.workers.task import Task
from mmx.serving.batch.inputs import Asked
from mmx.serving.batch.urls import download


@dataclass(frozen=True)
class Fetched:
    """A task whose files are local, or why they could not be had.

    Attributes:
        asked: what was asked for. task: the same with local paths. content: SHA-256 of its files, see ``content_of``.
    """

    asked: Asked
    task: Task
    content: str
    folder: Path | None = None
    error: MmxError | None = None

    def discard(self) -> None:
        """Remove what was downloaded."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def fetch(asked: Asked, scratch: Path, max_bytes: int = MAX_BYTES, *, private: bool = False) -> Fetched:
    """Download what of a task is not local. An error is in the result, with nothing left on the disk.

    Args:
        private: see ``urls.download``.
    """
    task = asked.task
    transcript = str(task.transcript) if isinstance(task.transcript, (str, Path)) else None
    wanted = [url for url in (str(task.path), transcript) if url is not None and is_url(url)]
    if not wanted:
        return Fetched(asked, task, content_of(task))
    folder: Path | None = None
    local: dict[str, Path] = {}
    try:
        folder = Path(tempfile.mkdtemp(dir=scratch))
        for number, url in enumerate(wanted):
            suffix = PurePosixPath(url.partition("?")[0].partition("#")[0]).suffix[
                :8
            ]  # a transcript's format follows from it
            local[url] = folder / f"{number}{suffix if suffix[1:].isalnum() else ''}"
            with local[url].open("wb") as out:
                download(url, out, max_bytes, private=private)
    except (MmxError, OSError) as e:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(e, OSError):
            e = EnvironmentMissing(f"no room for a download: {e.strerror}", "free some space, or set TMPDIR")
        return Fetched(asked, task, "", error=e)
    task = replace(task, path=local.get(str(task.path), task.path), name=task.shown)
    if transcript in local:
        task = replace(task, transcript=local[transcript], transcript_name=task.transcript_name or shown(transcript))
    return Fetched(asked, task, content_of(task), folder)


def fetch_all(
    tasks: Iterable[Asked], ahead: int, scratch: Path, *, private: bool = False
) -> Generator[Fetched, None, None]:
    """Fetch ``ahead`` tasks side by side and yield them in order; those not drawn at the end are discarded."""
    waiting: deque[Future[Fetched]] = deque()
    pool = ThreadPoolExecutor(ahead, thread_name_prefix="mmx-fetch")
    try:
        for task in tasks:
            waiting.append(pool.submit(partial(fetch, scratch=scratch, private=private), task))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for future in waiting:
            if not future.cancelled():
                future.result().discard()


def content_of(task: Task) -> str:
    """SHA-256 over a task's local files (the media, and a transcript that is a file), 32 hex digits; "" if one cannot
    be read.
    """
    digest = hashlib.sha256()
    paths = [task.path, *([task.transcript] if isinstance(task.transcript, (str, Path)) else [])]
    try:
        for path in paths:
            with Path(path).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    except (OSError, ValueError):
        return ""
    return digest.hexdigest()[:32]
