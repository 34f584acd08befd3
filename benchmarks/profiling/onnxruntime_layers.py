"""ONNX Runtime's own profiler, read into layers."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from mmx.benchmarks.profiling.layers import CONSTANT, TOWER_OF_INPUT, Layer, Shape, towers
from mmx.runtime.scratch import Scratch

WARM_UP_RUNS = 2
_SUFFIX = "_kernel_time"
_BYTES = {"float": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1, "int32": 4, "int64": 8, "double": 8}


def profile(path: Path, inputs: dict[str, NDArray[Any]], threads: int, runs: int) -> list[Layer]:
    """Run a graph ``runs`` times (after warming up) and return its layers in the order they ran.

    The tower of a layer is read from the graph as ONNX Runtime optimised it, which needs the onnx package.
    """
    with Scratch("profile") as scratch:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = f"{scratch.path}/profile"
        options.optimized_model_filepath = f"{scratch.path}/optimised.onnx"
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for _ in range(WARM_UP_RUNS + runs):
            session.run(None, inputs)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        tower = _towers(scratch.path / "optimised.onnx")
    return _layers(events, tower, runs)


def _layers(events: list[dict[str, Any]], tower: dict[str, str], runs: int) -> list[Layer]:
    """The median of the last ``runs`` times that each node ran."""
    seen: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX):
            seen[event["name"].removesuffix(_SUFFIX)].append(event)
    layers = []
    for name, times in seen.items():
        last = times[-runs:]
        arguments = last[-1]["args"]
        read, kinds = _shapes(arguments["input_type_shape"])
        written, own = _shapes(arguments["output_type_shape"])
        layers.append(
            Layer(
                name=name,
                kind=arguments["op_name"],
                tower=tower.get(name, CONSTANT),
                seconds=median(event["dur"] for event in last) / 1e6,
                inputs=read,
                outputs=written,
                element_bytes=_BYTES.get((own or kinds or ["float"])[0], 4),
            )
        )
    return layers


def _shapes(described: list[dict[str, list[int]]]) -> tuple[tuple[Shape, ...], list[str]]:
    """Shapes and dtypes of ``[{"float": [1, 64]}, ...]``."""
    pairs = [(tuple(shape), kind) for entry in described for kind, shape in entry.items()]
    return tuple(shape for shape, _ in pairs), [kind for _, kind in pairs]


def _towers(graph: Path) -> dict[str, str]:
    import onnx

    nodes = onnx.load(str(graph), load_external_data=False).graph.node
    return towers([(n.name, n.op_type, list(n.input), list(n.output)) for n in nodes], TOWER_OF_INPUT)
