"""``Pipeline``: many media files -> their predictions, as fast as the machine can.

    with Pipeline("ckpt.mmx", workers=4) as pipeline:
        for result in pipeline.run(Task(path) for path in sorted(folder.glob("*.mp4"))):
            print(result.file, result.error or [p.labels for p in result.predictions])

Worker processes decode some files, find faces and make mel pieces while the network runs on others. The predictions are
those of ``Predictor``, which gives the first one sooner.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from pathlib import Path

from mmx.runtime.arguments import at_least_one
from mmx.runtime.bundle import Bundle
from mmx.runtime.closing import Closing
from mmx.runtime.errors import UsageError
from mmx.runtime.machine import usable_cores
from mmx.runtime.network import Network, media_bundle
from mmx.runtime.probabilities import Certainty
from mmx.runtime.throughput_run import FileResult, Run
from mmx.runtime.workers.blocking import Workers
from mmx.runtime.workers.task import Limits, Task

__all__ = ["FileResult", "Pipeline"]

MAX_ROWS = 256  # tower rows in one batch: about a dozen utterances
BATCH_SIZE = 32


class Pipeline(Closing):
    """A bundle that is ready to run on many files.

    Args:
        bundle: a bundle folder, or one that is open.
        backend, precision, threads, on_mismatch, device: see ``open_backend``.
        workers: processes that read media, each one file on one core; None: as many as there are cores.
        limits: limits for one file. A file that exceeds one, or crashes the decoder, gets an error.
        max_rows: tower rows (faces + pieces + tokens / 32) of the largest batch. It bounds the memory: besides
            that of the network, about ``2 * throughput_run.WINDOW * max_rows`` rows of 28 kB wait, and 64 MB of
            frames in each worker.
        batch_size: largest batch, in segments.
        faces, asr, language, certainty: see ``Predictor``.

    Attributes: ``bundle``, ``network``, ``backend`` (its ``name``, ``device`` and ``why`` say what runs).

    Raises:
        MmxError: as ``Predictor``.
    """

    def __init__(
        self,
        bundle: Bundle | str | Path,
        *,
        backend: str = "auto",
        precision: str = "fp32",
        workers: int | None = None,
        threads: int | None = None,
        max_rows: int = MAX_ROWS,
        batch_size: int = BATCH_SIZE,
        on_mismatch: str = "error",
        faces: str = "exact",
        device: str | None = None,
        certainty: Certainty | None = None,
        limits: Limits | None = None,
        asr: str = "auto",
        language: str | None = None,
    ) -> None:
        for name, value in (("workers", workers), ("max_rows", max_rows), ("batch_size", batch_size)):
            if value is not None:
                at_least_one(name, value)
        self.bundle = media_bundle(bundle)
        self.network = Network.open(
            self.bundle,
            backend,
            precision,
            threads=threads,
            on_mismatch=on_mismatch,
            device=device,
            certainty=certainty,
            goal="throughput",
        )
        self.backend = self.network.backend
        self._side_by_side = workers or usable_cores()
        self._workers = Workers(self.bundle, self._side_by_side, faces=faces, limits=limits, asr=asr, language=language)
        self._max_rows = max_rows
        self._batch_size = batch_size

    def run(self, tasks: Iterable[Task | str | Path]) -> Generator[FileResult, None, None]:
        """Yield each task's result, in the order of the tasks.

        An error of one file does not stop the others: it is in the file's result. Tasks are taken in the caller's
        thread, a bounded number ahead of the results. Closing the generator (or leaving the loop by an
        exception or Ctrl-C and dropping it) stops the work and waits for the threads to end.

        Raises:
            UsageError: ``tasks`` is no iterable. EnvironmentMissing: the workers cannot be started. Exception: what
                ``tasks`` raises.
        """
        if not isinstance(tasks, Iterable) or isinstance(tasks, (str, bytes)):
            raise UsageError(f"tasks are {type(tasks).__name__}", "give a list, or any iterable, of paths or Tasks")
        self._workers.wait()
        with Run(self.network, self._workers, self._side_by_side, self._max_rows, self._batch_size) as run:
            yield from run.results(task if isinstance(task, Task) else Task(task) for task in tasks)

    def close(self) -> None:
        """End the workers and free the memory of the network."""
        self._workers.close()
        self.network.close()
