"""How far a half-precision variant is from its FP32 graph, measured on real-shaped inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime import InferenceSession as Session

from mmx.export.precision.rounded import rounded
from mmx.export.precision.samples import Inputs, scaled
from mmx.export.precision.session import cpu_session
from mmx.runtime.errors import ParityError

SCALES = (16, 64)
TIE = 1e-4  # FP32 engines differ by up to half of this; a label whose logit is nearer to its threshold is anybody's
REFERENCE = "ONNX Runtime on the CPU, FP32, every half-precision value rounded explicitly"


@dataclass(frozen=True)
class Accuracy:
    """What was measured, on the fused logits where the graph has them (see ``deciding``).

    Attributes:
        samples: utterances compared.
        max_error, mean_error: of |variant - fp32|.
        outputs: the largest error of each output, the modalities' own logits among them.
        decisions, label_flips: fused logits compared with their threshold, and how many fell on the other side.
        ties: decisions so near their threshold (``TIE``) that FP32 engines differ on them; no flip is counted.
        nearest_flip: the FP32 logit's distance from its threshold at the worst flip; 0 without one.
        scales: by factor on the float inputs, the largest logit error, or None where a logit was not finite.
        tolerance: what max_error was held to.
        reference: how the variant was computed.
    """

    samples: int
    max_error: float
    mean_error: float
    outputs: dict[str, float]
    decisions: int
    label_flips: int
    ties: int
    nearest_flip: float
    tolerance: float
    scales: dict[str, float | None] = field(default_factory=dict)
    reference: str = REFERENCE

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self)


def measure(
    fp32: onnx.ModelProto,
    variant: onnx.ModelProto,
    batches: Iterable[Inputs],
    loud: Sequence[Inputs],
    *,
    thresholds: Sequence[float],
    tolerance: float,
    progress: Callable[[int], None] | None = None,
) -> tuple[Accuracy, Inputs | None]:
    """Compare ``variant`` with ``fp32``. Stops at the first batch over the tolerance.

    Args:
        batches: the inputs that count for the errors and flips.
        loud: inputs to run again at each of ``SCALES``.
        thresholds: probability per label; a logit over its logit is a label. Empty: no decisions are counted.
        progress: called with the number of samples done.

    Returns:
        What was measured, and the batch that was over the tolerance, if one was.
    """
    exact, half = cpu_session(fp32), cpu_session(rounded(variant))
    names = [output.name for output in exact.get_outputs()]
    chosen = [names.index(name) for name in deciding(names)]
    limits = np.log(np.clip(thresholds, 1e-6, 1 - 1e-6)) - np.log1p(-np.clip(thresholds, 1e-6, 1 - 1e-6))
    samples = decisions = flips = ties = values = 0
    total = nearest = 0.0
    breach: Inputs | None = None
    outputs = dict.fromkeys(names, 0.0)
    for inputs in batches:
        want, got = exact.run(None, inputs), half.run(None, inputs)
        for name, a, b in zip(names, want, got, strict=True):
            outputs[name] = max(outputs[name], largest_error(a, b))
        total += sum(float(np.abs(want[i] - got[i]).sum()) for i in chosen)
        values += sum(want[i].size for i in chosen)
        if len(thresholds):
            logits = want[chosen[0]]
            close = np.abs(logits - limits) < TIE
            flipped = ((logits > limits) != (got[chosen[0]] > limits)) & ~close
            flips, decisions, ties = flips + int(flipped.sum()), decisions + flipped.size, ties + int(close.sum())
            nearest = max(nearest, float(np.abs(logits - limits)[flipped].max(initial=0)))
        samples += len(want[0])
        if progress:
            progress(samples)
        if not max(outputs[names[i]] for i in chosen) <= tolerance:
            breach = inputs
            break
    worst = max(outputs[names[i]] for i in chosen)
    scales = {str(scale): _at_scale(exact, half, loud, scale) for scale in SCALES}
    mean = total / values if values else 0.0
    return Accuracy(samples, worst, mean, outputs, decisions, flips, ties, nearest, tolerance, scales), breach


def deciding(outputs: Sequence[str]) -> list[str]:
    """The outputs that accuracy is held to: ``logits``, which decide the labels; in other graphs, all."""
    return ["logits"] if "logits" in outputs else list(outputs)


def largest_error(want: NDArray, got: NDArray) -> float:
    """The largest |want - got|; infinite where ``got`` is not finite."""
    return float(np.abs(want - got).max(initial=0)) if np.isfinite(got).all() else float("inf")


def _at_scale(exact: Session, half: Session, loud: Sequence[Inputs], scale: float) -> float | None:
    errors = []
    for inputs in (scaled(batch, scale) for batch in loud):
        pairs = zip(exact.run(None, inputs), half.run(None, inputs), strict=True)
        errors.append(max(largest_error(a, b) for a, b in pairs))
    return max(errors, default=0.0) if np.all(np.isfinite(errors)) else None


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
