"""Which nodes stay FP32 in a half-precision variant, and why.

Everything else becomes half precision: matrix products and convolutions accumulate in FP32 on tensor cores anyway, so
what is at stake is the range and the rounding of the values that are stored between nodes. Softmax becomes half: it
subtracts the row's largest value first and its results lie in 0..1, and TensorRT fuses MatMul-Softmax-MatMul only when
the three agree on one type.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from mmx.export.precision.view import FLOAT, GraphView, label

FP16_MAX = 65504.0
MASK = -3e4  # what a mask of -inf or float32's minimum becomes: finite in FP16, even with a score added to it

NORMALISATIONS = {
    "LayerNormalization",
    "InstanceNormalization",
    "GroupNormalization",
    "RMSNormalization",
    "BatchNormalization",
    "LpNormalization",
    "LRN",
}
REDUCTIONS = {"ReduceSum", "ReduceMean", "ReduceProd", "ReduceLogSum", "ReduceLogSumExp", "CumSum"}
SQUARES = {"ReduceSumSquare", "ReduceL2"}
GROWING = {"Exp", "Log", "Reciprocal", "Softplus", "Log1p", "Expm1"}
STATEFUL = {"LSTM", "GRU", "RNN", "Loop", "Scan", "If"}
CONVERSIONS = {"Cast", "CastLike", "ConstantOfShape", "Range", "OneHot", "EyeLike", "Shape", "Size"}
QUANTISERS = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
# What may stand between a square and the operation that brings its range back.
ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Sqrt", "Reciprocal", "Pow", "Neg", "Abs", "Max", "Min", "Sum"}
BOUNDED = {"Sigmoid", "Tanh", "Erf", "Softmax", "HardSigmoid", "Clip"}
# These only move values: they take the type of what surrounds them.
MOVES = {
    "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Concat", "Split", "Identity", "Dropout",
    "Gather", "GatherElements", "GatherND", "Expand", "Pad", "Where", "Tile", "DepthToSpace", "SpaceToDepth",
}  # fmt: skip
LAST_PRODUCTS = {"MatMul", "Gemm", "Conv", "Einsum"}


@dataclass(frozen=True)
class Kept:
    """A node that stays FP32: its name and operation, the rule that kept it, and what the rule saw."""

    node: str
    op: str
    rule: str
    reason: str


def kept_nodes(view: GraphView, half: str, largest: Mapping[str, float] | None = None) -> dict[int, Kept]:
    """Decide for every node that has float32 values.

    Args:
        view: the FP32 graph.
        half: "fp16" or "bf16"; BF16 has FP32's range, so the rules of range do not apply to it.
        largest: the largest magnitude seen of each value (see ``ranges``), for the rule of measured range.

    Returns:
        The nodes that stay FP32, by index. The first rule that matches gives the reason.
    """
    kept: dict[int, Kept] = {}
    for rule, found in _rules(view, half, largest or {}):
        for index, reason in found:
            node = view.nodes[index]
            if index not in kept and view.takes_or_makes_float(index):
                kept[index] = Kept(label(node), node.op_type, rule, reason)
    _keep_moves_between(view, kept)
    return kept


def count_by_rule(kept: Mapping[int, Kept]) -> dict[str, int]:
    """How many nodes each rule kept, most first; moves and conversions, which compute nothing, are left out."""
    counts = Counter(item.rule for item in kept.values() if item.rule not in ("move", "conversion"))
    return dict(counts.most_common())


Found = Iterator[tuple[int, str]]


def _rules(view: GraphView, half: str, largest: Mapping[str, float]) -> Iterator[tuple[str, Found]]:
    yield "conversion", _of_type(view, CONVERSIONS, "makes or changes a type, computes nothing")
    yield "quantised", _of_type(view, QUANTISERS, "its scale is part of an INT8 recipe")
    yield "logits", _logits(view)
    yield "normalisation", _of_type(view, NORMALISATIONS, "its variance is a mean of squares")
    yield "residual", _residuals(view)
    yield "square", _squares(view)
    yield "reduction", _of_type(view, REDUCTIONS, "a sum of many terms")
    yield "growing", _of_type(view, GROWING, "its result can leave FP16's range for ordinary inputs")
    yield "state", _of_type(view, STATEFUL, "rounding would add up over its steps")
    yield "input", _raw_inputs(view)
    yield "constant", _constants(view)
    if half == "fp16":
        yield "range", _measured(view, largest)


def _of_type(view: GraphView, kinds: set[str], reason: str) -> Found:
    return ((i, reason) for i, node in enumerate(view.nodes) if node.op_type in kinds)


def _logits(view: GraphView) -> Found:
    """From each output back to and including the last product, so that logits come out as FP32 computed them."""
    pending = [view.producer[name] for name in view.outputs if name in view.producer and view.is_float(name)]
    seen: set[int] = set()
    while pending:
        index = pending.pop()
        if index in seen or not view.takes_or_makes_float(index):
            continue
        seen.add(index)
        yield index, "makes the logits"
        if view.nodes[index].op_type not in LAST_PRODUCTS | NORMALISATIONS:
            pending.extend(view.makers(index))


def _residuals(view: GraphView) -> Found:
    """Sums that run through a trunk from block to block, each rounding of which would stay in all that follow."""
    for index, node in enumerate(view.nodes):
        is_sum = node.op_type == "Add" and len(view.computed_inputs(index)) == 2
        if is_sum and any(view.nodes[user].op_type in NORMALISATIONS for user in view.users(index)):
            yield index, "a running sum, which its normalisation takes in FP32 anyway"


def _squares(view: GraphView) -> Found:
    """Squares, the difference that is squared, and what follows until the range is bounded again."""
    for index, node in enumerate(view.nodes):
        if not _is_square(view, index):
            continue
        yield index, "a square passes FP16's 65504 above 255"
        for maker in view.makers(index):
            if view.nodes[maker].op_type in ("Sub", "Add"):
                yield maker, f"feeds the square {label(node)}"
        pending, seen = view.users(index), {index}
        while pending:
            user = pending.pop()
            kind = view.nodes[user].op_type
            if user in seen or kind not in ELEMENTWISE | BOUNDED | REDUCTIONS:
                continue
            seen.add(user)
            yield user, f"follows the square {label(node)}"
            if kind not in BOUNDED:
                pending.extend(view.users(user))


def _is_square(view: GraphView, index: int) -> bool:
    node = view.nodes[index]
    if node.op_type == "Mul":
        return node.input[0] == node.input[1]
    if node.op_type == "Pow":
        exponent = view.array(node.input[1])
        return exponent is None or bool(np.any(exponent > 1))
    return node.op_type in SQUARES


def _raw_inputs(view: GraphView) -> Found:
    """What works on a float input as the caller gives it (pixels 0..255, mel powers), until the first product."""
    pending = [user for name in view.inputs if view.is_float(name) for user in view.consumers[name]]
    seen: set[int] = set()
    while pending:
        index = pending.pop()
        if index in seen or view.nodes[index].op_type not in ELEMENTWISE | MOVES:
            continue
        seen.add(index)
        yield index, "works on an input as it comes"
        pending.extend(view.users(index))


def _constants(view: GraphView) -> Found:
    """Nodes with a constant that half precision cannot hold: too large, or a small scalar that would vanish."""
    for name in view.constants:
        values = view.array(name) if view.is_float(name) else None
        if values is None or not values.size:
            continue
        finite = values[np.isfinite(values)]
        if np.any(np.abs(finite) > FP16_MAX):
            reason = f"its constant {name} reaches {np.abs(finite).max():.3g}"
        elif values.size == 1 and 0 < abs(float(values.reshape(-1)[0])) < 6e-5:
            reason = f"its constant {name} = {float(values.reshape(-1)[0]):.3g} is below FP16's normal numbers"
        else:
            continue
        yield from ((index, reason) for index in view.consumers.get(name, ()))


def is_mask(values: np.ndarray) -> bool:
    """Whether a constant holds "minus a lot" (-inf, -1e9, float32's minimum) and otherwise only zeros."""
    low = values < -FP16_MAX
    return bool(np.any(low)) and bool(np.all(low | (values == 0)))


def with_finite_masks(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """A copy in which mask constants are ``MASK`` instead of less, and the names of those that were changed."""
    copy = GraphView(model).model
    changed = []
    for tensor in copy.graph.initializer:
        values = numpy_helper.to_array(tensor) if tensor.data_type == FLOAT else None
        if values is not None and is_mask(values):
            finite = np.where(values < -FP16_MAX, np.float32(MASK), values)
            tensor.CopyFrom(numpy_helper.from_array(finite, tensor.name))
            changed.append(tensor.name)
    return copy, changed


def _measured(view: GraphView, largest: Mapping[str, float]) -> Found:
    for index, node in enumerate(view.nodes):
        names = [name for name in (*view.computed_inputs(index), *node.output) if name in largest]
        worst = max(names, key=lambda name: largest[name], default=None)
        if worst is not None and not largest[worst] <= FP16_MAX:
            yield index, f"{worst} reached {largest[worst]:.3g} where it was measured"


def _keep_moves_between(view: GraphView, kept: dict[int, Kept]) -> None:
    """A move whose every maker or every user is FP32 stays FP32 too: one cast fewer, the same values."""
    for index, node in enumerate(view.nodes):
        if node.op_type not in MOVES or index in kept or not view.takes_or_makes_float(index):
            continue
        makers = [view.producer[name] for name in view.computed_inputs(index) if name in view.producer]
        users = view.users(index)
        if makers and all(i in kept for i in makers) and all(i in kept for i in users):
            kept[index] = Kept(label(node), node.op_type, "move", "stands between nodes that are FP32")
