"""Stand-ins for what needs a GPU: a device whose memory is the host's, and a TensorRT that runs the ONNX graph.

They keep TensorRT's manners: addresses are raw pointers, work happens when the stream is synchronised (not when it is
queued), a context serves one thread, shapes outside the profile are rejected, what was captured from a context is void
when its shapes change, memory is taken and given back while the device is current, and an engine is bytes.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnxruntime as ort

from mmx.runtime.errors import EnvironmentMissing
from mmx.runtime.records import EngineRecord


class HostMemory:
    def __init__(self, device: HostDevice, size: int) -> None:
        self.array = np.full(size, 0xAB, np.uint8)  # never zero by luck
        self.size, self._device = size, device
        self.pointer = self.array.ctypes.data
        device.open += 1

    def close(self) -> None:
        assert self._device.is_current(), "memory is given back without the device"
        assert self.pointer, "memory is given back twice"
        self.pointer = 0
        self.array[:] = 0xCD
        self._device.open -= 1
        self._device.graveyard.append(self.array)  # a stale pointer then reads 0xCD, not freed memory


class HostStream:
    def __init__(self, device: HostDevice) -> None:
        self.queue: list[Callable[[], None]] = []
        self.recording: list[Callable[[], None]] | None = None
        self.handle = id(self)
        device.streams[self.handle] = self

    def put(self, work: Callable[[], None]) -> None:
        (self.queue if self.recording is None else self.recording).append(work)

    def synchronize(self) -> None:
        assert self.recording is None, "a stream cannot be waited for while it is captured"
        for work in self.queue:
            work()
        self.queue.clear()

    def close(self) -> None:
        assert not self.queue


class HostEvent:
    """Done when it is recorded and its stream has been emptied; waiting for it empties the stream."""

    def record(self, stream: HostStream) -> None:
        self.stream, self.at = stream, 0.0
        stream.put(lambda: setattr(self, "at", time.perf_counter()))

    def synchronize(self) -> None:
        self.stream.synchronize()

    def milliseconds_since(self, earlier: HostEvent) -> float:
        assert earlier.at and self.at, "not reached yet"
        return 1e3 * (self.at - earlier.at)


class HostDevice:
    """``Device`` in host memory. ``open``: buffers not yet closed. ``captured``: CUDA graphs made."""

    layer, name, capability = "host", "a GPU that is not there", "8.9"

    def __init__(self, graphs: bool = True) -> None:
        self.graphs, self.open, self.captured = graphs, 0, 0
        self.streams: dict[int, HostStream] = {}
        self.graveyard: list[np.ndarray] = []
        self.room: int | None = None  # buffers that there is still room for, where that is limited
        self.users = threading.local()

    def is_current(self) -> bool:
        return getattr(self.users, "depth", 0) > 0

    @contextmanager
    def current(self) -> Iterator[None]:
        self.users.depth = getattr(self.users, "depth", 0) + 1
        yield
        self.users.depth -= 1

    def alloc(self, size: int) -> HostMemory:
        assert self.is_current(), "memory is taken without the device"
        if self.room is not None:
            if not self.room:
                raise EnvironmentMissing("cuMemAlloc failed on the GPU: out of memory", "use fewer profiles")
            self.room -= 1
        return HostMemory(self, size)

    def pinned(self, size: int) -> HostMemory:
        return self.alloc(size)

    def h2d(self, target: HostMemory, source: HostMemory, size: int, stream: HostStream) -> None:
        stream.put(lambda: np.copyto(target.array[:size], source.array[:size]))

    def d2h(self, target: HostMemory, source: HostMemory, size: int, stream: HostStream) -> None:
        stream.put(lambda: np.copyto(target.array[:size], source.array[:size]))

    def stream(self) -> HostStream:
        return HostStream(self)

    def event(self) -> HostEvent:
        return HostEvent()

    def capture(self, stream: HostStream, work: Callable[[], None]) -> Callable[[], None] | None:
        if not self.graphs:
            return None
        stream.recording = []
        try:
            work()
        finally:
            recorded, stream.recording = stream.recording, None
        self.captured += 1
        return lambda: stream.queue.extend(recorded)

    def close(self) -> None:
        pass


class FakeTrt:
    """The part of the ``tensorrt`` module that the runtime uses; an engine's bytes are an ONNX file."""

    class ILogger:
        ERROR = 1

    class ExecutionContextAllocationStrategy:
        USER_MANAGED = "user managed"

    class TensorIOMode:
        INPUT, OUTPUT = "input", "output"

    def __init__(self, record: EngineRecord, device: HostDevice) -> None:
        self.record, self.device = record, device
        self.contexts: list[FakeContext] = []

    def nptype(self, kind: str) -> np.dtype:
        return np.dtype(kind)

    def Runtime(self, logger: Any) -> FakeRuntime:
        return FakeRuntime(self, logger)


class FakeRuntime:
    def __init__(self, trt: FakeTrt, logger: Any) -> None:
        self.trt, self.logger = trt, logger

    def deserialize_cuda_engine(self, data: bytes) -> FakeEngine | None:
        if data.startswith(b"bad"):
            self.logger.log(1, "the engine plan file is not compatible")
            return None
        return FakeEngine(self.trt, data)


class FakeEngine:
    def __init__(self, trt: FakeTrt, data: bytes) -> None:
        self.trt = trt
        self.session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
        self.tensors = [*self.session.get_inputs(), *self.session.get_outputs()]
        self.num_io_tensors = len(self.tensors)
        self.device_memory_size_v2 = 1000

    def get_tensor_name(self, number: int) -> str:
        return str(self.tensors[number].name)

    def get_tensor_mode(self, name: str) -> str:
        return "input" if name in {tensor.name for tensor in self.session.get_inputs()} else "output"

    def get_tensor_dtype(self, name: str) -> str:
        kind = next(tensor.type for tensor in self.tensors if tensor.name == name)
        return {"tensor(float)": "float32", "tensor(int64)": "int64"}[kind]

    def create_execution_context(self, strategy: str) -> FakeContext:
        assert strategy == self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = FakeContext(self)
        self.trt.contexts.append(context)
        return context


class FakeContext:
    """Fails loudly on what TensorRT forbids: two threads at once, unset addresses, shapes outside the profile."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.profile = engine, 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.profiles_used: list[int] = []
        self.version = 0  # grows whenever profile or shapes change
        self.enqueued = -1  # the version that was last enqueued outside a capture
        self.memory = 0
        self.busy = threading.Lock()

    def set_optimization_profile_async(self, number: int, stream: int) -> bool:
        self.profile = number
        self.shapes.clear()
        self.version += 1
        return True

    def set_device_memory(self, pointer: int, size: int) -> None:
        assert size >= self.engine.device_memory_size_v2
        self.memory = pointer

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = tuple(shape)
        self.version += 1
        return self.engine.trt.record.profiles[self.profile].fits({name: tuple(shape)})

    def set_tensor_address(self, name: str, pointer: int) -> None:
        self.addresses[name] = pointer

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes["input_ids"][0], 6

    def execute_async_v3(self, handle: int) -> bool:
        assert self.busy.acquire(blocking=False), "two threads use one context"
        try:
            time.sleep(0.001)
            self.profiles_used.append(self.profile)
            assert self.memory, "a context without memory of its own was given none"
            stream, version = self.engine.trt.device.streams[handle], self.version
            if stream.recording is None:
                self.enqueued = version
            assert self.enqueued == version, "captured directly after a change of shapes"
            shapes, addresses = dict(self.shapes), dict(self.addresses)

            def compute() -> None:
                assert self.version == version, "the context changed since this was captured"
                self._compute(shapes, addresses)

            stream.put(compute)
        finally:
            self.busy.release()
        return True

    def _compute(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> None:
        session = self.engine.session
        inputs = {
            name: _at(addresses[name], shape, self.engine.get_tensor_dtype(name)) for name, shape in shapes.items()
        }
        for output, value in zip(session.get_outputs(), session.run(None, inputs), strict=True):
            _at(addresses[output.name], value.shape, "float32")[...] = value


def _at(address: int, shape: tuple[int, ...], kind: str) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), np.dtype(kind)).reshape(shape)
