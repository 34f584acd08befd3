"""One layer as an engine ran it, and what follows from its shapes: arithmetic, bytes, and the tower it belongs to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Shape = tuple[int, ...]

PRODUCTS = {"MatMul", "FusedMatMul", "Gemm", "FusedGemm", "FullyConnected", "TransposeMatMul"}
CONVOLUTIONS = {"Conv", "FusedConv", "Convolution", "GroupConvolution"}
GROUPED_WEIGHTS_NDIM = 5  # OpenVINO's [groups, out, in, kh, kw]

TOWER_OF_INPUT = {
    "input_ids": "text",
    "attention_mask": "text",
    "faces": "visual",
    "face_index": "visual",
    "pieces": "audio",
    "piece_index": "audio",
    **{name: name.removesuffix("_len") for name in ("text", "text_len", "visual", "visual_len", "audio", "audio_len")},
}
FUSION, CONSTANT = "fusion", "constant"


@dataclass(frozen=True)
class Layer:
    """One layer of an engine's own graph.

    Attributes:
        name, kind: as the engine calls them (a name often lists what was fused). tower: text, visual, audio; fusion
        after they
            meet; constant where it depends on no input.
        seconds: of one run, the median over runs.
        inputs, outputs: shapes. element_bytes: of what it computes in.
    """

    name: str
    kind: str
    tower: str
    seconds: float
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]
    element_bytes: int

    @property
    def flops(self) -> float:
        """Floating-point operations of matrix products and convolutions; 0 for anything else, which moves bytes.

        ONNX Runtime does not list weights that it packed beforehand, so a product is counted from its first input;
        and it pads the channels of convolutions to whole vectors, which counts here as it takes time there.
        OpenVINO's fused attention (Subgraph) is not counted.
        """
        if not self.inputs or not self.outputs:
            return 0.0
        results = math.prod(self.outputs[0])
        if self.kind in PRODUCTS and self.inputs[0]:
            return 2.0 * results * self.inputs[0][-1]
        if self.kind in CONVOLUTIONS and len(self.inputs) > 1:
            weights = self.inputs[1]
            return 2.0 * results * math.prod(weights[2:] if len(weights) == GROUPED_WEIGHTS_NDIM else weights[1:])
        return 0.0

    @property
    def bytes(self) -> float:
        """What it reads and writes at least: every input and output once, and a product's weights."""
        moved = sum(map(math.prod, self.inputs + self.outputs))
        if self.kind in PRODUCTS and len(self.inputs) == 1 and self.inputs[0] and self.outputs:
            moved += self.inputs[0][-1] * self.outputs[0][-1]
        return float(self.element_bytes * moved)


def towers(nodes: Sequence[tuple[str, str, Sequence[str], Sequence[str]]], inputs: Mapping[str, str]) -> dict[str, str]:
    """The tower of each node, from which of the graph's inputs it can see.

    Args:
        nodes: (name, kind, names read, names written), in an order in which everything is written before it is read.
            What is read and written nowhere before is a constant. A ``Shape`` of a tensor does not see its values.
        inputs: tower by graph input.

    Returns:
        By node name: a tower, ``fusion`` for what sees several, ``constant`` for what sees none.
    """
    seen: dict[str, frozenset[str]] = {name: frozenset({tower}) for name, tower in inputs.items()}
    found = {}
    for name, kind, read, written in nodes:
        mine: frozenset[str] = frozenset()
        if kind not in ("Shape", "ShapeOf"):
            mine = mine.union(*(seen.get(each, frozenset()) for each in read))
        seen.update(dict.fromkeys(written, mine))
        found[name] = CONSTANT if not mine else next(iter(mine)) if len(mine) == 1 else FUSION
    return found
