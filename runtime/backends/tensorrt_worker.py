"""One execution context with its own stream and buffers: what runs one batch at a time on the GPU."""

from __future__ import annotations

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
Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class _Buffer:
    """Where a tensor lies: on the host for the copy, and on the GPU."""

    host: Pinned
    gpu: Memory

    def close(self) -> None:
        self.host.close()
        self.gpu.close()


class Worker:
    """Not thread-safe: ``TensorRtBackend`` lends a worker to one thread at a time.

    Args:
        trt: the flavour's module. context: an execution context of the engine, this worker's own.
        device: the GPU, current in the calling thread. record: of the engine.
        graphs: capture CUDA graphs (TensorRT-RTX does that by itself).
    """

    def __init__(self, trt: Any, context: Any, device: Device, record: EngineRecord, graphs: bool) -> None:
        self._context, self._device = context, device
        self._input_types = {spec.name: np.dtype(spec.dtype) for spec in record.inputs}
        self._output_types = {spec.name: np.dtype(spec.dtype) for spec in record.outputs}
        self._stream = device.stream()
        self._buffers: dict[str, _Buffer] = {}
        self._profile: int | None = None
        self._use_graphs = graphs
        self._graphs: OrderedDict[tuple[int, Shapes], Callable[[], None]] = OrderedDict()
        self._seen: set[tuple[int, Shapes]] = set()

    def run(self, inputs: dict[str, NDArray], profile: int) -> dict[str, NDArray]:
        """Run one batch that fits ``profile``; the outputs are the caller's own."""
        self._set_profile(profile)
        for name, array in inputs.items():
            self._send(name, np.ascontiguousarray(array, self._input_types[name]))
        shapes = {name: tuple(self._context.get_tensor_shape(name)) for name in self._output_types}
        for name, shape in shapes.items():
            self._reserve(name, int(np.prod(shape)) * self._output_types[name].itemsize)
        self._enqueue((profile, tuple(inputs[name].shape for name in self._input_types)))
        return self._fetch(shapes)

    def close(self) -> None:
        """Give memory and stream back."""
        self._graphs.clear()
        for buffer in self._buffers.values():
            buffer.close()
        self._buffers.clear()
        self._stream.close()
        self._context = None

    def _set_profile(self, profile: int) -> None:
        if profile != self._profile:
            if not self._context.set_optimization_profile_async(profile, self._stream.handle):
                raise EnvironmentMissing(f"TensorRT did not switch to profile {profile}", "see its log above")
            self._stream.synchronize()
            self._profile = profile

    def _send(self, name: str, array: NDArray) -> None:
        buffer = self._reserve(name, array.nbytes)
        buffer.host.array[: array.nbytes] = array.reshape(-1).view(np.uint8)
        self._device.h2d(buffer.gpu, buffer.host, array.nbytes, self._stream)
        if not self._context.set_input_shape(name, array.shape):
            raise EnvironmentMissing(f"TensorRT rejected the shape {array.shape} of {name}", "build the engine again")

    def _reserve(self, name: str, size: int) -> _Buffer:
        """The tensor's buffer, grown to at least ``size`` bytes; captured graphs know the old address, so they go."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.gpu.size < size:
            if buffer is not None:
                self._stream.synchronize()
                buffer.close()
                self._graphs.clear()
                self._seen.clear()
            capacity = 1 << max(size - 1, 255).bit_length()
            buffer = _Buffer(self._device.pinned(capacity), self._device.alloc(capacity))
            self._buffers[name] = buffer
            self._context.set_tensor_address(name, buffer.gpu.pointer)
        return buffer

    def _enqueue(self, key: tuple[int, Shapes]) -> None:
        """Queue the engine: plainly the first time a shape comes, as a CUDA graph from its second time on."""
        if (graph := self._graphs.get(key)) is None and self._use_graphs and key in self._seen:
            graph = self._device.capture(self._stream, self._execute)
            self._use_graphs = graph is not None
        if graph is None:
            self._execute()
            self._seen.add(key)
            return
        graph()
        self._graphs[key] = graph
        self._graphs.move_to_end(key)
        if len(self._graphs) > GRAPHS:
            self._graphs.popitem(last=False)

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._stream.handle):
            raise EnvironmentMissing("TensorRT could not queue the engine", "see its log; is the GPU's memory full?")

    def _fetch(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, NDArray]:
        sizes = {name: int(np.prod(shape)) * self._output_types[name].itemsize for name, shape in shapes.items()}
        for name, size in sizes.items():
            buffer = self._buffers[name]
            self._device.d2h(buffer.host, buffer.gpu, size, self._stream)
        self._stream.synchronize()
        return {
            name: self._buffers[name].host.array[: sizes[name]].view(self._output_types[name]).reshape(shape).copy()
            for name, shape in shapes.items()
        }
