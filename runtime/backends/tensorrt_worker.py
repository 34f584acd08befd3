"""Execution contexts with one stream and one set of buffers: what runs one batch at a time on the GPU."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.device.base import Device, Memory, Pinned
from mmx.runtime.errors import EnvironmentMissing
from mmx.runtime.records import EngineRecord

GRAPHS = 32  # captured CUDA graphs kept per worker, one for each combination of shapes
Shapes = dict[str, tuple[int, ...]]
Key = tuple[int, tuple[tuple[int, ...], ...]]  # a profile and the shapes of the inputs

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Buffer:
    """Where a tensor lies: on the host for the copy, and on the GPU."""

    host: Pinned
    gpu: Memory

    def close(self) -> None:
        try:
            self.host.close()
        finally:
            self.gpu.close()


@dataclass(frozen=True)
class _Graph:
    """A captured CUDA graph, the context it was captured from, and the shapes of its outputs.

    The context is the graph's own: to change the shapes of a context makes what was captured from it undefined.
    """

    context: Any
    launch: Callable[[], None]
    outputs: Shapes


class Worker:
    """Not thread-safe: ``TensorRtBackend`` lends a worker to one thread at a time, inside ``device.current()``.

    Args:
        new_context: makes an execution context of the engine over the memory it is given.
        device: the GPU. record: of the engine.
        scratch_bytes: of the memory that this worker's contexts share, of which one runs at a time; None: a context
            has its own, and there is only one (TensorRT-RTX captures CUDA graphs by itself).
    """

    def __init__(
        self,
        new_context: Callable[[Memory | None], Any],
        device: Device,
        record: EngineRecord,
        scratch_bytes: int | None,
    ) -> None:
        self._new_context, self._device = new_context, device
        self._input_types = {spec.name: np.dtype(spec.dtype) for spec in record.inputs}
        self._output_types = {spec.name: np.dtype(spec.dtype) for spec in record.outputs}
        self._buffers: dict[str, _Buffer] = {}
        self._use_graphs = scratch_bytes is not None
        self._graphs: OrderedDict[Key, _Graph] = OrderedDict()
        self._seen: set[Key] = set()
        self._profile: int | None = None  # of self._context
        self._stream = device.stream()
        self._scratch = device.alloc(max(1, scratch_bytes)) if scratch_bytes is not None else None
        try:
            self._context = new_context(self._scratch)
        except BaseException:
            self.close()
            raise

    def run(self, inputs: dict[str, NDArray], profile: int) -> dict[str, NDArray]:
        """Run one batch that fits ``profile``; the outputs are the caller's own."""
        for name, array in inputs.items():
            self._send(name, np.ascontiguousarray(array, self._input_types[name]))
        shapes = {name: inputs[name].shape for name in self._input_types}
        key = (profile, tuple(shapes.values()))
        if graph := self._graphs.get(key):
            self._graphs.move_to_end(key)
            graph.launch()
            return self._fetch(graph.outputs)
        if self._use_graphs and key in self._seen:
            context, current = self._new_context(self._scratch), None
        else:
            context, current = self._context, self._profile
            self._profile = None  # unknown until it is set
        outputs = self._shape(context, profile, current, shapes)
        self._execute(context)
        if context is self._context:
            self._profile = profile
            self._seen.add(key)
        else:  # NVIDIA's recipe: enqueue once after a change of shapes, then capture
            self._capture(key, context, outputs)
        return self._fetch(outputs)

    def close(self) -> None:
        """Give memory and stream back."""
        self._graphs.clear()
        self._context = None
        memory: list[_Buffer | Memory] = [*self._buffers.values(), *([self._scratch] if self._scratch else [])]
        self._buffers.clear()
        self._scratch = None
        for each in memory:
            each.close()
        self._stream.close()

    def _send(self, name: str, array: NDArray) -> None:
        buffer = self._reserve(name, array.nbytes)
        buffer.host.array[: array.nbytes] = array.reshape(-1).view(np.uint8)
        self._device.h2d(buffer.gpu, buffer.host, array.nbytes, self._stream)

    def _reserve(self, name: str, size: int) -> _Buffer:
        """The tensor's buffer, grown to at least ``size`` bytes; captured graphs know the old address, so they go."""
        buffer = self._buffers.get(name)
        if buffer is not None and buffer.gpu.size >= size:
            return buffer
        if buffer is not None:
            self._stream.synchronize()
            self._graphs.clear()
            self._seen.clear()
            self._buffers.pop(name).close()
        capacity = 1 << max(size - 1, 255).bit_length()
        host = self._device.pinned(capacity)
        try:
            gpu = self._device.alloc(capacity)
        except BaseException:
            host.close()
            raise
        self._buffers[name] = _Buffer(host, gpu)
        return self._buffers[name]

    def _shape(self, context: Any, profile: int, current: int | None, shapes: Shapes) -> Shapes:
        """Give a context its profile, shapes and addresses; the shapes of its outputs."""
        if profile != current:
            if not context.set_optimization_profile_async(profile, self._stream.handle):
                raise EnvironmentMissing(f"TensorRT did not switch to profile {profile}", "see its log above")
            self._stream.synchronize()
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                raise EnvironmentMissing(f"TensorRT rejected the shape {shape} of {name}", "build the engine again")
        outputs = {name: tuple(context.get_tensor_shape(name)) for name in self._output_types}
        for name, shape in outputs.items():
            self._reserve(name, int(np.prod(shape)) * self._output_types[name].itemsize)
        for name, buffer in self._buffers.items():
            context.set_tensor_address(name, buffer.gpu.pointer)
        return outputs

    def _execute(self, context: Any) -> None:
        if not context.execute_async_v3(self._stream.handle):
            raise EnvironmentMissing("TensorRT could not queue the engine", "see its log; is the GPU's memory full?")

    def _capture(self, key: Key, context: Any, outputs: Shapes) -> None:
        """Keep a CUDA graph of what ``context`` just ran. Without one, this worker goes on without."""
        try:
            launch = self._device.capture(self._stream, lambda: self._execute(context))
        except Exception as e:  # whatever the driver says: plain enqueueing works
            log.warning("no CUDA graphs, as one could not be captured: %s", e)
            launch = None
        if launch is None:
            self._use_graphs = False
            return
        self._graphs[key] = _Graph(context, launch, outputs)
        if len(self._graphs) > GRAPHS:
            self._graphs.popitem(last=False)

    def _fetch(self, shapes: Shapes) -> dict[str, NDArray]:
        sizes = {name: int(np.prod(shape)) * self._output_types[name].itemsize for name, shape in shapes.items()}
        for name, size in sizes.items():
            buffer = self._buffers[name]
            self._device.d2h(buffer.host, buffer.gpu, size, self._stream)
        self._stream.synchronize()
        return {
            name: self._buffers[name].host.array[: sizes[name]].view(self._output_types[name]).reshape(shape).copy()
            for name, shape in shapes.items()
        }
