"""TensorRT, full or for RTX, on a bundle's engine (``mmx build-engine``).

One engine serves any number of threads: each ``run`` borrows a worker, which has its own execution context, stream and
buffers. Workers are made when all others are busy, up to ``WORKERS`` (or as many streams as were asked for);
further calls wait.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.backends import Backend
from mmx.runtime.backends.tensorrt_worker import Worker
from mmx.runtime.bundle import Bundle
from mmx.runtime.device.base import Device, Memory, open_device
from mmx.runtime.device.trt import RTX, Flavour, flavour
from mmx.runtime.engines import (
    Engine,
    Mismatch,
    axes_of,
    engines_of,
    mismatch_error,
    mismatches,
    rebuild_command,
    rebuild_options,
)
from mmx.runtime.errors import BadDataError, EnvironmentMissing, MmxError, UsageError
from mmx.runtime.files import write_bytes
from mmx.runtime.machine import cache_folder
from mmx.runtime.records import EngineRecord, Profile
from mmx.runtime.scratch import Scratch
from mmx.runtime.splitting import Inputs, in_parts

WORKERS = 4
VISIBLE = "CUDA_VISIBLE_DEVICES"  # numbers or names, in the order in which a process numbers its GPUs


def load(
    bundle: Bundle, name: str, precision: str, rebuild: bool = False, *, streams: int = 1, index: int = 0
) -> TensorRtBackend:
    """Load the bundle's newest engine of a flavour and precision that fits this machine.

    Args:
        bundle: an opened bundle.
        name: tensorrt | tensorrt-rtx.
        rebuild: build the engine again if it does not fit (``--on-mismatch rebuild``).
        streams: runs that go on side by side. index: of the GPU.

    Raises:
        EnvironmentMissing: not installed, no GPU, or no engine that fits; both sides and the command are named.
        UsageError: there is no engine. BadDataError: the engine's file was changed.
    """
    kind = flavour(name)
    version = kind.installed_version
    if version is None:
        kind.load()
    device = open_device(index=index)
    engine, found = find_engine(bundle, kind, precision, str(version), device.capability)
    if found and rebuild:
        _rebuild(bundle, engine.record, index)
        bundle = bundle.refreshed()  # with the new engine, and the graph that may have been made anew for it
        engine, found = find_engine(bundle, kind, precision, str(version), device.capability)
    if found:
        raise mismatch_error(engine, bundle.path, found)
    engine.check()
    contract = bundle.manifest.graphs["fp32"]
    for found_specs, specs in ((engine.record.inputs, contract.inputs), (engine.record.outputs, contract.outputs)):
        if {spec.name: spec for spec in found_specs} != {spec.name: spec for spec in specs}:
            raise BadDataError(f"{engine.path}: its tensors are not those of the manifest", "mmx build-engine --force")
    return TensorRtBackend(engine, kind, device, max(streams, WORKERS), streams)


def find_engine(
    bundle: Bundle, kind: Flavour, precision: str, version: str, capability: str
) -> tuple[Engine, list[Mismatch]]:
    """The bundle's newest engine of a flavour and precision that fits, or the newest and why it does not.

    Raises:
        UsageError: there is none.
    """
    engines = engines_of(bundle)
    candidates = [
        (engine, mismatches(engine.record, bundle, version, capability))
        for engine in engines
        if engine.record.flavour == kind.name and engine.record.precision == precision
    ]
    if candidates:
        return min(candidates, key=lambda candidate: len(candidate[1]) > 0)  # the first of the best
    there = ", ".join(sorted({f"{each.record.flavour} {each.record.precision}" for each in engines})) or "none"
    unused = "".join(
        f"; passed over {each.name}: {each.reason}" for each in bundle.passed_over if kind.name in each.name
    )
    raise UsageError(
        f"{bundle.path} has no {precision} engine for {kind.name} (its engines: {there}{unused})",
        f"mmx build-engine --{precision} --flavour {kind.name} {bundle.path}",
    )


def _rebuild(bundle: Bundle, record: EngineRecord, index: int) -> None:
    """Build an engine again, as it was but for the GPU here, in a process: the builder is not part of the runtime.

    ``index``: of that GPU, among those that this process sees; it is the only one that the builder sees.
    """
    command = [sys.executable, "-m", "mmx.cli.main", "build-engine", *rebuild_options(record), "--target", "native"]
    with Scratch("engine") as scratch:
        profiles = scratch.path / "profiles.json"
        profiles.write_text(json.dumps(axes_of(record)), encoding="utf-8")
        command += ["--profiles", str(profiles), str(bundle.path)]
        environment = os.environ | {VISIBLE: _only(index)}
        done = subprocess.run(command, stdout=subprocess.DEVNULL, env=environment, check=False)
    if done.returncode:
        raise EnvironmentMissing(f"the engine could not be built again (exit code {done.returncode})", "see above")


def _only(index: int) -> str:
    """The value of ``VISIBLE`` that leaves one of the GPUs that this process sees."""
    visible = [name for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return visible[index].strip() if index < len(visible) else str(index)


class TensorRtBackend(Backend):
    """One deserialised engine. ``run`` is thread-safe."""

    def __init__(self, engine: Engine, kind: Flavour, device: Device, workers: int = WORKERS, streams: int = 1) -> None:
        trt, path, record = kind.load(), engine.path, engine.record
        self.name, self.precision, self.why = kind.name, record.precision, "asked for"
        self.device = f"{device.name} ({device.layer})"
        self.inputs = tuple(spec.name for spec in record.inputs)
        self.outputs = tuple(spec.name for spec in record.outputs)
        self.tensors = {spec.name: spec for spec in (*record.inputs, *record.outputs)}
        self._record, self._device, self._trt = record, device, trt
        said: list[str] = []
        self._logger = _logger(trt, said)
        with device.current():
            self._runtime = trt.Runtime(self._logger)
            self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
            if self._engine is None:
                raise EnvironmentMissing(
                    f"{kind.title} cannot load {path}: {' | '.join(said[:3]) or 'it gave no reason'}",
                    rebuild_command(path.parents[2], record),
                )
            _check_tensors(trt, self._engine, record, path)
            self._config, self._cache, self._cache_path = self._runtime_config(kind)
        self._free: deque[Worker] = deque()
        self.streams = streams
        self._made, self._most, self._closed = 0, workers, False
        self._changed = threading.Condition()

    def run(self, inputs: dict[str, NDArray]) -> dict[str, NDArray]:
        """See ``Backend.run``. A batch that no profile takes is cut in halves until one does.

        Raises:
            BadDataError: a single sample is longer than every profile.
        """
        return in_parts({name: inputs[name] for name in self.inputs}, self._fits, self._run)

    def _fits(self, inputs: Inputs) -> bool:
        return self.profile_for({name: array.shape for name, array in inputs.items()}) is not None

    def _run(self, inputs: Inputs) -> Inputs:
        shapes = {name: array.shape for name, array in inputs.items()}
        number = self.profile_for(shapes)
        if number is None:
            raise BadDataError(
                f"no profile of the engine takes {_listed(shapes)}; its longest takes {self._limits()}",
                "shorten the segment (--window), or build an engine with --profiles FILE.json",
            )
        with self._worker() as worker:
            return worker.run(inputs, number)

    def profile_for(self, shapes: dict[str, tuple[int, ...]]) -> int | None:
        """The smallest profile that takes these shapes, by number; None where none does."""
        fitting = [number for number, profile in enumerate(self._record.profiles) if profile.fits(shapes)]
        return min(fitting, key=lambda number: _volume(self._record.profiles[number]), default=None)

    def close(self) -> None:
        """See ``Backend.close``. Waits for runs that are under way, and saves TensorRT-RTX's compiled kernels."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
            while len(self._free) < self._made:
                self._changed.wait()
            with self._device.current():
                for worker in self._free:
                    worker.close()
                self._free.clear()
                self._save_cache()
                self._config = self._cache = self._engine = self._runtime = None
        self._device.close()

    @contextmanager
    def _worker(self) -> Iterator[Worker]:
        with self._changed:
            while not self._closed and not self._free and self._made >= self._most:
                self._changed.wait()
            if self._closed:
                raise RuntimeError("this backend is closed")
            if self._free:
                worker = self._free.pop()
            else:
                with self._device.current():
                    worker = Worker(self._context, self._device, self._record, self._scratch_bytes())
                self._made += 1
        try:
            with self._device.current():
                yield worker
        finally:
            with self._changed:
                self._free.append(worker)
                self._changed.notify()

    def _scratch_bytes(self) -> int | None:
        """What an execution context computes in; None for TensorRT-RTX, which sees to that and to CUDA graphs."""
        return int(self._engine.device_memory_size_v2) if self._config is None else None

    def _context(self, scratch: Memory | None) -> Any:
        """A new execution context, over ``scratch`` if that is given."""
        over = self._config if scratch is None else self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(over)
        if context is None:
            raise EnvironmentMissing("the GPU has no memory for another execution context", "use fewer threads")
        if scratch is not None:
            context.set_device_memory(scratch.pointer, scratch.size)
        return context

    def _runtime_config(self, kind: Flavour) -> tuple[Any, Any, Path | None]:
        """TensorRT-RTX compiles kernels when it first meets a shape: have it use CUDA graphs, and keep them on disk."""
        if kind is not RTX:
            return None, None, None
        config = self._engine.create_runtime_config()
        config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        cache = config.create_runtime_cache()
        folder = cache_folder()
        path = folder and folder / "engines" / f"{self._record.key}-{self._device.capability}.cache"
        if path and path.is_file():
            cache.deserialize(path.read_bytes())
        config.set_runtime_cache(cache)
        return config, cache, path

    def _save_cache(self) -> None:
        if self._cache is None or self._cache_path is None:
            return
        with self._cache.serialize() as memory:
            kernels = bytes(memory)
        with suppress(MmxError):  # then the next start compiles them again
            write_bytes(self._cache_path, kernels)

    def _limits(self) -> str:
        largest = max(self._record.profiles, key=_volume)
        return _listed({name: sizes.max for name, sizes in largest.shapes.items()})


def _check_tensors(trt: Any, engine: Any, record: EngineRecord, path: Path) -> None:
    """The engine's own inputs and outputs are those of its record."""
    found: dict[Any, set[tuple[str, str]]] = {trt.TensorIOMode.INPUT: set(), trt.TensorIOMode.OUTPUT: set()}
    for number in range(engine.num_io_tensors):
        name = engine.get_tensor_name(number)
        found[engine.get_tensor_mode(name)].add((name, np.dtype(trt.nptype(engine.get_tensor_dtype(name))).name))
    for mode, specs in ((trt.TensorIOMode.INPUT, record.inputs), (trt.TensorIOMode.OUTPUT, record.outputs)):
        if found[mode] != {(spec.name, spec.dtype) for spec in specs}:
            raise BadDataError(f"{path}: its tensors are not those of its record", "mmx build-engine --force")


def _logger(trt: Any, said: list[str]) -> Any:
    class Collector(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                said.append(message)

    return Collector()


def _volume(profile: Profile) -> int:
    return sum(int(np.prod(sizes.max)) for sizes in profile.shapes.values())


def _listed(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
