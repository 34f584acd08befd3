"""Inference engines behind one interface: ``open_backend(bundle).run(inputs) -> outputs``.

What is asked for by name is what runs, or an error says why it can't; only ``auto`` chooses, and says why.
"""

from __future__ import annotations

from importlib import import_module
from time import perf_counter
from types import TracebackType
from typing import Protocol, Self

from numpy.typing import NDArray

from mmx.runtime.backends.trial import Trial, race, recall, remember, setting_of
from mmx.runtime.bundle import Bundle
from mmx.runtime.engines import ENGINE_GRAPHS, EngineMismatch
from mmx.runtime.errors import BadDataError, EnvironmentMissing, UsageError
from mmx.runtime.manifest import GraphSpec

# Each name's module has `load(path, precision, threads) -> Backend`; ONNX Runtime's also takes `packed`.
MODULES = {
    "onnxruntime": "mmx.runtime.backends.onnxruntime",
    "openvino": "mmx.runtime.backends.openvino",
    "onnxruntime-cuda": "mmx.runtime.backends.onnxruntime_cuda",
}
ENGINES = ("tensorrt", "tensorrt-rtx")  # these run what `mmx build-engine` made
NAMES = (*MODULES, *ENGINES)
ON_GPU = (*ENGINES, "onnxruntime-cuda")  # the fastest first
ON_CPU = ("openvino", "onnxruntime")  # which is faster depends on the machine: see trial. The last loads the soonest
FEW = 20  # utterances that take less time than a trial
ON_MISMATCH = ("error", "rebuild", "onnx")


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


def open_backend(
    bundle: Bundle,
    name: str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
    on_mismatch: str = "error",
    utterances: int | None = None,
) -> Backend:
    """Load a bundle's graph or engine.

    Args:
        bundle: an opened bundle.
        name: one of ``NAMES``, or ``auto``: the first of ``ON_GPU`` that works here, or else the one of ``ON_CPU`` that
            a short trial finds the faster. ``Backend.why`` says what was measured, and what kept the others.
        precision: ``fp32``, or another that the bundle has a graph or engine for; ``bf16`` on OpenVINO is the FP32
            graph computed in bfloat16, on CPUs that have it.
        threads: CPU threads; None leaves it to the engine (all cores).
        on_mismatch: what to do when the engine is of another GPU, TensorRT or graph: ``error``, ``rebuild`` it here, or
            run the ``onnx`` graph instead.
        utterances: about how many will be answered; None: many. ``auto`` counts the time to load for as much, and
            holds no trial for ``FEW`` or fewer, whose answers would wait for it; ONNX Runtime then does not pack the
            weights, which takes longer than it saves them.

    Raises:
        UsageError: an unknown name, no such graph or engine in the bundle, or fewer threads than one.
        EnvironmentMissing: what was asked for is not installed, or can't have that precision here.
        BadDataError: the graph can't be loaded, or its names are not those of the manifest.
    """
    if name != "auto" and name not in NAMES:
        raise UsageError(f"there is no backend {name!r}", f"choose one of: auto, {', '.join(NAMES)}")
    if on_mismatch not in ON_MISMATCH:
        raise UsageError(f"--on-mismatch {on_mismatch} is unknown", f"choose one of: {', '.join(ON_MISMATCH)}")
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}; it must be 1 or more")
    if name == "auto":
        return _choose(bundle, ON_GPU, precision, threads, on_mismatch, utterances)
    try:
        return _open(bundle, name, precision, threads, on_mismatch, few=_few(utterances))
    except EngineMismatch as e:
        if on_mismatch != "onnx":
            raise
        backend = _choose(bundle, ("onnxruntime-cuda",), precision, threads, on_mismatch, utterances)
        backend.why = f"--on-mismatch onnx: {e.message}"
        return backend


def _few(utterances: int | None) -> bool:
    return utterances is not None and utterances <= FEW


def _open(
    bundle: Bundle, name: str, precision: str, threads: int | None, on_mismatch: str = "error", *, few: bool = False
) -> Backend:
    backend: Backend
    if name in ENGINES:
        load = import_module("mmx.runtime.backends.tensorrt").load
        backend = load(bundle, name, precision, rebuild=on_mismatch == "rebuild")
    elif precision in ENGINE_GRAPHS.values():
        raise EnvironmentMissing(f"{name} does not run {precision}, whose graph is for TensorRT", "--precision int8")
    else:
        stored = _stored(name, precision)
        options = {"packed": not few} if name == "onnxruntime" else {}
        backend = import_module(MODULES[name]).load(bundle.graph_path(stored), precision, threads, **options)
        _check_names(backend, bundle.manifest.graphs[stored], str(bundle.graph_path(stored)))
    return backend


def _stored(name: str, precision: str) -> str:
    """The precision of the graph file that a backend takes: the CPU's bf16 is the FP32 graph computed in bfloat16."""
    return "fp32" if precision == "bf16" and name in ON_CPU else precision


def _choose(
    bundle: Bundle,
    gpu: tuple[str, ...],
    precision: str,
    threads: int | None,
    on_mismatch: str,
    utterances: int | None,
) -> Backend:
    """The first GPU backend that works, or else the fastest on the CPU; ``why`` says what is against the others."""
    passed: list[str] = []
    for name in gpu:
        try:
            backend = _open(bundle, name, precision, threads, on_mismatch)
        except (EnvironmentMissing, UsageError) as e:
            passed.append(f"no {name}, {e.message}")
        else:
            backend.why = "auto: " + "; ".join([f"{name} works here", *passed])
            return backend
    backend, why = _fastest_on_cpu(bundle, precision, threads, utterances, passed)
    backend.why = "auto: " + "; ".join([why, *passed])
    return backend


def _fastest_on_cpu(
    bundle: Bundle, precision: str, threads: int | None, utterances: int | None, passed: list[str]
) -> tuple[Backend, str]:
    """The winner of this setting's trial, which is held now if it never was; and what to say about it.

    Adds to ``passed`` why one does not work here.
    """
    stored = _stored(ON_CPU[0], precision)
    setting = setting_of(bundle, bundle.graph_path(stored), precision, threads)
    few = _few(utterances)
    result = recall(bundle, setting, ON_CPU)
    if result is not None:
        backend = _open(bundle, result.winner(utterances), precision, threads, few=few)
        return backend, f"measured before, {result}"
    opened: list[Backend] = []
    load_s: dict[str, float] = {}
    for name in ON_CPU[:: -1 if few else 1]:
        started = perf_counter()
        try:
            opened.append(_open(bundle, name, precision, threads, few=few))
        except EnvironmentMissing as e:
            passed.append(f"no {name}, {e.message}")
            missing = e
            continue
        if few:
            return opened[0], f"{name} loads sooner than others, and there is too little to do for a trial"
        load_s[name] = perf_counter() - started
    if not opened:
        raise missing
    if len(opened) < len(ON_CPU):
        return opened[0], f"{opened[0].name} works here"
    result = Trial(race(opened, bundle.manifest.graphs[stored].inputs), load_s)
    remember(bundle, setting, result)
    winner = result.winner(utterances)
    for backend in opened:
        if backend.name != winner:
            backend.close()
    return next(backend for backend in opened if backend.name == winner), f"measured just now, {result}"


def _check_names(backend: Backend, graph: GraphSpec, path: str) -> None:
    for kind, found, specs in (("input", backend.inputs, graph.inputs), ("output", backend.outputs, graph.outputs)):
        if sorted(found) != sorted(spec.name for spec in specs):
            backend.close()
            raise BadDataError(
                f"{path}: its {kind}s {list(found)} are not those of the manifest", "run mmx export again"
            )
