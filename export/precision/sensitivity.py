"""Where rounding hurts: which part of a graph to leave in FP32 when half precision everywhere is not accurate enough.

A deep trunk can amplify early rounding hundreds of times. The graph is cut into parts; each part alone is made half
precision and the error of the logits is measured. Independent roundings add as squares, so those figures say what is
left when the worst parts stay FP32 (for ``ours`` their sum of squares was within 1 % of the error of the whole).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from mmx.export.precision.convert import Converted, convert
from mmx.export.precision.current import Half
from mmx.export.precision.rules import LAST_PRODUCTS, Kept
from mmx.export.precision.samples import Inputs
from mmx.export.precision.search import bisect
from mmx.export.precision.session import cpu_session
from mmx.export.precision.switched import switch, switched
from mmx.export.precision.verification import Exact, outputs_of
from mmx.export.precision.view import GraphView, label

PARTS = 12

Nodes = Mapping[int, Kept]
Say = Callable[[str, float], None]


@dataclass(frozen=True)
class Part:
    """A stretch of the node list, and what its rounding alone does to the logits."""

    nodes: range
    mean_square: float
    largest: float


class SensitivitySearch:
    """Parts of a graph that go back to FP32 one after the other, the one whose rounding hurts most first.

    Attributes:
        kept: the nodes that stay FP32 so far.
        holds: False once the last search reached the top in vain.
    """

    def __init__(self, view: GraphView, half: Half, kept: Nodes, exact: Exact, probe: Inputs, say: Say) -> None:
        """``kept``: by the other rules. ``probe``: inputs to rank the parts on, when that is first asked for."""
        self.kept, self.holds = dict(kept), True
        self._view, self._half, self._exact, self._probe, self._say = view, half, exact, probe, say
        self._left: list[Part] | None = None

    def converted(self) -> Converted:
        """The half-precision graph with what is kept so far."""
        return convert(self._view, self.kept, self._half)

    def run(self, enough: Callable[[onnx.ModelProto], bool]) -> None:
        """Keep the fewest parts in FP32 that make the half-precision graph good ``enough``; all, if none do."""

        def good(parts: int) -> bool:
            return enough(convert(self._view, self._keeping(parts), self._half).model)

        self.holds = good(0)
        if not self.holds:
            found = bisect(good, 1, len(self.left))
            self.holds = found is not None
            self._take(len(self.left) if found is None else found)

    def step(self) -> bool:
        """Keep one more part in FP32. Returns whether there was one."""
        self.holds = bool(self.left)
        self._take(1)
        return self.holds

    @property
    def left(self) -> list[Part]:
        """The parts that are not kept yet, the one whose rounding hurts most first; ranked when first asked for."""
        if self._left is None:
            self._left = self._ranked()
        return self._left

    def _take(self, parts: int) -> None:
        self.kept = self._keeping(parts)
        del self.left[:parts]

    def _keeping(self, parts: int) -> dict[int, Kept]:
        """What stays FP32 with so many more parts."""
        kept = dict(self.kept)
        for part in self.left[:parts] if parts else ():
            reason = f"rounding from {label(self._view.nodes[part.nodes.start])} on moves the logits by up to "
            reason += f"{part.largest:.1e}"
            for index in part.nodes:
                node = self._view.nodes[index]
                is_table = node.op_type == "Gather" and not self._view.computed_inputs(index)  # a weight's rounding
                if index not in kept and self._view.takes_or_makes_float(index) and not is_table:
                    kept[index] = Kept(label(node), node.op_type, "sensitive", reason)
        return kept

    def _ranked(self) -> list[Part]:
        want = self._exact.outputs(self._probe)
        stretches = _stretches(self._view)
        self._say(f"finding where rounding hurts, in {len(stretches)} parts", 0)
        session = cpu_session(switched(self._view, stretches, self.kept, self._half), basic=True)
        parts = []
        for number, stretch in enumerate(stretches):
            self._say(f"finding where rounding hurts, part {number + 1} of {len(stretches)}", number / len(stretches))
            switches = {switch(i): np.array(i == number) for i in range(len(stretches))}
            got = outputs_of(session, self._exact.names, {**self._probe, **switches})
            errors = np.concatenate([(got[name] - want[name]).ravel() for name in self._exact.deciding])
            parts.append(Part(stretch, float(np.square(errors).mean()), float(np.abs(errors).max())))
        return sorted(parts, key=lambda part: -part.mean_square)


def _stretches(view: GraphView) -> list[range]:
    """At most ``PARTS`` stretches of the node list with equally many products in each."""
    products = [i for i, node in enumerate(view.nodes) if node.op_type in LAST_PRODUCTS]
    cuts = [int(share[0]) for share in np.array_split(products, min(PARTS, len(products))) if len(share)]
    ends = [*cuts[1:], len(view.nodes)]
    return [range(0 if number == 0 else first, end) for number, (first, end) in enumerate(zip(cuts, ends, strict=True))]
