"""The results of many files, in whatever form: what makes up a record, what is done already, what must be done again.

The rules are the same for every form (``parquet``, ``lines``):

- results of another graph, preprocessing, precision, window, face mode, people or schema are not mixed with these;
- a file is done if its record is of the same words and of the same content (SHA-256; a URL's is not looked at again);
- a record of other words or of other content is removed, and so, if wanted, is one with an error.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmx.runtime.bundle import Bundle
from mmx.runtime.closing import Closing
from mmx.runtime.errors import MmxError, UsageError
from mmx.runtime.prediction import SCHEMA_VERSION as PREDICTION_VERSION
from mmx.runtime.prediction import Prediction
from mmx.runtime.probabilities import Certainty
from mmx.runtime.speech.find import resolve
from mmx.runtime.types import DEFAULT_TRACKS, Tracks
from mmx.runtime.urls import is_url
from mmx.serving.batch.fetch import content_of
from mmx.serving.batch.inputs import Asked

SCHEMA_VERSION = 2
HASHED_AT_ONCE = 4


@dataclass(frozen=True)
class Record:
    """What became of one file.

    Attributes:
        task: its key (see ``inputs.with_keys``). file: its name. content: SHA-256, see ``fetch.content_of``.
        predictions: one for each segment; after an error, those that were still made.
    """

    task: str
    file: str
    content: str
    predictions: tuple[Prediction, ...]
    error: MmxError | None = None


@dataclass(frozen=True)
class Done:
    """A record that is there: of which file and content, and its error's exit code (0: none)."""

    file: str
    content: str
    exit_code: int = 0


class Results(Closing, ABC):
    """Where this process alone adds records.

    Attributes: ``path``; ``done``: what is there, by the task's key.
    """

    path: Path
    done: dict[str, Done]

    @abstractmethod
    def add(self, record: Record) -> None:
        """Add a file's record. One that is done already is left out."""

    @abstractmethod
    def remove(self, keys: Collection[str]) -> None:
        """Remove the records of these tasks."""

    @abstractmethod
    def close(self) -> None:
        """Write what is waiting, and let others write there."""


def made_with(
    bundle: Bundle,
    precision: str,
    window: float | None,
    faces: str,
    tracks: Tracks = DEFAULT_TRACKS,
    asr: str = "none",
    language: str | None = None,
    certainty: Certainty | None = None,
    people: str = "largest",
) -> dict[str, Any]:
    """What two runs must share for their results to stand together: the graph, and how it is fed; not the backend."""
    manifest = bundle.manifest
    graph = bundle.described(precision) or bundle.described("fp32")
    assert graph is not None
    model = (asdict(manifest.preprocessing), manifest.labels, manifest.thresholds, manifest.fusion_weights)
    fits = {name: asdict(fit) for name, fit in bundle.calibration.items()}
    return {
        "schema_version": SCHEMA_VERSION,
        "prediction_version": PREDICTION_VERSION,
        "graph": graph.sha256[:16],
        "model": hashlib.sha256(json.dumps(model).encode()).hexdigest()[:16],
        "precision": precision,
        "window": window,
        "faces": faces,
        "people": people,
        "tracks": [tracks.video, tracks.audio],
        "asr": resolve(asr),
        "language": language,
        "calibration": hashlib.sha256(json.dumps(fits).encode()).hexdigest()[:16] if fits else None,
        "certainty": asdict(certainty) if certainty else None,
    }


def check_made_with(path: Path, before: Any, now: dict[str, Any]) -> None:
    """Raises UsageError: the results at ``path`` were made otherwise than ``now``; says in what they differ."""
    if before != now:
        differing = [name for name in now if before.get(name) != now[name]] if isinstance(before, dict) else []
        raise UsageError(
            f"{path} was made with another {', '.join(differing) or 'version of mmx'}",
            "give another --out, or the bundle and the options of the first run",
        )


def left_to_do(asked: Sequence[Asked], results: Results, *, retry: bool) -> list[Asked]:
    """The tasks that have no record; records that no longer hold are removed first.

    Args:
        retry: those with an error do not hold.
    """
    wanted = {each.key: each.task for each in asked}
    files = {each.task.shown.encode(errors="backslashreplace").decode() for each in asked}
    stale = {key for key, done in results.done.items() if key not in wanted and done.file in files}  # other words
    stale |= {key for key, done in results.done.items() if retry and done.exit_code and key in wanted}
    local = [
        key
        for key, done in results.done.items()
        if key in wanted and key not in stale and not is_url(str(wanted[key].path))
    ]
    with ThreadPoolExecutor(HASHED_AT_ONCE, "mmx-hash") as pool:
        contents = pool.map(content_of, (wanted[key] for key in local))
        stale |= {key for key, now in zip(local, contents, strict=True) if now and now != results.done[key].content}
    if stale:
        results.remove(stale)
    return [each for each in asked if each.key not in results.done]


def lock(path: Path, descriptor: int) -> None:
    """Hold an open file or folder for this process, until the descriptor is closed.

    Raises:
        UsageError: another process holds it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        raise UsageError(
            f"another mmx batch or mmx predict is writing to {path}", "wait for it, or choose another --out"
        ) from e
