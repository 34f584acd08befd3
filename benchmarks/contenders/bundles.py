"""A bundle on one of mmx's backends, as something that is measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.bundle import Bundle
from mmx.runtime.network import Network
from mmx.runtime.types import Sample


class BundleContender:
    """A bundle on one backend; packing the samples is part of its time."""

    def __init__(self, system: str, bundle: Bundle, backend: str, precision: str, threads: int | None) -> None:
        """Load the graph.

        Raises:
            MmxError: this backend or precision can't be had here (see ``open_backend``).
        """
        self.key = f"{system}/{backend}/{precision}"
        self._network = Network.open(bundle, backend, precision, threads=threads)

    def run(self, samples: Sequence[Sample]) -> NDArray[np.float32]:
        """Fused logits [samples, labels]."""
        return self._network.outputs(samples)["logits"]

    def close(self) -> None:
        """Give the backend's memory back."""
        self._network.close()
