"""Seeded damage: to bytes anywhere, to values anywhere in JSON, to the parts of an ONNX graph."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import onnx

EXTREME_BYTES = (b"\x00" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\x00\x00\x00", b"\x00" * 64)
EXTREME_VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2**31, 2**63, 10**19, 10**400, -(10**19), 1e308, -1e308, 5e-324, float("nan"),
    float("inf"), "", "x" * 100_000, "../../etc/passwd", "/etc/passwd", "\x1b[31m", "\x00", "\ud800", [], {}, [[]],
)  # fmt: skip
EXTREME_SIZES = (-1, 0, 1, 2, 2**20, 2**31 - 1, 2**40, 2**62)


def mutated_bytes(data: bytes, random: Random, most: int = 6) -> bytes:
    """Up to ``most`` of: a byte changed, extremes written over it, a piece cut out, doubled or moved, the end cut off.

    Half of them near the start, where headers are.
    """
    out = bytearray(data)
    for _ in range(random.randint(1, most)):
        if not out:
            break
        place = random.randrange(min(len(out), 512) if random.random() < 0.5 else len(out))
        piece = out[place : place + random.choice((1, 4, 16, 256))]
        match random.randrange(6):
            case 0:
                out[place] = random.randrange(256)
            case 1:
                extreme = random.choice(EXTREME_BYTES)
                out[place : place + len(extreme)] = extreme
            case 2:
                del out[place : place + len(piece)]
            case 3:
                out[place:place] = piece
            case 4:
                del out[place : place + len(piece)]
                there = random.randrange(len(out) + 1)
                out[there:there] = piece
            case 5 if random.random() < 0.3:
                del out[place:]
    return bytes(out)


def mutated_json(text: bytes, random: Random) -> bytes:
    """One to three values replaced by extremes, removed, renamed, nested deeply, or moved; now and then the text."""
    if random.random() < 0.15:
        return mutated_bytes(text, random)
    value = json.loads(text)
    for _ in range(random.randint(1, 3)):
        parent, key = random.choice(list(_places(value)))
        match random.randrange(8):
            case 0:
                del parent[key]
            case 1 if isinstance(parent, dict):
                parent[random.choice((f"{key}x", "", "a" * 500))] = parent.pop(key)
            case 2:
                parent[key] = [parent[key]]
            case 3:
                other, name = random.choice(list(_places(value)))
                parent[key] = json.loads(json.dumps(other[name]))
            case 4 if isinstance(parent[key], (int, float)):
                parent[key] = type(parent[key])(parent[key] * random.choice((-1, 0, 2, 1000, 2**20)))
            case _:
                parent[key] = random.choice(EXTREME_VALUES)
        if not value:
            break
    out = json.dumps(value).encode("utf-8", "surrogatepass")
    if random.random() < 0.05:
        deep = random.choice((50, 5000, 100_000))
        out = out.replace(b"0", b"[" * deep + b"]" * deep, 1)
    return out


def _places(value: Any) -> Any:
    """Every (container, key) in a JSON value."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def mutated_graph(data: bytes, random: Random) -> bytes:
    """One or two parts of an ONNX graph changed: nodes, attributes, shapes, sizes, names; now and then its bytes."""
    if random.random() < 0.3:
        return mutated_bytes(data, random)
    model = onnx.load_from_string(data)
    graph = model.graph
    for _ in range(random.randint(1, 2)):
        node = random.choice(graph.node)
        match random.randrange(8):
            case 0:
                graph.node.remove(node)
            case 1:
                node.op_type = random.choice(graph.node).op_type
            case 2 if node.input:
                node.input[random.randrange(len(node.input))] = random.choice(random.choice(graph.node).output)
            case 3 if node.attribute:
                attribute = random.choice(node.attribute)
                attribute.i = random.choice(EXTREME_SIZES)
                attribute.f = random.choice((0.0, -1.0, 1e38, float("nan")))
                attribute.ints[:] = [random.choice(EXTREME_SIZES) for _ in attribute.ints]
            case 4 if graph.initializer:
                tensor = random.choice(graph.initializer)
                if tensor.dims:
                    tensor.dims[random.randrange(len(tensor.dims))] = random.choice(EXTREME_SIZES)
            case 5 if graph.initializer:
                tensor = random.choice(graph.initializer)
                tensor.raw_data = mutated_bytes(tensor.raw_data, random)
            case 6:
                shape = random.choice([*graph.input, *graph.output]).type.tensor_type.shape
                if shape.dim:
                    shape.dim[random.randrange(len(shape.dim))].dim_value = random.choice(EXTREME_SIZES)
            case 7:
                node.output[random.randrange(len(node.output))] = random.choice(graph.node).output[0]
    return model.SerializeToString()
