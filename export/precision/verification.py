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

Outputs = dict[str, NDArray]


@dataclass(frozen=True)
class Accuracy:
    """What was measured, on the fused logits where the graph has them (see ``deciding``).

    Attributes:
        samples: utterances compared.
        max_error, mean_error: of |variant - fp32|; in a graph without logits, relative to each output's largest value.
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


@dataclass(frozen=True)
class Stop:
    """The batch at which a comparison was given up: for its error, or for one label flip too many."""

    number: int
    inputs: Inputs
    error: bool


class Exact:
    """The FP32 graph and its thresholds: what a variant is held against. Each numbered batch is computed once.

    Attributes:
        names: of the float outputs.
        deciding: of those that accuracy is held to: ``logits``, which decide the labels; in other graphs, all.
    """

    def __init__(self, model: onnx.ModelProto, thresholds: Sequence[float]) -> None:
        self._session = cpu_session(model)
        self._known: dict[int, Outputs] = {}
        self.names = [value.name for value in self._session.get_outputs() if value.type == "tensor(float)"]
        self.deciding = ["logits"] if "logits" in self.names else self.names
        clipped = np.clip(thresholds, 1e-6, 1 - 1e-6)
        self._limits = np.log(clipped) - np.log1p(-clipped)

    def outputs(self, inputs: Inputs, number: int | None = None) -> Outputs:
        """The outputs by name; those of a batch with a number are remembered."""
        if number is None:
            return outputs_of(self._session, self.names, inputs)
        if number not in self._known:
            self._known[number] = outputs_of(self._session, self.names, inputs)
        return self._known[number]

    def errors(self, want: Outputs, got: Outputs) -> dict[str, float]:
        """The largest error of each output; infinite where one is not finite."""
        return {name: largest_error(want[name], got[name]) / self._unit(want[name]) for name in self.names}

    def worst(self, want: Outputs, got: Outputs) -> float:
        """The largest error of the deciding outputs."""
        errors = self.errors(want, got)
        return max((errors[name] for name in self.deciding), default=0.0)

    def mean(self, want: Outputs, got: Outputs) -> float:
        """The mean error of the deciding outputs."""
        every = [np.abs(want[name] - got[name]).ravel() / self._unit(want[name]) for name in self.deciding]
        return float(np.concatenate(every).mean()) if every else 0.0

    def decisions(self, want: Outputs, got: Outputs) -> tuple[int, int, NDArray]:
        """How many labels there are to decide, how many of them are ties, and the distances of those that flipped."""
        if not len(self._limits):
            return 0, 0, np.empty(0)
        distance = want["logits"] - self._limits
        tied = np.abs(distance) < TIE
        flipped = ((distance > 0) != (got["logits"] > self._limits)) & ~tied
        return flipped.size, int(tied.sum()), np.abs(distance[flipped])

    def _unit(self, want: NDArray) -> float:
        """Logits are compared as they are, any other output against its largest value (1 where that is less)."""
        return 1.0 if "logits" in self.names else max(1.0, float(np.abs(want).max(initial=0)))


def outputs_of(session: Session, names: Sequence[str], inputs: Inputs) -> Outputs:
    """One run: the named outputs."""
    return dict(zip(names, session.run(list(names), inputs), strict=True))


def measure(
    exact: Exact,
    variant: onnx.ModelProto,
    batches: Iterable[Inputs],
    loud: Sequence[Inputs],
    *,
    tolerance: float,
    flips: int | None = None,
    basic: bool = False,
    progress: Callable[[int], None] | None = None,
) -> tuple[Accuracy, Stop | None]:
    """Compare ``variant`` with FP32. Stops at the first batch over the tolerance or with a label flip too many.

    Args:
        batches: the inputs that count for the errors and flips; the same ones in the same order at each call.
        loud: inputs to run again at each of ``SCALES``.
        flips: how many label flips are accepted; None: any number.
        basic: see ``cpu_session``; for the variant.
        progress: called with the number of samples done.

    Returns:
        What was measured, and where it stopped, if it did.
    """
    half = cpu_session(rounded(variant), basic=basic)
    samples = decisions = ties = 0
    means, distances = [0.0], np.empty(0)
    outputs = dict.fromkeys(exact.names, 0.0)
    stop: Stop | None = None
    for number, inputs in enumerate(batches):
        want, got = exact.outputs(inputs, number), outputs_of(half, exact.names, inputs)
        outputs = {name: max(outputs[name], error) for name, error in exact.errors(want, got).items()}
        rows = _rows(want)
        samples, means = samples + rows, [*means, *[exact.mean(want, got)] * rows]
        decided, tied, flipped = exact.decisions(want, got)
        decisions, ties, distances = decisions + decided, ties + tied, np.concatenate([distances, flipped])
        if progress:
            progress(samples)
        wrong = not exact.worst(want, got) <= tolerance
        if wrong or (flips is not None and len(distances) > flips):
            stop = Stop(number, inputs, wrong)
            break
    accuracy = Accuracy(
        samples,
        max((outputs[name] for name in exact.deciding), default=0.0),
        float(np.sum(means)) / max(samples, 1),
        outputs,
        decisions,
        len(distances),
        ties,
        float(distances.max(initial=0)),
        tolerance,
        {str(scale): _at_scale(exact, half, loud, scale) for scale in SCALES if loud},
    )
    return accuracy, stop


def largest_error(want: NDArray, got: NDArray) -> float:
    """The largest |want - got|; infinite where ``got`` is not finite."""
    return float(np.abs(want - got).max(initial=0)) if np.isfinite(got).all() else float("inf")


def _rows(outputs: Outputs) -> int:
    """Samples in a run: rows of the first output."""
    first = next(iter(outputs.values()), np.empty(()))
    return len(first) if first.ndim else 1


def _at_scale(exact: Exact, half: Session, loud: Sequence[Inputs], scale: float) -> float | None:
    errors = [0.0]
    for inputs in (scaled(batch, scale) for batch in loud):
        found = exact.errors(exact.outputs(inputs), outputs_of(half, exact.names, inputs))
        errors += found.values()
    return max(errors) if np.all(np.isfinite(errors)) else None


def require(accuracy: Accuracy, what: str, remedy: str) -> None:
    """Reject a variant that is not as accurate as its tolerance says, or not finite at a scale.

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


def require_labels(accuracy: Accuracy, what: str, most: int | None) -> None:
    """Reject a variant that flips more than ``most`` labels; None accepts any.

    Raises:
        ParityError: naming how many, and how near to its threshold the worst is.
    """
    if most is not None and accuracy.label_flips > most:
        raise ParityError(
            f"{what}: {accuracy.label_flips} of {accuracy.decisions} labels flip; "
            f"the worst is {accuracy.nearest_flip:.1e} from its threshold",
            f"accept them with --max-flips {accuracy.label_flips}, or use --fp32",
        )
