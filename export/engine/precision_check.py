"""Check that an engine has the precision that was asked for: TensorRT has no flag for it, it follows from the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmx.runtime.errors import BadDataError
from mmx.runtime.manifest import TensorSpec

# The type that most weights must have, by precision.
WEIGHT_TYPE = {"fp32": "float", "fp16": "half", "bf16": "bf16", "int8": "int8", "fp8": "fp8"}
ONNX_TO_TRT = {"float32": "float", "float16": "half"}
LEAST_SHARE = 0.5
QUANTISED = {"int8", "fp8"}


def check_precision(precision: str, built: Mapping[str, Any], outputs: Sequence[TensorSpec], graph: str) -> None:
    """Check what the builder counted in the strongly typed network.

    Quantised graphs keep their weights in a wider type before a quantise layer, so there the layers are counted.

    Args:
        built: ``layers``, ``weights`` and ``io`` as ``worker.build`` gives them.
        outputs: of the graph contract: the types that the logits must have.

    Raises:
        BadDataError: what was asked for is not there.
    """
    weights, kind = built["weights"], WEIGHT_TYPE[precision]
    total = sum(weights.values())
    share = weights.get(kind, 0) / total if total else 0.0
    if precision in QUANTISED:
        if not built["layers"].get(f"quantize {kind}"):
            raise BadDataError(f"{graph}: the engine has no {precision} layer", "quantise it first: mmx calibrate")
    elif total and share < LEAST_SHARE:
        raise BadDataError(
            f"{graph}: {share:.0%} of the engine's weights are {kind}, so it is not {precision}",
            "the rest stays FP32 for its range or for accuracy (its record.json counts why): use --bf16, or --fp32",
        )
    found = {tensor["name"]: tensor["dtype"] for tensor in built["io"]}
    for spec in outputs:
        wanted = ONNX_TO_TRT.get(spec.dtype, spec.dtype)
        if found.get(spec.name) != wanted:
            raise BadDataError(f"{graph}: the engine's output {spec.name} is {found.get(spec.name)}, not {wanted}")
