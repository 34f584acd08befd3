"""Which operators have a half-precision form at all, by their ONNX schema; what accuracy asks for is in ``rules``.

ModelOpt's AutoCast keeps a list of such operators (Resize, Upsample, NonMaxSuppression, Celu); the schema knows all of
them, input by input: Resize takes its map in half precision, and its scales never.
"""

from __future__ import annotations

from functools import cache

from onnx import NodeProto, defs

HALF = "tensor(float16)"  # also the measure for bfloat16, which schemas allow later than engines do


def fp32_inputs(node: NodeProto, opset: int) -> frozenset[int]:
    """The positions of the inputs that must be float32, whatever the node computes in."""
    schema = _schema(node.op_type, node.domain, opset)
    if schema is None:
        return frozenset(range(len(node.input)))
    last = len(schema.inputs) - 1  # a variadic input is the last one
    return frozenset(i for i in range(len(node.input)) if HALF not in schema.inputs[min(i, last)].types)


def has_half_form(node: NodeProto, opset: int) -> bool:
    """Whether a node's results can be half precision; where that is not known, they cannot."""
    schema = _schema(node.op_type, node.domain, opset)
    if schema is None:
        return False
    last = len(schema.outputs) - 1
    return any(HALF in schema.outputs[min(i, last)].types for i in range(len(node.output)))


@cache
def _schema(kind: str, domain: str, opset: int) -> defs.OpSchema | None:
    """None for an operator of somebody's own."""
    if domain not in ("", "ai.onnx"):
        return None
    try:
        return defs.get_schema(kind, opset, "")
    except defs.SchemaError:
        return None
