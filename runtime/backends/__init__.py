"""Inference engines behind one interface: ``open_backend(bundle).run(inputs) -> outputs``.

What is asked for by name is what runs, or an error says why it can't; only ``auto`` chooses, and says why.
"""

from __future__ import annotations

from importlib import import_module
from types import TracebackType
from typing import Protocol, Self

from numpy.typing import NDArray

from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import BadDataError, UsageError
from mmx.runtime.manifest import GraphSpec

# Each name's module has `load(path, precision, threads) -> Backend`.
MODULES = {
    "onnxruntime": "mmx.runtime.backends.onnxruntime",
    "openvino": "mmx.runtime.backends.openvino",
}


class Backend(Protocol):
    """A loaded graph that runs.

    Attributes:
        name: the engine, as ``open_backend`` takes it.
        precision: what it computes in (fp32, bf16, ...).
        device: what it runs on, as the engine itself reports it.
        why: why this engine was taken.
        inputs, outputs: the graph's names, in its order.

    ``run`` may be called from several threads; an engine that can't do two at once makes them take turns.
    """

    name: str
    precision: str
    device: str
    why: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def run(self, inputs: dict[str, NDArray]) -> dict[str, NDArray]:
        """Run the graph on arrays of the dtypes and shapes of its ``GraphSpec``; the outputs are the caller's own."""
        ...

    def close(self) -> None:
        """Give the engine's memory back. The backend can't run afterwards; closing twice is fine."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_backend(bundle: Bundle, name: str = "auto", precision: str = "fp32", threads: int | None = None) -> Backend:
    """Load a bundle's graph into an engine.

    Args:
        bundle: an opened bundle.
        name: ``auto``, ``onnxruntime`` or ``openvino``.
        precision: ``fp32``, or another that the bundle has a graph for; ``bf16`` is the FP32 graph computed in
            bfloat16, which OpenVINO does on CPUs that have it.
        threads: CPU threads; None leaves it to the engine (all cores).

    Raises:
        UsageError: an unknown name, no such graph in the bundle, or fewer threads than one.
        EnvironmentMissing: the engine is not installed, or can't have that precision here.
        BadDataError: the engine can't load the graph, or its names are not those of the manifest.
    """
    if name != "auto" and name not in MODULES:
        raise UsageError(f"there is no backend {name!r}", f"choose one of: auto, {', '.join(MODULES)}")
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}; it must be 1 or more")
    why = "asked for"
    if name == "auto":
        name, why = _choose(precision)
    stored = "fp32" if precision == "bf16" else precision
    path = bundle.graph_path(stored)
    backend: Backend = import_module(MODULES[name]).load(path, precision, threads)
    backend.why = why
    _check_names(backend, bundle.manifest.graphs[stored], str(path))
    return backend


def _choose(precision: str) -> tuple[str, str]:
    if precision == "bf16":
        return "openvino", "auto: the only backend that computes in bf16"
    return "onnxruntime", "auto: the default, installed with mmx itself"


def _check_names(backend: Backend, graph: GraphSpec, path: str) -> None:
    for kind, found, specs in (("input", backend.inputs, graph.inputs), ("output", backend.outputs, graph.outputs)):
        if sorted(found) != sorted(spec.name for spec in specs):
            backend.close()
            raise BadDataError(
                f"{path}: its {kind}s {list(found)} are not those of the manifest", "run mmx export again"
            )
