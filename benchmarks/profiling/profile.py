"""``mmx profile``: where a bundle spends its time on a backend, layer by layer, and how near the machine's limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmx.benchmarks.profiling.layers import CONSTANT, Layer
from mmx.benchmarks.profiling.roofline import Roof, measure
from mmx.evaluation.environment import Environment, describe
from mmx.evaluation.statistics import Latency, latency
from mmx.evaluation.timing import clock
from mmx.runtime.backends import open_backend
from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import UsageError
from mmx.runtime.to_json import to_json

SCHEMA_VERSION = 1
ENGINES = ("onnxruntime", "openvino")  # those with a profiler that is read here
TOWERS = ("text", "visual", "audio")
PARTS = (*TOWERS, "fusion")


@dataclass(frozen=True)
class Part:
    """A tower (its sequence encoder included) or the fusion: its time, arithmetic, rate and what limits most of it.

    ``bound_share``: share of the part's time in layers limited by compute, memory and overhead.
    """

    seconds: float
    gflop: float
    gflops: float
    bound_share: dict[str, float]

    @property
    def bound(self) -> str:
        """What limits most of its time."""
        return max(self.bound_share, key=lambda kind: self.bound_share[kind])


@dataclass(frozen=True)
class Profile:
    """A bundle's time on one backend.

    Attributes:
        sizes: tokens, faces and pieces of the utterance. wall: milliseconds of runs without the profiler.
        parts: by tower. layers: in the order they ran.
    """

    system: str
    backend: str
    precision: str
    threads: int
    sizes: dict[str, int]
    wall: Latency
    roof: Roof
    parts: dict[str, Part]
    layers: tuple[Layer, ...]
    environment: Environment

    @property
    def layer_seconds(self) -> float:
        """Seconds in all layers together."""
        return sum(layer.seconds for layer in self.layers)

    def top(self, count: int) -> list[Layer]:
        """The layers that take longest."""
        return sorted(self.layers, key=lambda layer: -layer.seconds)[:count]

    def to_json(self) -> str:
        """Everything, with each layer's arithmetic and limit, as indented JSON."""
        data = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        for entry, layer in zip(data["layers"], self.layers, strict=True):
            entry.update(flops=layer.flops, bytes=layer.bytes, bound=self.roof.bound(layer))
        return to_json(data, indent=1) + "\n"


def profile(
    bundle: Bundle, inputs: dict[str, NDArray[Any]], *, backend: str, precision: str, threads: int, runs: int
) -> Profile:
    """Time a bundle's graph with and without the engine's profiler.

    Raises:
        UsageError: there is no such graph, or its layers cannot be timed on this backend.
        MmxError: this backend or precision can't be had here.
    """
    stored = "fp32" if precision == "bf16" else precision  # bf16 is the fp32 graph, computed so
    graph = bundle.graph(stored)
    path = graph.path
    wanted = {tensor.name: inputs[tensor.name] for tensor in graph.spec.inputs}
    with open_backend(bundle, backend, precision, threads) as engine:
        name = engine.name
        if name not in ENGINES:
            raise UsageError(f"layers can't be timed on {name}", "--backend onnxruntime or openvino")
        engine.run(wanted)
        wall = [clock(lambda: engine.run(wanted)) for _ in range(runs + 1)][1:]
    if name == "openvino":
        from mmx.benchmarks.profiling import openvino_layers

        layers = openvino_layers.profile(path, wanted, precision, threads, runs)
    else:
        from mmx.benchmarks.profiling import onnxruntime_layers

        layers = onnxruntime_layers.profile(path, wanted, threads, runs)
    roof = measure(name, "bf16" if precision == "bf16" else "fp32", threads).raised(layers)
    sizes = {"tokens": wanted["input_ids"].shape[1]} if "input_ids" in wanted else {}
    sizes |= {tower: len(wanted[tower]) for tower in ("faces", "pieces") if tower in wanted}
    sizes |= {f"rows of {name}": wanted[name].shape[1] for name in TOWERS if name in wanted}
    return Profile(
        system=bundle.manifest.system,
        backend=name,
        precision=precision,
        threads=threads,
        sizes=sizes,
        wall=latency(np.array(wall)),
        roof=roof,
        parts=_parts(layers, roof),
        layers=tuple(layers),
        environment=describe(),
    )


def _parts(layers: Sequence[Layer], roof: Roof) -> dict[str, Part]:
    parts = {}
    for name in (*PARTS, CONSTANT):
        mine = [layer for layer in layers if layer.tower == name]
        seconds = sum(layer.seconds for layer in mine)
        if not seconds:
            continue
        gflop = sum(layer.flops for layer in mine) / 1e9
        share = dict.fromkeys(("compute", "memory", "overhead"), 0.0)
        for layer in mine:
            share[roof.bound(layer)] += layer.seconds / seconds
        parts[name] = Part(seconds, gflop, gflop / seconds, share)
    return parts
