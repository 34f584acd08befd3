"""Who takes part: mmx's backends and precisions, and the peers, for each system that was asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from mmx.benchmarks.measure.single_stream import Opened
from mmx.benchmarks.reports.report import EAGER, NO_TIME, UNAVAILABLE, Row
from mmx.evaluation.timing import Contender
from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import MmxError
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


def open_contenders(
    makers: Iterable[tuple[str, Callable[[], Contender]]],
    threads: int,
    say: Callable[[str], None],
    leave_out: Callable[[str], bool] = lambda key: False,
) -> tuple[list[Opened], list[Row]]:
    """Open contenders by key, one after the other.

    Args:
        leave_out: whether there is no time left for a contender. A system whose eager is left out goes with all it has.

    Returns:
        Those that opened, and a row that says why for each that did not.

    Raises:
        MmxError: eager PyTorch, without which nothing can be compared, did not open.
    """
    opened: list[Opened] = []
    refused: list[Row] = []
    without_reference: set[str] = set()
    for key, make in makers:
        system, runner, precision = key.split("/")
        if system in without_reference or leave_out(key):
            refused.append(Row(system, runner, precision, threads, NO_TIME, "--minutes were running short"))
            if runner == EAGER:
                without_reference.add(system)
            continue
        say(f"opening {key}")
        start = time.perf_counter()
        try:
            contender = make()
        except MmxError as e:
            if runner == EAGER:
                raise
            refused.append(Row(system, runner, precision, threads, UNAVAILABLE, e.message))
            continue
        opened.append(Opened(contender, time.perf_counter() - start))
    return opened, refused
