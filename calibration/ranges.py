"""How far each activation reaches on real samples, and the INT8 scale that follows from it by one of four methods.

INT8 is symmetric, so all that counts of a value is its magnitude: a histogram of |x| says everything. Samples go
through one at a time, as long as they are, so nothing is padded and memory stays bounded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from mmx.calibration.layers import Layer
from mmx.export.precision.session import cpu_session
from mmx.runtime.errors import BadDataError, UsageError
from mmx.runtime.from_json import from_plain, parse_object, read_limited

METHODS = ("minmax", "entropy", "percentile", "mse")
LEVELS = 127  # -127..127: the range is symmetric, -128 is not used
BINS = 2048
SCHEMA_VERSION = 1
_PERCENTILE = 99.99
_CANDIDATES = 64
_LIMIT = 16 * 2**20  # bytes of a record

Inputs = dict[str, NDArray]


@dataclass(frozen=True)
class Ranges:
    """What was measured, as inspectable JSON.

    Attributes:
        weights: SHA-256 of the FP32 graph. data: SHA-256 of the samples (see ``datasets.samples.Utterances.digest``).
        method: one of ``METHODS``. samples: how many were run.
        largest: by value, the largest magnitude seen. limits: by value, the magnitude that becomes 127.
    """

    schema_version: int
    weights: str
    data: str
    method: str
    samples: int
    largest: dict[str, float]
    limits: dict[str, float]

    def write(self, path: Path) -> None:
        """Save it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def read_ranges(path: Path) -> Ranges:
    """Read what ``Ranges.write`` wrote.

    Raises:
        BadDataError: it is not a record.
    """
    again = "--fresh measures again"
    try:
        raw = parse_object(read_limited(path, _LIMIT, again), str(path), again)
    except FileNotFoundError as e:
        raise BadDataError(f"{path} is missing", again) from e
    if raw.get("schema_version") != SCHEMA_VERSION:
        raise BadDataError(f"{path} has schema_version {raw.get('schema_version')!r:.80}", again)
    record: Ranges = from_plain(Ranges, raw, str(path))
    if any(limit < 0 for limit in record.limits.values()):
        raise BadDataError(f"{path}: a limit is not a magnitude", again)
    return record


def measure_limits(
    model: onnx.ModelProto,
    layers: Sequence[Layer],
    samples: Callable[[], Iterable[Inputs]],
    method: str,
    progress: Callable[[int], None] | None = None,
) -> tuple[dict[str, float], dict[str, float], int]:
    """Run the FP32 graph over the samples twice: for the largest magnitudes, then for histograms up to them.

    Args:
        samples: gives the graph's inputs one sample at a time, the same ones each time it is called.

    Returns:
        By value, the largest magnitude and the limit; and how many samples there were.

    Raises:
        UsageError: no such method, or no samples. BadDataError: a value is not finite.
    """
    if method not in METHODS:
        raise UsageError(f"there is no method {method!r}", f"use one of {', '.join(METHODS)}")
    names = list(dict.fromkeys(name for layer in layers for name in layer.tensors))
    graph_inputs = {value.name for value in model.graph.input}
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    known = {value.name for value in model.graph.output} | graph_inputs
    watched.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in known
    )
    session = cpu_session(watched)
    fetched = [name for name in names if name not in graph_inputs]

    def values(inputs: Inputs) -> dict[str, NDArray]:
        return {**inputs, **dict(zip(fetched, session.run(fetched, inputs), strict=True))}

    largest = dict.fromkeys(names, 0.0)
    count = 0
    for inputs in samples():
        found = values(inputs)
        for name in names:
            largest[name] = max(largest[name], float(np.abs(found[name]).max(initial=0)))
        count += 1
        if progress:
            progress(count)
    if not count:
        raise UsageError("there are no samples to measure ranges on", "name a data set with some")
    if bad := [name for name in names if not np.isfinite(largest[name])]:
        raise BadDataError(f"{bad[0]} is not finite on the calibration samples", "the checkpoint is damaged")
    if method == "minmax":
        return largest, dict(largest), count
    histograms = {name: np.zeros(BINS) for name in names}
    for inputs in samples():
        found = values(inputs)
        for name in names:
            if largest[name]:
                histograms[name] += np.histogram(np.abs(found[name]), BINS, (0, largest[name]))[0]
    return largest, {name: limit(histograms[name], largest[name], method) for name in names}, count


def limit(histogram: NDArray[np.float64], largest: float, method: str) -> float:
    """The magnitude that becomes 127, from the histogram [bins] of |x| over 0..largest.

    percentile: 99.99 % of the values lie below it. mse: the sum of squared rounding and clipping errors is smallest.
    entropy: the quantised distribution is nearest to the clipped one (Kullback-Leibler, as TensorRT's calibrator did).
    """
    total = histogram.sum()
    if not total:
        return largest
    if method == "percentile":
        below = np.searchsorted(np.cumsum(histogram), total * _PERCENTILE / 100)
        return float(largest * min(below + 1, BINS) / BINS)
    ends = np.unique(np.linspace(LEVELS + 1, BINS, _CANDIDATES).astype(int))
    cost = _squared_error if method == "mse" else _divergence
    costs = [cost(histogram, int(end)) for end in ends]
    return float(largest * ends[int(np.argmin(costs))] / BINS)


def _squared_error(histogram: NDArray[np.float64], end: int) -> float:
    """Mean squared error, in bins squared, if ``end`` bins become 127 levels and the rest is clipped."""
    middle = np.arange(BINS) + 0.5
    step = end / LEVELS
    back = np.minimum(np.rint(middle / step), LEVELS) * step
    return float((histogram * (middle - back) ** 2).sum())


def _divergence(histogram: NDArray[np.float64], end: int) -> float:
    """KL divergence between the distribution clipped at ``end`` and its coding in 128 levels."""
    kept = histogram[:end].copy()
    wanted = kept.copy()
    wanted[-1] += histogram[end:].sum()
    level = np.minimum((np.arange(end) * (LEVELS + 1)) // end, LEVELS)
    there = kept > 0
    mass = np.bincount(level, kept, LEVELS + 1)
    slots = np.bincount(level, there.astype(float), LEVELS + 1)
    coded = np.where(there, (mass / np.maximum(slots, 1))[level], 0.0)
    wanted, coded = wanted / wanted.sum(), coded / max(coded.sum(), 1e-12)
    seen = wanted > 0
    return float((wanted[seen] * np.log(wanted[seen] / np.maximum(coded[seen], 1e-12))).sum())
