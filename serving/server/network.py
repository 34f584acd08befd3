"""The network of a server: one backend for each lane, so that several batches run side by side on one core each.

Two cores do more on two batches than on one: a small matrix product divided between threads spends much of its time in
waiting for the slower of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.backends import Backend, open_backend
from mmx.runtime.backends.openvino import OpenVinoBackend
from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import UsageError
from mmx.runtime.machine import usable_cores
from mmx.runtime.packing import INPUTS, pack
from mmx.runtime.types import Sample
from mmx.serving.server.batcher import Run
from mmx.serving.server.settings import Settings

MOST_LANES = 4  # unless asked for
ON_CPU = ("onnxruntime", "openvino")


class Network:
    """An open bundle and its lanes.

    Attributes: ``bundle``, ``backend`` (the first lane's), ``lanes`` (how many), ``threads`` (CPU threads of each).

    Raises:
        MmxError: what ``Bundle.open`` and ``open_backend`` raise; UsageError for a system that does not take media.
    """

    def __init__(self, settings: Settings) -> None:
        self.bundle = Bundle.open(settings.bundle)
        self.lanes, self.threads = _share(settings)

        def another(name: str) -> Backend:
            return open_backend(self.bundle, name, settings.precision, self.threads, settings.on_mismatch)

        self.backend = another(settings.backend)
        self._all = [self.backend]
        if not set(self.backend.inputs) <= set(INPUTS):
            self.close()
            raise UsageError(f"{settings.bundle} holds {self.bundle.manifest.system}, which takes features, not media")
        if self.backend.name not in ON_CPU and settings.lanes is None:
            self.lanes = 1
        # ONNX Runtime with one thread works in the thread that calls it, so that its lanes can share one session; of
        # OpenVINO one compiled model has room for all lanes.
        if isinstance(self.backend, OpenVinoBackend) and self.lanes > 1:
            self.backend = self._all[0] = self.backend.with_lanes(self.lanes)
        elif not (self.backend.name == "onnxruntime" and self.threads == 1):
            self._all += [another(self.backend.name) for _ in range(self.lanes - 1)]

    def runs(self) -> list[Run]:
        """For each lane: samples -> the graph's outputs, float32 [samples, labels] by name."""
        return [self._run(self._all[lane % len(self._all)]) for lane in range(self.lanes)]

    def close(self) -> None:
        """Give the memory back."""
        for backend in self._all:
            backend.close()

    def _run(self, backend: Backend) -> Run:
        def run(samples: Sequence[Sample]) -> dict[str, NDArray[np.float32]]:
            return backend.run(pack(samples, self.bundle.manifest.preprocessing.text, backend.inputs).inputs)

        return run


def _share(settings: Settings) -> tuple[int, int]:
    """Lanes, and the threads of each: together the cores there are, unless asked for otherwise."""
    cores = usable_cores()
    lanes = settings.lanes or max(1, min(MOST_LANES, cores // (settings.threads or 1)))
    return lanes, settings.threads or max(1, cores // lanes)
