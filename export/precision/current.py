"""Whether a bundle's precision variant is the one that would be made now. Needs neither onnx nor an engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from mmx.runtime.bundle import Bundle

RECIPE = 1  # raised whenever rules or conversion change, so that older variants are made again
TOLERANCE = {"fp16": 1e-2, "bf16": 1e-1}  # largest accepted error of a logit

Half = Literal["fp16", "bf16"]


def is_current(bundle: Bundle, half: Half, tolerance: float) -> bool:
    """Whether the bundle's variant was made of its present FP32 graph by this recipe, and meets the tolerance."""
    spec = bundle.manifest.graphs.get(half)
    source = bundle.manifest.files[bundle.manifest.graphs["fp32"].file]
    return (
        spec is not None
        and spec.parity.get("recipe") == RECIPE
        and spec.parity.get("source") == source
        and float(spec.parity.get("max_error", float("inf"))) <= tolerance
    )


def sentence(parity: Mapping[str, Any]) -> str:
    """A variant's accuracy record (``proof.Accuracy`` as plain data) in words."""
    flips = parity["label_flips"]
    said = (
        f"logits within {parity['max_error']:.1e} of FP32 (mean {parity['mean_error']:.1e}) on {parity['samples']} "
        f"samples, {flips or 'no'} label flip{'s' if flips > 1 else ''} in {parity['decisions']} decisions"
    )
    if flips:
        said += f" (the worst {parity['nearest_flip']:.1e} from its threshold)"
    if parity["ties"]:
        said += f", {parity['ties']} too close to call (within 1e-4)"
    finite = [scale for scale, error in parity["scales"].items() if error is not None]
    return said + (f"; finite with inputs scaled by {' and '.join(finite)}" if finite else "")
