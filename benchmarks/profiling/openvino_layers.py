"""OpenVINO's per-layer counters, read into layers."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from numpy.typing import NDArray

from mmx.benchmarks.profiling.layers import CONSTANT, TOWER_OF_INPUT, Layer, Shape, towers
from mmx.runtime.backends.openvino import DEVICE, HINTS
from mmx.runtime.errors import missing_extra

WARM_UP_RUNS = 2
_BYTES = {"f32": 4, "bf16": 2, "f16": 2, "i8": 1, "u8": 1, "i32": 4, "i64": 8, "boolean": 1}


def profile(path: Path, inputs: dict[str, NDArray[Any]], precision: str, threads: int, runs: int) -> list[Layer]:
    """Run a graph ``runs`` times (after warming up) and return its layers in the order they ran.

    The graph is given the inputs' shapes first, so that every layer's shape is known.

    Raises:
        EnvironmentMissing: OpenVINO is not installed.
    """
    try:
        import openvino
    except ModuleNotFoundError as e:
        raise missing_extra("OpenVINO", "openvino") from e
    core = openvino.Core()
    model = core.read_model(path)
    model.reshape({name: list(array.shape) for name, array in inputs.items()})
    settings = {
        "PERF_COUNT": True,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": HINTS[precision],
    }
    compiled = core.compile_model(model, DEVICE, settings)
    request = compiled.create_infer_request()
    seconds: dict[str, list[float]] = defaultdict(list)
    for turn in range(WARM_UP_RUNS + runs):
        request.infer(inputs)
        if turn >= WARM_UP_RUNS:
            for layer in request.get_profiling_info():
                seconds[layer.node_name].append(layer.real_time.total_seconds())
    return _layers(compiled.get_runtime_model().get_ordered_ops(), {name: median(s) for name, s in seconds.items()})


def _layers(ops: list[Any], seconds: dict[str, float]) -> list[Layer]:
    tower = _towers(ops)
    layers = []
    for op in ops:
        name = op.friendly_name
        if spent := seconds.get(name, 0.0):
            info = op.get_rt_info()
            layers.append(
                Layer(
                    name=name,
                    kind=_text(info, "layerType"),
                    tower=tower.get(name, CONSTANT),
                    seconds=spent,
                    inputs=tuple(_shape(port) for port in op.inputs()),
                    outputs=tuple(_shape(port) for port in op.outputs()),
                    element_bytes=_BYTES.get(_text(info, "runtimePrecision"), 4),
                )
            )
    return layers


def _towers(ops: list[Any]) -> dict[str, str]:
    """Edges are named after the port they leave; parameters have the graph's input names."""
    nodes = []
    for op in ops:
        name = op.friendly_name
        read = [f"{port.get_node().friendly_name}#{port.get_index()}" for port in op.input_values()]
        if name in TOWER_OF_INPUT:
            read = [name]
        written = [f"{name}#{port}" for port in range(len(op.outputs()))]
        nodes.append((name, _text(op.get_rt_info(), "layerType"), read, written))
    return towers(nodes, TOWER_OF_INPUT)


def _text(info: Any, key: str) -> str:
    return str(info[key].astype(str)) if key in info else ""


def _shape(port: Any) -> Shape:
    shape = port.get_partial_shape()
    return tuple(shape.get_shape()) if shape.is_static else ()
