"""The proof that a graph gives the answers of the PyTorch system it came from.

The reference is the original system: unfolded, float32, in PyTorch. The graph runs in ONNX Runtime through the
runtime's own backend, from the file that goes into the bundle.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mmx.export.specs import Arrays, ExportSpec
from mmx.runtime.backends import onnxruntime
from mmx.runtime.errors import ParityError


@dataclass(frozen=True)
class Parity:
    """Relative errors of every output in every case.

    An error is max|graph - reference| / max|reference|, over all values of one output in one case.
    """

    errors: dict[str, dict[str, float]]
    tolerance: float

    @property
    def worst(self) -> tuple[float, str, str]:
        """The largest error, its case and its output. NaN is larger than any number."""
        found = ((error, case, output) for case, outputs in self.errors.items() for output, error in outputs.items())
        return max(found, key=lambda entry: (np.isnan(entry[0]), entry[0]))

    def require(self, what: str) -> None:
        """Raise ParityError unless the worst error is within the tolerance."""
        error, case, output = self.worst
        if not error <= self.tolerance:
            raise ParityError(
                f"{what} does not give PyTorch's answers: {output} is off by {error:.1e} (relative) on {case!r}, "
                f"{self.tolerance:.0e} is allowed",
                "nothing was written; this is a fault of mmx or of this ONNX Runtime version, please report it",
            )

    def record(self) -> dict[str, Any]:
        """What the manifest keeps."""
        return {
            "metric": "max|graph - reference| / max|reference|, by case and output",
            "reference": f"the unfolded system in PyTorch {version('torch')}, float32",
            "engine": f"onnxruntime {version('onnxruntime')}, {onnxruntime.PROVIDER}",
            "tolerance": self.tolerance,
            "worst": self.worst[0],
            "cases": self.errors,
        }


def measure(system: nn.Module, graph: Path, spec: ExportSpec) -> Parity:
    """Compare the graph at ``graph`` with ``system`` (in eval mode) on every case of ``spec``."""
    with onnxruntime.load(graph) as backend:
        errors = {}
        for case, inputs in spec.cases.items():
            wanted, found = reference(system, inputs, spec), backend.run(inputs)
            errors[case] = {name: relative_error(found[name], wanted[name]) for name in wanted}
    return Parity(errors, spec.tolerance)


def reference(system: nn.Module, inputs: Arrays, spec: ExportSpec) -> Arrays:
    """The outputs of ``system`` by name, for the inputs of one case."""
    with torch.no_grad():
        outputs = system(*(torch.from_numpy(inputs[tensor.name]) for tensor in spec.inputs))
    return {tensor.name: output.numpy() for tensor, output in zip(spec.outputs, outputs, strict=True)}


def relative_error(found: NDArray, wanted: NDArray) -> float:
    """max|found - wanted| / max|wanted|: 0 where both are all 0, infinite where shapes differ or only wanted is 0."""
    if found.shape != wanted.shape:
        return float("inf")
    difference = float(np.abs(found.astype(np.float64) - wanted).max())
    if difference == 0:
        return 0.0
    largest = float(np.abs(wanted).max())
    return difference / largest if largest else float("inf")
