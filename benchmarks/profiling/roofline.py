"""What this machine can do at most: matrix products a second in an engine, and bytes a second from memory.

A layer's roof is the lower of the two that apply to it: its arithmetic at the speed of the engine's own large matrix
product, or its bytes at the speed of a large copy. A layer whose roof is arithmetic is compute-bound.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmx.benchmarks.profiling.layers import Layer
from mmx.runtime.backends import MODULES, Backend
from mmx.runtime.scratch import Scratch

PRODUCT_SIZE = 2048
COPY_BYTES = 128 * 2**20
REPEATS = 12
# A layer that stays under this share of its roof spends its time on something else: starting, dispatching, reordering.
OVERHEAD_SHARE = 0.1


@dataclass(frozen=True)
class Roof:
    """The machine's limits with these threads: GFLOP/s of a matrix product in this engine, GB/s of memory."""

    gflops: float
    gbytes: float

    def seconds(self, layer: Layer) -> float:
        """The least time the layer could take."""
        return max(layer.flops / (self.gflops * 1e9), layer.bytes / (self.gbytes * 1e9))

    def raised(self, layers: Sequence[Layer]) -> Roof:
        """The roof of a run: as high as its fastest layer that counts.

        The product may have run in a slower moment, in another precision, or without a trick such as Winograd's, and
        what stays in the caches is faster than a copy. Layers of under 1 % are too short to be timed for this.
        """
        total = sum(layer.seconds for layer in layers)
        beaten = [layer for layer in layers if layer.seconds > 0.01 * total and self.seconds(layer) > layer.seconds]
        gflops = max((layer.flops / layer.seconds / 1e9 for layer in beaten), default=0.0)
        gbytes = max((layer.bytes / layer.seconds / 1e9 for layer in beaten), default=0.0)
        return Roof(max(self.gflops, gflops), max(self.gbytes, gbytes))

    def share(self, layer: Layer) -> float:
        """How near the layer comes to its roof, 0..1."""
        return min(1.0, self.seconds(layer) / layer.seconds) if layer.seconds else 1.0

    def bound(self, layer: Layer) -> str:
        """What limits the layer: compute, memory, or overhead where it is far from both."""
        if self.seconds(layer) < OVERHEAD_SHARE * layer.seconds:
            return "overhead"
        by_compute = layer.flops / (self.gflops * 1e9) >= layer.bytes / (self.gbytes * 1e9)
        return "compute" if by_compute else "memory"


def measure(backend: str, precision: str, threads: int) -> Roof:
    """Measure the roof: the best of a dozen runs, since only disturbance makes one slower."""
    import importlib

    with Scratch("profile") as scratch:
        path = scratch.path / "product.onnx"
        _write_product(path)
        engine: Backend = importlib.import_module(MODULES[backend]).load(path, precision, threads)
        x = np.random.default_rng(0).random((PRODUCT_SIZE, PRODUCT_SIZE), dtype=np.float32)
        fastest = min(_seconds(engine, x) for _ in range(REPEATS))
        engine.close()
    return Roof(2.0 * PRODUCT_SIZE**3 / fastest / 1e9, _copy_gbytes())


def _seconds(engine: Backend, x: np.ndarray) -> float:
    start = time.perf_counter()
    engine.run({"x": x})
    return time.perf_counter() - start


def _write_product(path: Path) -> None:
    """y = x @ weights, the weights constant as a network's are."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(1).random((PRODUCT_SIZE, PRODUCT_SIZE), dtype=np.float32)
    shape = [PRODUCT_SIZE, PRODUCT_SIZE]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weights"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weights, "weights")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))


def _copy_gbytes() -> float:
    """GB read and written a second by one thread copying more than the caches hold."""
    source = np.ones(COPY_BYTES, np.uint8)
    target = np.empty_like(source)
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        np.copyto(target, source)
        best = min(best, time.perf_counter() - start)
    return 2 * COPY_BYTES / best / 1e9
