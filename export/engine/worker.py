"""The process that runs TensorRT's builder: ``python -m mmx.export.engine.worker``.

It reads one job as a line of JSON on standard input and writes events as lines of JSON on standard output. It ends
itself when its standard input closes, so that nothing is left building when the parent dies.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

SEND_EVERY_S = 0.1


class Events:
    """Writes events to the parent; progress at most every ``SEND_EVERY_S``."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._last = stream, 0.0
        self._lock = threading.Lock()

    def send(self, event: str, **fields: Any) -> None:
        """Write one event."""
        with self._lock:
            self._stream.write(json.dumps({"event": event, **fields}) + "\n")
            self._stream.flush()

    def progress(self, phase: str, done: int, steps: int) -> None:
        """Write a progress event, unless one was written just now."""
        now = time.monotonic()
        if now - self._last >= SEND_EVERY_S:
            self._last = now
            self.send("progress", phase=phase, done=done, steps=steps)


class BuildFailed(Exception):
    """TensorRT gave up; the arguments are what it logged."""


class Unwritable(Exception):
    """The engine could not be written; the argument is the system's error number."""


def build(job: dict[str, Any], events: Events) -> dict[str, Any]:
    """Parse, set up and build; the engine goes to ``job["out"]``. Returns what the record needs to know."""
    trt: Any = import_module(job["module"])
    complaints: list[str] = []
    builder = trt.Builder(_logger(trt, complaints, events))
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, builder.logger)
    if not parser.parse_from_file(job["graph"]):
        raise BuildFailed(*(_parser_error(parser.get_error(i)) for i in range(parser.num_errors)))
    config = builder.create_builder_config()
    config.progress_monitor = _monitor(trt, events)
    if job["workspace"]:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job["workspace"])
    if hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)  # it is on by default, and FP32 is asked to be FP32
    if job["level"] is not None:
        config.builder_optimization_level = job["level"]
    for position, capability in enumerate(job["capabilities"]):
        config.num_compute_capabilities = len(job["capabilities"])
        wanted = getattr(trt.ComputeCapability, "SM" + capability.replace(".", ""), None)
        if wanted is None or not config.set_compute_capability(wanted, position):
            raise BuildFailed(f"this TensorRT does not build for compute capability {capability}")
    for profile in job["profiles"]:
        shapes = builder.create_optimization_profile()
        for name, sizes in profile["shapes"].items():
            shapes.set_shape(name, sizes["min"], sizes["opt"], sizes["max"])
        if config.add_optimization_profile(shapes) < 0:
            raise BuildFailed(f"profile {profile['name']} was not accepted", *complaints)
    layers, weights = census(trt, network)
    started = time.monotonic()
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise BuildFailed(*complaints)
    try:
        Path(job["out"]).write_bytes(engine)
    except OSError as e:
        raise Unwritable(e.errno) from e
    return {
        "layers": layers,
        "weights": weights,
        "io": [_tensor(get(i)) for get, n in _bindings(network) for i in range(n)],
        "seconds": round(time.monotonic() - started, 1),
        "version": trt.__version__,
    }


def census(trt: Any, network: Any) -> tuple[dict[str, int], dict[str, int]]:
    """Layers by type and output type, and weights by type, of a strongly typed network."""
    layers: Counter[str] = Counter()
    weights: Counter[str] = Counter()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.num_outputs:
            layers[f"{layer.type.name.lower()} {layer.get_output(0).dtype.name.lower()}"] += 1
        if layer.type == trt.LayerType.CONSTANT:
            weights[layer.get_output(0).dtype.name.lower()] += _volume(layer.get_output(0).shape)
        elif layer.type in (trt.LayerType.CONVOLUTION, trt.LayerType.DECONVOLUTION):
            plain = layer.type == trt.LayerType.CONVOLUTION
            layer.__class__ = trt.IConvolutionLayer if plain else trt.IDeconvolutionLayer
            if kernel := getattr(layer.kernel, "size", 0):
                weights[trt_name(layer.kernel.dtype)] += kernel
    weights = Counter({name: n for name, n in weights.items() if not name.startswith(("int32", "int64", "bool"))})
    return dict(layers.most_common()), dict(weights.most_common())


def trt_name(dtype: Any) -> str:
    """numpy's name of a type as TensorRT calls it."""
    return {"float32": "float", "float16": "half", "bfloat16": "bf16"}.get(str(dtype), str(dtype))


def _volume(shape: Any) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def _bindings(network: Any) -> list[tuple[Any, int]]:
    return [(network.get_input, network.num_inputs), (network.get_output, network.num_outputs)]


def _tensor(tensor: Any) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": tensor.dtype.name.lower(), "shape": list(tensor.shape)}


def _parser_error(error: Any) -> str:
    where = f"{error.node_operator()} {error.node_name()}: " if error.node_name() else ""
    return where + str(error.desc())


def _logger(trt: Any, complaints: list[str], events: Events) -> Any:
    class Collector(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                complaints.append(message)
            elif severity == trt.ILogger.WARNING:
                events.send("warning", text=message)

    return Collector()


def _monitor(trt: Any, events: Events) -> Any:
    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.steps[phase] = steps
            events.progress(phase, 0, steps)

        def step_complete(self, phase: str, step: int) -> bool:
            events.progress(phase, step + 1, self.steps.get(phase, 0))
            return True

        def phase_finish(self, phase: str) -> None:
            self.steps.pop(phase, None)

    return Monitor()


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def main() -> None:
    """Run one job."""
    # The library prints to standard output by itself; the parent's lines go through a descriptor of their own.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    events = Events(channel)
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        events.send("done", **build(job, events))
    except BuildFailed as e:
        events.send("failed", complaints=[str(line) for line in e.args])
    except Unwritable as e:
        events.send("unwritable", errno=e.args[0])


if __name__ == "__main__":
    main()
