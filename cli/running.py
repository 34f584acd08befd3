"""The options of a command that predicts files: what runs the network, how media are read, when a label is given."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from mmx.cli.options import certainty_of, check_people, shared
from mmx.runtime.types import Tracks

if TYPE_CHECKING:
    from mmx.runtime.bundle import Bundle
    from mmx.runtime.probabilities import Certainty
    from mmx.runtime.workers.task import Limits

Command = TypeVar("Command", bound=Callable[..., Any])
PASSED_ON = ("backend", "device", "precision", "on_mismatch", "faces", "asr", "language", "threads")
NAMES = (
    *("--backend", "--device", "--precision", "--on-mismatch", "--faces", "--people", "--video-track", "--audio-track"),
    *("--asr", "--language", "--min-confidence", "--max-error", "--threads"),
    *("--file-seconds", "--file-memory", "--file-pixels"),
)


@dataclass(frozen=True)
class Running:
    """How the user wants files predicted."""

    backend: str
    device: str | None
    precision: str
    on_mismatch: str
    faces: str
    people: str
    video_track: int | None
    audio_track: int | None
    asr: str
    language: str | None
    min_confidence: float | None
    max_error: float | None
    threads: int | None
    file_seconds: float
    file_memory: int
    file_pixels: int

    @property
    def tracks(self) -> Tracks:
        """The tracks to read."""
        return Tracks(self.video_track, self.audio_track)

    @property
    def certainty(self) -> Certainty | None:
        """What a prediction must reach to be given labels."""
        return certainty_of(self.min_confidence, self.max_error)

    @property
    def limits(self) -> Limits:
        """What one file may cost."""
        from mmx.runtime.workers.task import Limits

        return Limits(memory=self.file_memory * 2**20, seconds=self.file_seconds, pixels=self.file_pixels)

    def check(self) -> None:
        """Raise UsageError, before anything is loaded, for what does not go together."""
        check_people(self.people, self.faces)

    def made_with(self, bundle: Bundle, precision: str, window: float | None) -> dict[str, Any]:
        """See ``serving.batch.results.made_with``. ``precision``: the one that is run."""
        from mmx.serving.batch.results import made_with

        how = (self.faces, self.tracks, self.asr, self.language, self.certainty, self.people)
        return made_with(bundle, precision, window, *how)

    def options(self) -> dict[str, Any]:
        """The arguments that ``Predictor`` and ``Pipeline`` have in common."""
        return {name: getattr(self, name) for name in PASSED_ON} | {"certainty": self.certainty}


def runs_files(command: Command) -> Command:
    """Give a command the options of ``Running``, which it gets as ``running``."""

    @functools.wraps(command)
    def with_running(**given: Any) -> Any:
        own = {name: given.pop(name) for name in Running.__dataclass_fields__}
        return command(running=Running(**own), **given)

    for name in reversed(NAMES):
        with_running = shared(name)(with_running)
    return with_running  # type: ignore[return-value]
