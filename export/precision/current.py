"""Whether a precision variant is the one that would be made now. Needs neither onnx nor an engine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from mmx.runtime.bundle import Bundle, Graph
from mmx.runtime.engines import ENGINE_GRAPHS

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")
RECIPE = 4  # raised whenever rules or conversion change, so that older variants are made again
QUANTISED_RECIPE = 4  # the same for what is around the quantised layers of INT8 and FP8 engines
TOLERANCE = {"fp16": 1e-2, "bf16": 1e-1}  # largest accepted error of a logit
FP8_TOLERANCE = 1.0  # three bits of mantissa: what it costs is printed, and counted in label flips
FLIPS = {"fp16": 0}  # label flips that are accepted before more of a graph is kept in FP32; elsewhere any number

Half = Literal["fp16", "bf16"]


def is_current(
    bundle: Bundle, half: Half, tolerance: float, max_flips: int | None = None, choices: Mapping[str, Any] | None = None
) -> bool:
    """Whether the bundle has the variant, made by this recipe, and as accurate as asked.

    ``choices``: see ``rules.Choices.to_dict``; None: those of the variant, whatever they are.
    """
    graph = bundle.described(half)
    if graph is None or graph.variant is None:
        return False
    same = choices is None or graph.variant.record.recipe.get("choices", {}) == choices
    return same and meets(graph, RECIPE, tolerance, max_flips)


def quantised_is_current(bundle: Bundle, precision: str, max_flips: int | None) -> bool:
    """Whether the bundle has the graph for INT8 or FP8 engines, made by this recipe of its present INT8 graph."""
    graph = bundle.described(ENGINE_GRAPHS[precision])  # None also where it was made from another INT8 graph
    return graph is not None and meets(graph, QUANTISED_RECIPE, math.inf, max_flips)


def meets(graph: Graph, rules: int, tolerance: float, max_flips: int | None = None) -> bool:
    """Whether a variant was made by these rules, and was found accurate enough and to flip few enough labels."""
    if graph.variant is None or graph.variant.record.recipe.get("rules") != rules:
        return False
    error, flips = (graph.spec.parity.get(name) for name in ("max_error", "label_flips"))
    if not isinstance(error, (int, float)) or error > tolerance:
        return False
    return max_flips is None or (isinstance(flips, int) and flips <= max_flips)


def sentence(parity: Mapping[str, Any]) -> str:
    """A variant's accuracy record (``verification.Accuracy`` as plain data) in words."""
    flips, what = parity["label_flips"], "logits" if "logits" in parity["outputs"] else "outputs"
    said = f"{what} within {parity['max_error']:.1e} of FP32 (mean {parity['mean_error']:.1e})"
    said += f" on {parity['samples']} samples"
    if parity["decisions"]:
        said += f", {flips or 'no'} label flip{'s' if flips > 1 else ''} in {parity['decisions']} decisions"
    if flips:
        said += f" (the worst {parity['nearest_flip']:.1e} from its threshold)"
    if parity["ties"]:
        said += f", {parity['ties']} too close to call (within 1e-4)"
    finite = [scale for scale, error in parity["scales"].items() if error is not None]
    return said + (f"; finite with inputs scaled by {' and '.join(finite)}" if finite else "")
