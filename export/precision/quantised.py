"""The graphs of INT8 and FP8 engines: quantised layers, and around them FP16 but for what FP16 engines keep FP32.

On a CPU FP32 around the quantised layers is as fast; on a GPU it is not. Values are quantised in the type in which they
are made, and come back in the type of who takes them, so that no cast stands between a quantised layer and its pair.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence

import onnx
from onnx import NodeProto, TensorProto

from mmx.export.precision.convert import Converted, convert
from mmx.export.precision.current import (
    FP8_TOLERANCE,
    QUANTISED_RECIPE,
    TOLERANCE,
    is_current,
    quantised_is_current,
)
from mmx.export.precision.fp8 import to_fp8
from mmx.export.precision.rules import QUANTISERS, with_finite_masks
from mmx.export.precision.samples import Inputs, utterances
from mmx.export.precision.variant import BATCH, add_graph, ensure_variant, until
from mmx.export.precision.verification import Accuracy, Exact, measure, require, require_labels
from mmx.export.precision.view import GraphView, element_types, label, read_graph
from mmx.export.variant_writer import made_now, new_variant
from mmx.runtime.bundle import Bundle
from mmx.runtime.engines import ENGINE_GRAPHS
from mmx.runtime.errors import UsageError

FLOAT16 = TensorProto.FLOAT16
SMALLEST = 2.0**-14  # of FP16's normal numbers: a finer scale of a whole tensor would be rounded too coarsely
SLACK = 1.5  # times INT8's own error: FP16 moves values over INT8's steps, either way

Report = Callable[[str, float], None]


def ensure_quantised(
    bundle: Bundle,
    precision: str,
    *,
    samples: int,
    seconds: float,
    tolerance: float | None,
    max_flips: int | None = None,
    report: Report,
) -> tuple[Bundle, bool]:
    """Give the bundle the graph of its INT8 or FP8 engines, unless it has it. Makes the FP16 graph too, if need be.

    Args:
        precision: int8 | fp8. samples, seconds, max_flips: see ``variant.ensure_variant``.
        tolerance: largest accepted error of a logit against FP32. None: for FP8 ``FP8_TOLERANCE``; for INT8, ``SLACK``
            times the error that its graph has in FP32, and FP16's tolerance.

    Returns:
        The bundle as it then is, and whether the graph was made now.

    Raises:
        UsageError: the bundle has no INT8 graph.
        ParityError: the graph, or the FP16 one, is not accurate enough.
    """
    if quantised_is_current(bundle, precision, max_flips):
        return bundle, False
    if (int8 := bundle.described("int8")) is None:
        raise UsageError(
            f"{bundle.path} has no INT8 graph, whose layers and measured ranges {precision.upper()} engines take over",
            f"mmx calibrate {bundle.path} --data DIR --any-speed makes one",
        )
    if not is_current(bundle, "fp16", math.inf):
        bundle, _ = ensure_variant(bundle, "fp16", samples=samples, seconds=seconds, report=report)
    started = time.monotonic()
    with new_variant(bundle) as folder:
        manifest, what = bundle.manifest, f"{bundle.path} in {precision}"
        int8 = bundle.graph("int8")
        fp32, quantised = read_graph(bundle.graph().path), read_graph(int8.path)
        if precision == "fp8":
            quantised = to_fp8(quantised, fp32)
        converted = in_half(quantised, read_graph(bundle.graph("fp16").path))
        exact = Exact(fp32, manifest.thresholds)

        def compared(graph: onnx.ModelProto, loud: Sequence[Inputs], accepted: float) -> Accuracy:
            def progress(done: int) -> None:
                report(f"comparing with FP32, sample {done}", done / samples)

            batches = until(utterances(manifest, samples, BATCH), seconds)
            return measure(exact, graph, batches, loud, tolerance=accepted, basic=True, progress=progress)[0]

        limit, own = FP8_TOLERANCE if tolerance is None else tolerance, None
        if precision == "int8":
            own = compared(quantised, [], math.inf).max_error
            limit = SLACK * own + TOLERANCE["fp16"] if tolerance is None else tolerance
        accuracy = compared(converted.model, [next(utterances(manifest, 1, 1, seed=1))], limit)
        require(accuracy, what, "use --fp16; --tolerance sets what is accepted")
        require_labels(accuracy, what, max_flips)
        verification = {
            **accuracy.to_dict(),
            "quantised": len(_weights(quantised)),
            "error_in_fp32": own,
            "half_nodes": converted.half_nodes,
            "fp32_nodes": converted.fp32_nodes,
            "casts": converted.casts,
        }
        add_graph(
            folder,
            bundle,
            ENGINE_GRAPHS[precision],
            converted.model,
            made_from={"int8": int8.sha256},
            recipe={"rules": QUANTISED_RECIPE, "samples": samples, "seconds": seconds, "tolerance": limit},
            verification=verification,
            **made_now(time.monotonic() - started),
        )
    return bundle.refreshed(), True


def in_half(quantised: onnx.ModelProto, fp16: onnx.ModelProto) -> Converted:
    """Make everything FP16 that is FP16 in the FP16 graph, and so the quantised layers' results.

    Args:
        quantised: an INT8 or FP8 graph with the node names of the FP32 graph that both were made from; not changed.
        fp16: the FP16 graph. Its reasons for FP32 are copied.
    """
    finite, _ = with_finite_masks(quantised)
    view = GraphView(finite)
    types = element_types(fp16)
    halves = {
        label(node) for node in fp16.graph.node if any(types.get(x) == FLOAT16 for x in (*node.input, *node.output))
    }
    reasons = {label(node): node.doc_string for node in fp16.graph.node}
    kept = set()
    for index, node in enumerate(view.nodes):
        if node.op_type in QUANTISERS:
            continue
        node.doc_string = reasons.get(label(node), "")
        if label(node) not in halves and view.takes_or_makes_float(index):
            kept.add(index)
    for index, node in enumerate(view.nodes):
        if node.op_type in QUANTISERS and (_is_fine(view, node) or _stays_float(view, node, index, kept)):
            kept.add(index)
    return convert(view, kept, "fp16")


def _stays_float(view: GraphView, node: NodeProto, index: int, kept: Collection[int]) -> bool:
    """Whether a pair's end is where FP32 is: its maker for the quantising one, all of its takers for the other."""
    if node.op_type == "QuantizeLinear":
        maker = view.producer.get(node.input[0])
        return maker is None or maker in kept
    return all(user in kept for user in view.users(index))


def _is_fine(view: GraphView, node: NodeProto) -> bool:
    """Whether a whole value's scale is too fine for FP16."""
    scale = view.array(node.input[1])
    return scale is not None and scale.size == 1 and float(scale.reshape(-1)[0]) < SMALLEST


def _weights(model: onnx.ModelProto) -> list[str]:
    """The quantised constants."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return [
        node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in stored
    ]
