"""Whether a precision variant is the one that would be made now. Needs neither onnx nor an engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from mmx.runtime.bundle import Bundle
from mmx.runtime.engines import ENGINE_GRAPHS

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")
RECIPE = 3  # raised whenever rules or conversion change, so that older variants are made again
QUANTISED_RECIPE = 4  # the same for what is around the quantised layers of INT8 and FP8 engines
TOLERANCE = {"fp16": 1e-2, "bf16": 1e-1}  # largest accepted error of a logit
FP8_TOLERANCE = 1.0  # three bits of mantissa: what it costs is printed, and counted in label flips
FLIPS = {"fp16": 0}  # label flips that are accepted before more of a graph is kept in FP32; elsewhere any number

Half = Literal["fp16", "bf16"]


def is_current(bundle: Bundle, half: Half, tolerance: float, max_flips: int | None = None) -> bool:
    """Whether the bundle's variant was made of its present FP32 graph by this recipe, and is as accurate as asked."""
    spec = bundle.manifest.graphs.get(half)
    if spec is None or (max_flips is not None and int(spec.parity.get("label_flips", 0)) > max_flips):
        return False
    return meets(spec.parity, bundle.manifest.files[bundle.manifest.graphs["fp32"].file], tolerance)


def quantised_is_current(bundle: Bundle, precision: str, max_flips: int | None) -> bool:
    """Whether the graph for INT8 or FP8 engines was made by this recipe, of the bundle's present INT8 graph."""
    name, graphs = ENGINE_GRAPHS[precision], bundle.manifest.graphs
    made = graphs[name].parity if {name, "int8"} <= graphs.keys() else {}
    if max_flips is not None and int(made.get("label_flips", 0)) > max_flips:
        return False
    return made.get("recipe") == QUANTISED_RECIPE and made.get("ranges") == ranges_of(bundle)


def ranges_of(bundle: Bundle) -> str:
    """The hash of the INT8 graph, where the graphs for INT8 and FP8 engines have their ranges from."""
    return bundle.manifest.files[bundle.manifest.graphs["int8"].file]


def meets(parity: Mapping[str, Any], source: str, tolerance: float) -> bool:
    """Whether a variant's record is of the FP32 graph with the hash ``source``, of this recipe, and accurate enough."""
    known = parity.get("recipe") == RECIPE and parity.get("source") == source
    return known and float(parity.get("max_error", float("inf"))) <= tolerance


def sentence(parity: Mapping[str, Any]) -> str:
    """A variant's accuracy record (``proof.Accuracy`` as plain data) in words."""
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
