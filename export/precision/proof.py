"""How far a half-precision variant is from its FP32 graph, measured on real-shaped inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import onnx
from mmx.export.precision.rounded import rounded
from mmx.export.precision.samples import Inputs, scaled
from mmx.export.precision.session import cpu_session
from mmx.runtime.errors import ParityError
from numpy.typing import NDArray

TOLERANCE = {"fp16": 1e-2, "bf16": 1e-1}
SCALES = (16, 64)
REFERENCE = "ONNX Runtime on the CPU, FP32, every half-precision value rounded explicitly"


@dataclass(frozen=True)
class Accuracy:
    """What was measured. Logits are those of every output of the graph.

    Attributes:
        samples: utterances compared.
        max_error, mean_error: of |variant - fp32| over all logits.
        decisions, label_flips: fused logits compared with their threshold, and how many fell on the other side.
        nearest_flip: the FP32 logit's distance from its threshold at the worst flip; 0 without one.
        scales: by factor on the float inputs, the largest logit error, or None where a logit was not finite.
        tolerance: what max_error was held to.
        reference: how the variant was computed.
    """

    samples: int
    max_error: float
    mean_error: float
    decisions: int
    label_flips: int
    nearest_flip: float
    tolerance: float
    scales: dict[str, float | None] = field(default_factory=dict)
    reference: str = REFERENCE

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self)

    def __str__(self) -> str:
        flips = "no label flip" if not self.label_flips else f"{self.label_flips} label flips"
        scales = ", ".join(
            f"{'NaN or infinity' if error is None else 'finite'} at scale {scale}"
            for scale, error in self.scales.items()
        )
        return (
            f"logits within {self.max_error:.1e} of FP32 (mean {self.mean_error:.1e}) on {self.samples} samples, "
            f"{flips} in {self.decisions} decisions" + (f", {scales}" if scales else "")
        )


def measure(
    fp32: onnx.ModelProto,
    variant: onnx.ModelProto,
    batches: Iterable[Inputs],
    loud: Sequence[Inputs],
    *,
    thresholds: Sequence[float],
    tolerance: float,
    progress: Callable[[int], None] | None = None,
) -> Accuracy:
    """Compare ``variant`` with ``fp32``.

    Args:
        batches: the inputs that count for the errors and flips.
        loud: inputs to run again at each of ``SCALES``.
        thresholds: probability per label; a logit over its logit is a label. Empty: no decisions are counted.
        tolerance: recorded, see ``require``.
        progress: called with the number of samples done.
    """
    exact, half = cpu_session(fp32), cpu_session(rounded(variant))
    names = [output.name for output in exact.get_outputs()]
    fused = names.index("logits") if "logits" in names else 0
    limits = np.log(np.clip(thresholds, 1e-6, 1 - 1e-6)) - np.log1p(-np.clip(thresholds, 1e-6, 1 - 1e-6))
    samples = decisions = flips = values = 0
    worst = total = nearest = 0.0
    for inputs in batches:
        want, got = exact.run(None, inputs), half.run(None, inputs)
        error = largest_error(want, got)
        worst = max(worst, error)
        total += float(sum(np.abs(a - b).sum() for a, b in zip(want, got, strict=True)))
        values += sum(a.size for a in want)
        if len(thresholds):
            flipped = (want[fused] > limits) != (got[fused] > limits)
            flips, decisions = flips + int(flipped.sum()), decisions + flipped.size
            nearest = max(nearest, float(np.abs(want[fused] - limits)[flipped].max(initial=0)))
        samples += len(want[fused])
        if progress:
            progress(samples)
    scales: dict[str, float | None] = {}
    for scale in SCALES:
        errors = [largest_error(exact.run(None, x), half.run(None, x)) for x in (scaled(x, scale) for x in loud)]
        scales[str(scale)] = max(errors) if np.all(np.isfinite(errors)) else None
    mean = total / values if values else 0.0
    return Accuracy(samples, worst, mean, decisions, flips, nearest, tolerance, scales)


def largest_error(want: Sequence[NDArray], got: Sequence[NDArray]) -> float:
    """The largest |want - got|; infinite where a value of ``got`` is not finite."""
    if not all(np.isfinite(b).all() for b in got):
        return float("inf")
    return max(float(np.abs(a - b).max(initial=0)) for a, b in zip(want, got, strict=True))


def require(accuracy: Accuracy, what: str, remedy: str) -> None:
    """Refuse a variant that is not as accurate as its tolerance says, or not finite at a scale.

    Raises:
        ParityError: naming the figures.
    """
    lost = [scale for scale, error in accuracy.scales.items() if error is None]
    if lost:
        raise ParityError(f"{what}: NaN or infinite logits with inputs scaled by {', '.join(lost)}", remedy)
    if not accuracy.max_error <= accuracy.tolerance:
        raise ParityError(
            f"{what}: logits are {accuracy.max_error:.2e} off FP32 on {accuracy.samples} samples, "
            f"more than {accuracy.tolerance:g}",
            remedy,
        )
