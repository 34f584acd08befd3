"""URLs -> local files for as long as they are needed. Decoders read local files only."""

from __future__ import annotations

import shutil
import tempfile
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mmx.runtime.errors import BadDataError, MmxError
from mmx.serving.batch.inputs import Task, import_fsspec, is_url

MAX_BYTES = 4 * 2**30  # of one file
_BLOCK = 2**20


@dataclass(frozen=True)
class Fetched:
    """A task and where its file and its transcript lie, or why they could not be had."""

    task: Task
    path: str
    transcript: str | None
    folder: Path | None = None
    error: MmxError | None = None

    def discard(self) -> None:
        """Remove what was downloaded."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def fetch(task: Task, max_bytes: int = MAX_BYTES) -> Fetched:
    """Download what of a task is not local. An error is in the result, with nothing left on the disk."""
    wanted = [url for url in (task.path, task.transcript) if url is not None and is_url(url)]
    if not wanted:
        return Fetched(task, task.path, task.transcript)
    folder = Path(tempfile.mkdtemp(prefix="mmx-batch-"))
    local: dict[str, str] = {}
    try:
        for number, url in enumerate(wanted):
            to = folder / f"{number}{PurePosixPath(url.partition('?')[0]).suffix[:8]}"  # the suffix tells what it is
            _download(url, to, max_bytes)
            local[url] = str(to)
    except MmxError as e:
        shutil.rmtree(folder, ignore_errors=True)
        return Fetched(task, task.path, task.transcript, error=e)
    transcript = None if task.transcript is None else local.get(task.transcript, task.transcript)
    return Fetched(task, local.get(task.path, task.path), transcript, folder)


def fetch_all(tasks: Iterable[Task], ahead: int) -> Generator[Fetched, None, None]:
    """Fetch ``ahead`` tasks side by side and yield them in order; those not drawn at the end are discarded."""
    waiting: deque[Future[Fetched]] = deque()
    pool = ThreadPoolExecutor(ahead, thread_name_prefix="mmx-fetch")
    try:
        for task in tasks:
            waiting.append(pool.submit(fetch, task))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for future in waiting:
            if not future.cancelled():
                future.result().discard()


def _download(url: str, to: Path, max_bytes: int) -> None:
    try:
        with import_fsspec().open(url, "rb") as source, to.open("wb") as out:
            size = 0
            while block := source.read(_BLOCK):
                size += len(block)
                if size > max_bytes:
                    raise BadDataError(f"{url} is larger than {max_bytes >> 20} MB", "cut it first")
                out.write(block)
    except MmxError:
        raise
    except Exception as e:  # each protocol has exceptions of its own
        raise BadDataError(f"{url} cannot be read: {type(e).__name__}: {e}", "check the URL and its credentials") from e
