"""Which nodes stay FP32 in a half-precision variant, and why: one small class for each rule.

A rule of accuracy can be overruled by the user (``Choices``); that an operator has no half-precision form cannot.
Everything else becomes half precision: matrix products and convolutions accumulate in FP32 on tensor cores anyway, so
what is at stake is the range and the rounding of the values that are stored between nodes. Softmax becomes half: it
subtracts the row's largest value first and its results lie in 0..1, and TensorRT fuses MatMul-Softmax-MatMul only when
the three agree on one type.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import numpy as np
import onnx
from onnx import numpy_helper

from mmx.export.precision.forms import fp32_inputs, has_half_form
from mmx.export.precision.view import FLOAT, GraphView, label
from mmx.runtime.errors import UsageError

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


Found = Iterator[tuple[int, str]]
"""Nodes by their index, each with what the rule saw."""


@dataclass(frozen=True)
class Kept:
    """A node that stays FP32: its name and operation, the rule that kept it, and what the rule saw."""

    node: str
    op: str
    rule: str
    reason: str


@dataclass(frozen=True)
class Choices:
    """What the user wants of single nodes: patterns (as of file names) of nodes' names, or names of operators.

    Attributes:
        keep_fp32: these nodes stay FP32.
        allow_half: no rule of accuracy keeps these; the search for sensitive parts still may.
    """

    keep_fp32: tuple[str, ...] = ()
    allow_half: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data, empty where nothing was chosen."""
        return {name: list(patterns) for name, patterns in asdict(self).items() if patterns}


NO_CHOICES = Choices()


def kept_nodes(
    view: GraphView, half: str, largest: Mapping[str, float] | None = None, choices: Choices = NO_CHOICES
) -> dict[int, Kept]:
    """Decide for every node that has float32 values.

    Args:
        view: the FP32 graph.
        half: "fp16" or "bf16"; BF16 has FP32's range, so the rules of range do not apply to it.
        largest: the largest magnitude seen of each value (see ``ranges``), for the rule of measured range.
        choices: the user's.

    Returns:
        The nodes that stay FP32, by index. The first rule that matches gives the reason.

    Raises:
        UsageError: a pattern of ``choices`` fits no node.
    """
    allowed = {index for index, _ in Named("allow-half", choices.allow_half).find(view)}
    kept: dict[int, Kept] = {}
    accuracy = [*ACCURACY, MeasuredRange(largest)] if half == "fp16" and largest else ACCURACY
    for rule in (*FORMS, Named("keep-fp32", choices.keep_fp32), *accuracy):
        for index, reason in rule.find(view):
            node = view.nodes[index]
            free = index in allowed and rule in accuracy
            if index not in kept and not free and view.takes_or_makes_float(index):
                kept[index] = Kept(label(node), node.op_type, rule.name, reason)
    _keep_moves_between(view, kept)
    return kept


def count_by_rule(kept: Mapping[int, Kept]) -> dict[str, int]:
    """How many nodes each rule kept, most first; moves and conversions, which compute nothing, are left out."""
    counts = Counter(item.rule for item in kept.values() if item.rule not in ("move", "conversion"))
    return dict(counts.most_common())


class Rule:
    """One reason for which nodes stay FP32."""

    name: str

    def find(self, view: GraphView) -> Found:
        """The nodes that the rule keeps; a node may come more than once."""
        raise NotImplementedError


@dataclass(frozen=True)
class OfType(Rule):
    """Every node of some operators."""

    name: str
    kinds: frozenset[str]
    reason: str

    def find(self, view: GraphView) -> Found:
        """See the class."""
        return ((i, self.reason) for i, node in enumerate(view.nodes) if node.op_type in self.kinds)


class NoHalfForm(Rule):
    """Operators that ONNX defines for float32 alone, and those that it does not define."""

    name = "form"

    def find(self, view: GraphView) -> Found:
        """See the class."""
        for index, node in enumerate(view.nodes):
            made = any(view.is_float(name) for name in node.output)
            if made and not has_half_form(node, view.opset):
                yield index, f"{node.op_type} has no half-precision form"


class FeedsFp32(Rule):
    """The arithmetic behind an input that is FP32 by its definition: a rounded scale would be another scale."""

    name = "form"

    def find(self, view: GraphView) -> Found:
        """See the class."""
        for node in view.nodes:
            full = fp32_inputs(node, view.opset)
            pending = [view.producer[name] for i, name in enumerate(node.input) if i in full and name in view.producer]
            seen: set[int] = set()
            while pending:
                maker = pending.pop()
                if maker in seen or view.nodes[maker].op_type not in ELEMENTWISE | MOVES:
                    continue
                seen.add(maker)
                yield maker, f"feeds {label(node)}, which takes it in FP32"
                pending.extend(view.makers(maker))


@dataclass(frozen=True)
class Named(Rule):
    """Nodes that the user names; ``name`` is the option's."""

    name: str
    patterns: Sequence[str]

    def find(self, view: GraphView) -> Found:
        """See the class. Raises UsageError where a pattern fits no node."""
        for pattern in self.patterns:
            found = [i for i, node in enumerate(view.nodes) if fits(pattern, label(node), node.op_type)]
            if not found:
                raise UsageError(
                    f"--{self.name} {pattern!r} fits no node of the graph", "mmx build-engine -v lists names"
                )
            yield from ((index, f"--{self.name} {pattern}") for index in found)


def fits(pattern: str, name: str, kind: str) -> bool:
    """Whether a user's pattern means a node: its name as file names are matched, or its operator."""
    return kind == pattern or fnmatchcase(name, pattern)


class Logits(Rule):
    """From each output back to and including the last product, so that logits come out as FP32 computed them."""

    name = "logits"

    def find(self, view: GraphView) -> Found:
        """See the class."""
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


class Residual(Rule):
    """Sums that run through a trunk from block to block, each rounding of which would stay in all that follow."""

    name = "residual"

    def find(self, view: GraphView) -> Found:
        """See the class."""
        for index, node in enumerate(view.nodes):
            is_sum = node.op_type == "Add" and len(view.computed_inputs(index)) == 2
            if is_sum and any(view.nodes[user].op_type in NORMALISATIONS for user in view.users(index)):
                yield index, "a running sum, which its normalisation takes in FP32 anyway"


class Square(Rule):
    """Squares, the difference that is squared, and what follows until the range is bounded again."""

    name = "square"

    def find(self, view: GraphView) -> Found:
        """See the class."""
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


class RawInput(Rule):
    """What works on a float input as the caller gives it (pixels 0..255, mel powers), until the first product."""

    name = "input"

    def find(self, view: GraphView) -> Found:
        """See the class."""
        pending = [user for name in view.inputs if view.is_float(name) for user in view.consumers[name]]
        seen: set[int] = set()
        while pending:
            index = pending.pop()
            if index in seen or view.nodes[index].op_type not in ELEMENTWISE | MOVES:
                continue
            seen.add(index)
            yield index, "works on an input as it comes"
            pending.extend(view.users(index))


class Constant(Rule):
    """Nodes with a constant that half precision cannot hold: too large, or a small scalar that would vanish."""

    name = "constant"

    def find(self, view: GraphView) -> Found:
        """See the class."""
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


@dataclass(frozen=True)
class MeasuredRange(Rule):
    """Nodes whose values passed FP16's largest number where they were measured."""

    largest: Mapping[str, float]
    name: ClassVar[str] = "range"  # type: ignore[misc]

    def find(self, view: GraphView) -> Found:
        """See the class."""
        largest = self.largest
        for index, node in enumerate(view.nodes):
            names = [name for name in (*view.computed_inputs(index), *node.output) if name in largest]
            worst = max(names, key=lambda name: largest[name], default=None)
            if worst is not None and not largest[worst] <= FP16_MAX:
                yield index, f"{worst} reached {largest[worst]:.3g} where it was measured"


FORMS: tuple[Rule, ...] = (
    OfType("conversion", frozenset(CONVERSIONS), "makes or changes a type, computes nothing"),
    OfType("quantised", frozenset(QUANTISERS), "its scale is part of an INT8 recipe"),
    NoHalfForm(),
    FeedsFp32(),
)
"""What is no question of accuracy."""

ACCURACY: tuple[Rule, ...] = (
    Logits(),
    OfType("normalisation", frozenset(NORMALISATIONS), "its variance is a mean of squares"),
    Residual(),
    Square(),
    OfType("reduction", frozenset(REDUCTIONS), "a sum of many terms"),
    OfType("growing", frozenset(GROWING), "its result can leave FP16's range for ordinary inputs"),
    OfType("state", frozenset(STATEFUL), "rounding would add up over its steps"),
    RawInput(),
    Constant(),
)


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


def _keep_moves_between(view: GraphView, kept: dict[int, Kept]) -> None:
    """A move whose every maker or every user is FP32 stays FP32 too: one cast fewer, the same values."""
    for index, node in enumerate(view.nodes):
        if node.op_type not in MOVES or index in kept or not view.takes_or_makes_float(index):
            continue
        makers = [view.producer[name] for name in view.computed_inputs(index) if name in view.producer]
        users = view.users(index)
        if makers and all(i in kept for i in makers) and all(i in kept for i in users):
            kept[index] = Kept(label(node), node.op_type, "move", "stands between nodes that are FP32")
