"""How far ``mmx batch`` and ``mmx predict --out`` are, on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmx.cli.main import print_error
from mmx.view.terminal import Progress as Bar

if TYPE_CHECKING:
    from mmx.serving.batch.results import Record
    from mmx.serving.batch.run import Progress


class ShownProgress:
    """A bar, and above it each error in full."""

    def __init__(self) -> None:
        self._bar = Bar(quiet_elsewhere=False)

    def __call__(self, progress: Progress, record: Record | None) -> None:
        """Show a record's error, and the progress."""
        if record is not None:
            if record.error is not None:
                self._bar.close()
                print_error(record.error.message, record.error.hint)
            rate = f"{progress.failed} failed, {progress.per_second:.2f} files/s"
            self._bar.update(f"files, {rate}", progress.done, progress.total)

    def __enter__(self) -> ShownProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
