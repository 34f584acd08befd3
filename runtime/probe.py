"""Whether this machine computes an INT8 graph as the graph means it: a few samples, and their logits in its record.

The samples follow from a formula, so that a bundle holds nobody's face or voice. A CPU or a backend that saturates
where the graph does not (8-bit weights without VNNI) is many times farther from FP32 than the graph itself; one that
only rounds in another order is about as far.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.errors import EnvironmentMissing
from mmx.runtime.records import Probe

if TYPE_CHECKING:
    from mmx.runtime.manifest import TensorSpec

CANDIDATES, SAMPLES = 16, 4
"""Of so many samples those are kept on which the graph is nearest to FP32: what a machine adds shows best there."""

LENGTHS = {"batch": 1, "tokens": 8, "faces": 3, "face_slots": 3, "pieces": 4, "piece_slots": 4}
FEATURE_STEPS = 12
FARTHEST = 2.5
"""Times the graph's own distance from FP32 (root mean square, by output). With seeded weights in the tiny preset: 0.8
to 1.4 with VNNI, and with 7-bit weights without; 4.4 to 11 with 8-bit weights without VNNI."""

NEGLIGIBLE = 1e-3
"""Of the largest logit: a distance that no label notices, however exact the graph is."""

Run = Callable[[dict[str, NDArray]], Mapping[str, NDArray]]


class Runs(Protocol):
    """As much of a backend as is needed here."""

    name: str

    def run(self, inputs: dict[str, NDArray]) -> dict[str, NDArray]:
        """See ``Backend.run``."""
        ...


def make_probe(inputs: Sequence[TensorSpec], exact: Run, own: Run) -> Probe:
    """Choose the samples, and run them through both graphs, which take ``inputs``."""
    numbers = tuple(range(CANDIDATES))
    first, second = (_answers(inputs, run, numbers) for run in (exact, own))
    off = np.array([np.sqrt(np.mean((second[name] - first[name]) ** 2, axis=1)) for name in first])
    worst = (off / np.maximum(np.median(off, axis=1, keepdims=True), 1e-12)).max(axis=0)
    kept = np.sort(np.argsort(worst, kind="stable")[:SAMPLES])
    logits = ({name: rows[kept].tolist() for name, rows in each.items()} for each in (first, second))
    return Probe(tuple(kept.tolist()), *logits)


def check_probe(probe: Probe, backend: Runs, inputs: Sequence[TensorSpec]) -> None:
    """Run the samples on a backend that has loaded the INT8 graph.

    Raises:
        EnvironmentMissing: an output is farther from FP32 than ``FARTHEST`` times what the graph itself is.
    """
    found = _answers(inputs, backend.run, probe.samples)
    for name, rows in probe.exact.items():
        exact, own = np.array(rows, np.float64), np.array(probe.own[name], np.float64)
        allowed = FARTHEST * _rms(own - exact) + NEGLIGIBLE * float(np.abs(exact).max())
        here = _rms(found[name] - exact) if name in found and found[name].shape == exact.shape else np.inf
        if not here <= allowed:
            raise EnvironmentMissing(
                f"{backend.name} does not compute this INT8 graph right on this CPU: {name} is {here:.3f} off FP32, "
                f"where the graph itself is {_rms(own - exact):.3f} off",
                "use --precision fp32, another --backend, or run mmx calibrate again",
            )


def probe_inputs(inputs: Sequence[TensorSpec], number: int) -> dict[str, NDArray]:
    """Sample ``number`` for a graph with these inputs: a batch of one, from smooth faces and falling spectra."""
    arrays: dict[str, NDArray] = {}
    for tensor in inputs:
        shape = tuple(LENGTHS.get(axis, FEATURE_STEPS) if isinstance(axis, str) else axis for axis in tensor.axes)
        spread = _spread(shape, number)
        if tensor.name == "input_ids":
            values = 13 + np.floor(80 * spread)
        elif tensor.name == "attention_mask":
            values = np.ones(shape)
        elif tensor.name.endswith("_index"):
            values = np.broadcast_to(np.arange(shape[1]), shape)
        elif tensor.name.endswith("_len"):
            values = np.full(shape, FEATURE_STEPS)
        elif tensor.name == "faces":
            values = _waves(shape, number)
        elif tensor.name == "pieces":
            values = _spectra(shape, number, spread)
        else:
            values = 3.4 * (spread - 0.5)  # of variance 1
        arrays[tensor.name] = values.astype(tensor.dtype)
    return arrays


def _answers(inputs: Sequence[TensorSpec], run: Run, numbers: Sequence[int]) -> dict[str, NDArray]:
    outputs = [run(probe_inputs(inputs, number)) for number in numbers]
    return {name: np.concatenate([each[name] for each in outputs]) for name in outputs[0]}


def _spread(shape: tuple[int, ...], number: int) -> NDArray[np.float64]:
    """Evenly spread over 0..1 without a pattern that matters, the same in every version of NumPy."""
    places = np.arange(int(np.prod(shape))) + 7919 * number
    return np.asarray(places * 0.6180339887498949 % 1, np.float64).reshape(shape)


def _waves(shape: tuple[int, ...], number: int) -> NDArray[np.float64]:
    """Pictures of soft stripes, 0..255."""
    which, colour, y, x = np.indices(shape)
    angle = (0.11 + 0.05 * which) * x + (0.07 + 0.04 * number) * y + 2.0 * colour + number
    pictures: NDArray[np.float64] = 127.5 * (1 + np.sin(angle))
    return pictures


def _spectra(shape: tuple[int, ...], number: int, spread: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mel powers that fall over the bands, louder with each sample."""
    tilt = 10.0 ** (-3 * np.arange(shape[-2]) / shape[-2])
    powers: NDArray[np.float64] = 10.0 ** (number % 4 - 1) * tilt[:, None] * -np.log1p(-spread)
    return powers


def _rms(x: NDArray) -> float:
    return float(np.sqrt(np.mean(np.square(x))))
