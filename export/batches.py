"""Whether the graph gives a sample the same answer alone and in a batch, on every CPU backend that is installed.

An engine can be at fault where the graph is not: OpenVINO ignores the lengths of an LSTM whose shapes are dynamic.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np

from mmx.export.specs import ExportSpec
from mmx.runtime.backends import MODULES, ON_CPU, Backend
from mmx.runtime.errors import EnvironmentMissing, ParityError
from mmx.runtime.splitting import batch_size, part

ALLOWED = 2e-4
"""Relative. Kernels round differently at other shapes, which deep towers of random weights blow up to 4e-5; a batch
that is computed wrongly is off by more than 1e-2."""


def measure(graph: Path, spec: ExportSpec) -> dict[str, float]:
    """By backend: the largest difference, over an output's largest value, that the rest of its batch makes to a sample.

    Every case of ``spec`` with more than one sample is run whole and sample by sample.
    """
    worst: dict[str, float] = {}
    for name in ON_CPU:
        try:
            backend: Backend = import_module(MODULES[name]).load(graph)
        except EnvironmentMissing:
            continue
        with backend:
            worst[name] = max((_difference(backend, inputs) for inputs in spec.cases.values()), default=0.0)
    return worst


def require(worst: dict[str, float], what: str) -> None:
    """Raise ParityError where a backend's answers depend on what else is in the batch."""
    for name, difference in worst.items():
        if not difference <= ALLOWED:
            raise ParityError(
                f"on {name} the answers of {what} depend on the rest of the batch: they move by {difference:.1e} "
                f"(relative), {ALLOWED:.0e} is allowed",
                f"nothing was written; please report it, with the version of {name}",
            )


def _difference(backend: Backend, inputs: dict[str, np.ndarray]) -> float:
    together = backend.run(inputs)
    count = batch_size(inputs)
    if count == 1:
        return 0.0
    apart = [backend.run(part(inputs, number, number + 1)) for number in range(count)]
    return max(
        float(np.abs(np.concatenate([each[name] for each in apart]) - values).max())
        / max(float(np.abs(values).max()), float(np.finfo(np.float32).tiny))
        for name, values in together.items()
    )
