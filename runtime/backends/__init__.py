"""Inference engines behind one interface: ``open_backend(bundle).run(inputs) -> outputs``.

What is asked for by name is what runs, or an error says why it can't; only ``auto`` chooses, and says why.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from importlib import import_module
from time import perf_counter

from numpy.typing import NDArray

from mmx.runtime.arguments import as_text, at_least_one
from mmx.runtime.backends.autotune import Autotuned, compare, recall, remember, setting_of
from mmx.runtime.backends.choice import Goal, chosen_precision
from mmx.runtime.backends.choice import recall as recall_choice
from mmx.runtime.bundle import Bundle, Graph
from mmx.runtime.closing import Closing
from mmx.runtime.engines import ENGINE_GRAPHS, EngineMismatch
from mmx.runtime.errors import BadDataError, EnvironmentMissing, UsageError
from mmx.runtime.machine import usable_cores
from mmx.runtime.manifest import TensorSpec
from mmx.runtime.probe import check_probe
from mmx.runtime.records import GraphRecord

# Each name's module has `load(path, precision, threads, streams=1) -> Backend`; ONNX Runtime's also takes `packed`,
# that of a GPU `index`.
MODULES = {
    "onnxruntime": "mmx.runtime.backends.onnxruntime",
    "openvino": "mmx.runtime.backends.openvino",
    "onnxruntime-cuda": "mmx.runtime.backends.onnxruntime_cuda",
}
ENGINES = ("tensorrt", "tensorrt-rtx")  # these run what `mmx build-engine` made
NAMES = (*MODULES, *ENGINES)
ON_GPU = (*ENGINES, "onnxruntime-cuda")  # the fastest first
ON_CPU = ("openvino", "onnxruntime")  # which is faster depends on the machine (see autotune); the last loads fastest
FEW = 20  # utterances that take less time than autotuning
ON_MISMATCH = ("error", "rebuild", "onnx")
MOST_STREAMS = 4  # on a CPU, unless asked for
log = logging.getLogger(__name__)
DEVICES = "cpu, cuda, or cuda:N for one of several GPUs"


class Backend(Closing):
    """A loaded graph that runs.

    Attributes:
        name: as ``open_backend`` takes it.
        precision: what it computes in (fp32, bf16, ...).
        device: what it runs on, as the backend reports it.
        why: the reason for which this backend was chosen.
        inputs, outputs: the graph's names, in its order.
        streams: how many runs it makes at the same time.
        tensors: what the backend reports of each: numpy's name of its type, and its axes.

    ``run`` may be called from any number of threads; calls beyond the streams wait for one.
    """

    name: str
    precision: str
    device: str
    why: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    streams: int
    tensors: dict[str, TensorSpec]

    def run(self, inputs: dict[str, NDArray]) -> dict[str, NDArray]:
        """Run the graph on arrays of the dtypes and shapes of its ``GraphSpec``; the outputs are the caller's own."""
        raise NotImplementedError

    def close(self) -> None:
        """Free the memory. The backend cannot run afterwards; closing twice is fine."""
        raise NotImplementedError


@dataclass(frozen=True)
class _Asked:
    """What ``open_backend`` was asked for. ``index``: of the GPU; None: none in particular."""

    precision: str
    threads: int | None
    on_mismatch: str
    utterances: int | None
    streams: int | None
    index: int | None
    goal: Goal

    @property
    def few(self) -> bool:
        return self.utterances is not None and self.utterances <= FEW

    @property
    def on_cpu(self) -> tuple[int, int | None]:
        """Streams of a CPU backend, and the threads of each: together the cores there are, unless asked otherwise."""
        if self.streams == 1:
            return 1, self.threads
        cores = usable_cores()
        streams = self.streams or max(1, min(MOST_STREAMS, cores // (self.threads or 1)))
        return streams, self.threads or max(1, cores // streams)


def open_backend(
    bundle: Bundle,
    name: str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
    on_mismatch: str = "error",
    utterances: int | None = None,
    *,
    streams: int | None = 1,
    device: str | None = None,
    goal: Goal = "latency",
) -> Backend:
    """Load a bundle's graph or engine.

    Args:
        bundle: an opened bundle.
        name: one of ``NAMES``, or ``auto``: what ``mmx optimize`` chose for this bundle here, in its precision; or else
            the first of ``ON_GPU`` that works, or the one of ``ON_CPU`` that is faster in a short measurement.
            ``Backend.why`` says what was measured, and why others are not available.
        precision: ``fp32``, or another that the bundle has a graph or engine for; ``bf16`` on OpenVINO is the FP32
            graph computed in bfloat16, on CPUs that have it. ``auto``: what ``mmx optimize`` chose, or ``fp32``.
        threads: CPU threads of each stream; None leaves it to the backend (all cores; with several streams, its share).
        on_mismatch: what to do when the engine is of another GPU, TensorRT or graph: ``error``, ``rebuild`` it here, or
            run the ``onnx`` graph instead.
        utterances: about how many will be answered; None: many. ``auto`` weighs the time to load accordingly,
            and does not autotune for ``FEW`` or fewer; ONNX Runtime then does not pack the weights either, which takes
            longer than it saves.
        streams: concurrent copies of the network, each with its own run. On a CPU two streams of one thread do more
            than one of two, which spends much of its time waiting for the slower thread. None: on a CPU one for each
            core up to ``MOST_STREAMS``, on a GPU one.
        device: ``cpu``, ``cuda`` or ``cuda:N``; None: the first that the backend runs on.
        goal: which choice of ``mmx optimize`` ``auto`` follows.

    Raises:
        UsageError: an unknown name or device, no such graph or engine in the bundle, fewer threads or streams than
            one, or a device that this backend does not run on.
        EnvironmentMissing: what was asked for is not installed, can't have that precision here, or does not compute
            an INT8 graph right on this CPU.
        BadDataError: the graph can't be loaded, or its inputs and outputs are not those of the manifest.
        BundleReplaced: an export has put another bundle in its place.
    """
    if name != "auto" and name not in NAMES:
        raise UsageError(f"there is no backend {name!r}", f"choose one of: auto, {', '.join(NAMES)}")
    if on_mismatch not in ON_MISMATCH:
        raise UsageError(f"--on-mismatch {on_mismatch} is unknown", f"choose one of: {', '.join(ON_MISMATCH)}")
    for what, count in (("threads", threads), ("streams", streams)):
        if count is not None:
            at_least_one(what, count)
    kind, index = _device(device)
    precision = chosen_precision(bundle, precision, goal)
    asked = _Asked(precision, threads, on_mismatch, utterances, streams, index, goal)
    if (kind == "cuda" and name in ON_CPU) or (kind == "cpu" and name in ON_GPU):
        where, others = ("CPU", ON_GPU) if name in ON_CPU else ("GPU", ON_CPU)
        raise UsageError(f"{name} runs on the {where}, not on {device}", f"--backend {' or '.join(others)}")
    with bundle.unreplaced():
        if name == "auto":
            return _choose(bundle, ON_GPU if kind != "cpu" else (), asked, cpu=kind != "cuda")
        return _asked_for(bundle, name, asked, cpu=kind is None)


def _asked_for(bundle: Bundle, name: str, asked: _Asked, *, cpu: bool) -> Backend:
    """The backend of that name, or one that runs the graph where the engine does not fit and that is wanted."""
    try:
        return _open(bundle, name, asked)
    except EngineMismatch as e:
        if asked.on_mismatch != "onnx":
            raise
        backend = _choose(bundle, ("onnxruntime-cuda",), asked, cpu=cpu)
        backend.why = f"--on-mismatch onnx: {e.message}"
        log.info("%s", backend.why)
        return backend


def _device(device: str | None) -> tuple[str | None, int | None]:
    """The kind and the number that a device's name means."""
    kind, colon, number = ("" if device is None else as_text("device", device)).partition(":")
    if device is None or (kind in ("cpu", "cuda") and not colon):
        return device, None
    if kind == "cuda" and number.isascii() and number.isdigit():
        return kind, int(number)
    raise UsageError(f"there is no device {device!r}", f"--device can be {DEVICES}")


def _open(bundle: Bundle, name: str, asked: _Asked) -> Backend:
    backend: Backend
    on_gpu = {"streams": asked.streams or 1, "index": asked.index or 0}
    if name in ENGINES:
        load = import_module("mmx.runtime.backends.tensorrt").load
        return load(bundle, name, asked.precision, rebuild=asked.on_mismatch == "rebuild", **on_gpu)
    if asked.precision in ENGINE_GRAPHS.values():
        message = f"{name} does not run {asked.precision}, whose graph is for TensorRT"
        raise EnvironmentMissing(message, "--precision int8")
    graph = bundle.graph(_stored(name, asked.precision))
    load = import_module(MODULES[name]).load
    if name in ON_GPU:
        backend = load(graph.path, asked.precision, asked.threads, **on_gpu)
    else:
        streams, threads = asked.on_cpu
        options = {"packed": not asked.few} if name == "onnxruntime" else {}
        backend = load(graph.path, asked.precision, threads, streams=streams, **options)
    _check_contract(backend, graph)
    _check_arithmetic(backend, graph)
    return backend


def _stored(name: str, precision: str) -> str:
    """The precision of the graph file that a backend takes: the CPU's bf16 is the FP32 graph computed in bfloat16."""
    return "fp32" if precision == "bf16" and name in ON_CPU else precision


def _choose(bundle: Bundle, gpu: tuple[str, ...], asked: _Asked, *, cpu: bool) -> Backend:
    """The first GPU backend that works, or else the fastest on the CPU; ``why`` gives the reasons."""
    passed: list[str] = []
    if (chosen := _as_chosen(bundle, gpu, asked, passed, cpu=cpu)) is not None:
        return chosen
    for name in gpu:
        try:
            backend = _open(bundle, name, asked)
        except (EnvironmentMissing, UsageError, BadDataError) as e:  # a damaged engine; a damaged graph fails below
            passed.append(f"no {name}, {e.message}")
        else:
            backend.why = "auto: " + "; ".join([f"{name} works here", *passed])
            log.info("%s", backend.why)
            return backend
    if not cpu:
        raise EnvironmentMissing(f"nothing runs this bundle on the GPU: {'; '.join(passed)}", "--device cpu")
    backend, why = _fastest_on_cpu(bundle, asked, passed)
    backend.why = "auto: " + "; ".join([why, *passed])
    log.info("%s", backend.why)
    return backend


def _as_chosen(bundle: Bundle, gpu: tuple[str, ...], asked: _Asked, passed: list[str], *, cpu: bool) -> Backend | None:
    """The backend that ``mmx optimize`` chose for this precision, if it may be taken and still opens."""
    choice = recall_choice(bundle, asked.goal)
    if choice is None or choice.precision != asked.precision or choice.backend not in (*gpu, *(ON_CPU if cpu else ())):
        return None
    own = asked.streams in (None, choice.streams) and asked.threads in (None, choice.threads)
    if own:
        asked = replace(asked, streams=choice.streams, threads=choice.threads)
    try:
        backend = _open(bundle, choice.backend, asked)
    except (EnvironmentMissing, UsageError, BadDataError) as e:
        passed.append(f"not {choice.backend}, which mmx optimize chose: {e.message}")
        return None
    what = str(choice) if own else f"{choice.backend} {choice.precision}; streams and threads are as asked"
    backend.why = f"auto: mmx optimize chose {what}"
    log.info("%s", backend.why)
    return backend


def _fastest_on_cpu(bundle: Bundle, asked: _Asked, passed: list[str]) -> tuple[Backend, str]:
    """The backend that autotuning finds the fastest, now or earlier, and the reason to give.

    Adds to ``passed`` why one is not available here.
    """
    graph = bundle.graph(_stored(ON_CPU[0], asked.precision))
    setting = setting_of(graph, asked.precision, asked.on_cpu[1])
    result = recall(setting, ON_CPU)
    if result is not None:
        return _open(bundle, result.winner(asked.utterances), asked), f"measured before, {result}"
    opened: list[Backend] = []
    load_s: dict[str, float] = {}
    for name in ON_CPU[:: -1 if asked.few else 1]:
        started = perf_counter()
        try:
            opened.append(_open(bundle, name, asked))
        except EnvironmentMissing as e:
            passed.append(f"no {name}, {e.message}")
            missing = e
            continue
        if asked.few:
            return opened[0], f"{name} loads sooner than others, and there is too little to do to autotune"
        load_s[name] = perf_counter() - started
    if not opened:
        raise missing
    if len(opened) < len(ON_CPU):
        return opened[0], f"{opened[0].name} works here"
    result = Autotuned(compare(opened, graph.spec.inputs), load_s)
    remember(setting, result)
    winner = result.winner(asked.utterances)
    for backend in opened:
        if backend.name != winner:
            backend.close()
    return next(backend for backend in opened if backend.name == winner), f"measured just now, {result}"


def _check_arithmetic(backend: Backend, graph: Graph) -> None:
    """Raise EnvironmentMissing where this machine does not compute an INT8 graph as the graph means it."""
    record = graph.variant.record if graph.variant else None
    if isinstance(record, GraphRecord) and record.probe:
        try:
            check_probe(record.probe, backend, graph.spec.inputs)
        except EnvironmentMissing:
            backend.close()
            raise


def _check_contract(backend: Backend, graph: Graph) -> None:
    """Raise BadDataError unless the graph's own inputs and outputs are those of the manifest."""
    sides = (("input", backend.inputs, graph.spec.inputs), ("output", backend.outputs, graph.spec.outputs))
    for kind, names, specs in sides:
        if sorted(names) != sorted(spec.name for spec in specs):
            problem = f"its {kind}s {list(names)} are not those of the manifest"
        elif different := [spec for spec in specs if not _is_as(spec, backend.tensors[spec.name])]:
            has, wanted = backend.tensors[different[0].name], different[0]
            problem = (
                f"its {kind} {wanted.name} is {has.dtype} {list(has.axes)}, "
                f"not {wanted.dtype} {list(wanted.axes)} as in the manifest"
            )
        else:
            continue
        backend.close()
        raise BadDataError(f"{graph.path}: {problem}", "run mmx export again")


def _is_as(wanted: TensorSpec, found: TensorSpec) -> bool:
    """Whether a tensor is what the manifest lists: its type, its axes, and the sizes that both know."""
    if (wanted.dtype, len(wanted.axes)) != (found.dtype, len(found.axes)):
        return False
    # A size that is fixed in the graph must be so in the manifest; one that only the manifest fixes is checked in runs.
    return all(not isinstance(size, int) or size == axis for axis, size in zip(wanted.axes, found.axes, strict=True))
