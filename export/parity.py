"""Parity: whether a graph gives the outputs of the PyTorch system it came from.

The reference is the original, unfolded system in PyTorch, in float32. The graph runs in ONNX Runtime through the
runtime's own backend, from the file that goes into the bundle.

Both round. A trained system keeps that near 1e-6, but deep towers of random weights blow PyTorch's own rounding up to
4e-5, twice the tolerance. So where an error is over the tolerance, the original system also runs in float64; what its
float32 answers are off by is allowed on top, because the checkpoint's answers are not known any better than that.

That allowance ends at ``MOST``: a system whose float32 answers are further than that from float64 cannot say whether a
graph is right, and any error would pass beside them. 1e-3 is 25 times the worst rounding of random weights above, so no
system worth deploying reaches it, and a tenth of the error of a logit that FP16 is allowed.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
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

Errors = dict[str, float]
MOST = 1e-3  # no relative error above it passes, whatever float32 rounds


@dataclass(frozen=True)
class Parity:
    """Relative errors by case and output.

    An error is max|x - reference| / max|reference|, over all values of one output in one case.

    Attributes:
        errors: the graph's, against PyTorch in float32.
        rounding: of that reference, against float64; only for the cases where an error is over the tolerance.
        batches: by backend, the largest relative difference that the rest of a batch makes to a sample.
    """

    errors: dict[str, Errors]
    rounding: dict[str, Errors]
    tolerance: float
    batches: dict[str, float] = field(default_factory=dict)

    @property
    def worst(self) -> float:
        """The largest error of all; NaN if there is one."""
        return float(np.max([error for outputs in self.errors.values() for error in outputs.values()]))

    def require(self, what: str) -> None:
        """Raise ParityError unless every error is within the tolerance, or within PyTorch's own rounding of it.

        No error above ``MOST`` passes.
        """
        for case, outputs in self.errors.items():
            for output, error in outputs.items():
                own = self.rounding.get(case, {}).get(output, 0.0)
                allowed = min(self.tolerance + own, MOST)
                if not error <= allowed:
                    raise ParityError(
                        f"{what} does not give PyTorch's answers: {output} is off by {error:.1e} (relative) in the "
                        f"case {case!r}, {allowed:.0e} is allowed",
                        f"nothing was written; float32 itself is {own:.1e} off float64 there, so these weights amplify "
                        "rounding too much for any graph to be held to them: the training probably diverged"
                        if self.tolerance + own > MOST
                        else "nothing was written; please report it, with the versions of torch and onnxruntime",
                    )

    def record(self) -> dict[str, Any]:
        """What the manifest keeps."""
        return {
            "metric": "max|graph - reference| / max|reference|, by case and output",
            "reference": f"the unfolded system in PyTorch {version('torch')}, float32",
            "engine": f"onnxruntime {version('onnxruntime')}, {onnxruntime.PROVIDER}",
            "tolerance": self.tolerance,
            "worst": self.worst,
            "cases": self.errors,
            "rounding_of_the_reference": self.rounding,
            "alone_or_in_a_batch": self.batches,
        }


def measure(system: nn.Module, graph: Path, spec: ExportSpec) -> Parity:
    """Compare the graph at ``graph`` with ``system`` (in eval mode) on every case of ``spec``."""
    errors: dict[str, Errors] = {}
    rounding: dict[str, Errors] = {}
    with onnxruntime.load(graph) as backend:
        for case, inputs in spec.cases.items():
            reference = run(system, inputs, spec)
            errors[case] = _errors(backend.run(inputs), reference)
            if not np.max([*errors[case].values()]) <= spec.tolerance:
                rounding[case] = _errors(reference, run(copy.deepcopy(system).double(), inputs, spec))
    return Parity(errors, rounding, spec.tolerance)


def run(system: nn.Module, inputs: Arrays, spec: ExportSpec) -> Arrays:
    """The outputs of ``system`` by name, in the precision of its weights, for the inputs of one case."""
    precision = next(system.parameters()).dtype
    tensors = {tensor.name: torch.from_numpy(inputs[tensor.name]) for tensor in spec.inputs}
    with torch.no_grad():
        outputs = system(**{name: x.to(precision) if x.is_floating_point() else x for name, x in tensors.items()})
    return {tensor.name: output.numpy() for tensor, output in zip(spec.outputs, outputs, strict=True)}


def relative_error(found: NDArray, reference: NDArray) -> float:
    """max|found - reference| / max|reference|: 0 if both are all 0; infinite if shapes differ or it alone is 0."""
    if found.shape != reference.shape:
        return float("inf")
    difference, largest = float(np.abs(found - reference).max()), float(np.abs(reference).max())
    if largest == 0:
        return 0.0 if difference == 0 else float("inf")
    return difference / largest


def _errors(found: Arrays, reference: Arrays) -> Errors:
    return {name: relative_error(found[name], values) for name, values in reference.items()}
