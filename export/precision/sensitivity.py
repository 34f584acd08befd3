"""Where rounding hurts: which part of a graph to leave in FP32 when half precision everywhere is not accurate enough.

A deep trunk can amplify early rounding hundreds of times. The graph is cut into parts; each part alone is made half
precision and the error of the logits is measured. Independent roundings add as squares, so those figures say what is
left when the worst parts stay FP32 (for ``ours`` their sum of squares was within 1 % of the error of the whole).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from mmx.export.precision.convert import convert
from mmx.export.precision.current import Half
from mmx.export.precision.proof import deciding
from mmx.export.precision.rounded import rounded
from mmx.export.precision.rules import LAST_PRODUCTS, Kept
from mmx.export.precision.samples import Inputs
from mmx.export.precision.session import cpu_session
from mmx.export.precision.view import GraphView, label

PARTS = 12
AIM = 0.3  # of the tolerance: a few samples see smaller errors than many

Nodes = Mapping[int, Kept]


def sensitive_nodes(
    view: GraphView,
    half: Half,
    kept: Nodes,
    batches: Sequence[Inputs],
    tolerance: float,
    say: Callable[[str, float], None],
) -> dict[int, Kept]:
    """More nodes to keep FP32, so that the logits come within ``AIM`` of the tolerance; none where they are already.

    Args:
        kept: what the other rules keep.
        batches: inputs to measure on, smallest first; the parts are measured on the middle one.
    """
    middle = batches[len(batches) // 2 :][:1]
    wanted, wanted_middle = _logits(view.model, batches), _logits(view.model, middle)

    def half_logits(nodes: Nodes, some: Sequence[Inputs]) -> NDArray:
        return _logits(rounded(convert(view, nodes, half).model), some)

    aim = AIM * tolerance
    worst = np.abs(half_logits(kept, batches) - wanted).max()
    if worst <= aim:
        return {}
    parts = _parts(view)
    alone = []
    for number, part in enumerate(parts):
        say(f"finding where rounding hurts, part {number + 1} of {len(parts)}", number / len(parts))
        others = {i: Kept("", "", "", "") for i in range(len(view.nodes)) if i not in part}
        alone.append(half_logits({**others, **kept}, middle) - wanted_middle)
    ranked = sorted(range(len(parts)), key=lambda number: -float(np.square(alone[number]).mean()))
    added: dict[int, Kept] = {}
    for number in ranked:
        if worst <= aim:
            break
        reason = f"rounding from {label(view.nodes[parts[number].start])} on moves the logits by up to "
        reason += f"{np.abs(alone[number]).max():.1e}"
        for index in parts[number]:
            if index not in kept and view.takes_or_makes_float(index):
                added[index] = Kept(label(view.nodes[index]), view.nodes[index].op_type, "sensitive", reason)
        worst = np.abs(half_logits({**added, **kept}, batches) - wanted).max()
    return added


def _logits(model: onnx.ModelProto, batches: Sequence[Inputs]) -> NDArray:
    session = cpu_session(model)
    names = deciding([output.name for output in session.get_outputs()])
    return np.concatenate([value.ravel() for batch in batches for value in session.run(names, batch)])


def _parts(view: GraphView) -> list[range]:
    """At most ``PARTS`` stretches of the node list with equally many products in each."""
    products = [i for i, node in enumerate(view.nodes) if node.op_type in LAST_PRODUCTS]
    cuts = [int(share[0]) for share in np.array_split(products, min(PARTS, len(products))) if len(share)]
    ends = [*cuts[1:], len(view.nodes)]
    return [range(0 if number == 0 else first, end) for number, (first, end) in enumerate(zip(cuts, ends, strict=True))]
