"""The device layer on cuda-core and cuda-bindings, NVIDIA's own Python packages: the default."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.device.base import Device, Memory, Pinned, Stream, no_gpu
from mmx.runtime.device.base import Event as AnyEvent
from mmx.runtime.device.probe import DriverProblem, ask_driver
from mmx.runtime.errors import EnvironmentMissing, missing_extra


def open_gpu(index: int = 0) -> CudaDevice:
    """Open a GPU by its number.

    Raises:
        EnvironmentMissing: cuda-core is not installed, or the driver does not work.
    """
    try:
        ask_driver(index)
    except DriverProblem as e:
        raise no_gpu(str(e)) from e
    try:
        import cuda.core as core
        from cuda.bindings import driver
    except ImportError as e:
        raise missing_extra("cuda-core", "tensorrt-rtx") from e
    return CudaDevice(core, driver, index)


class CudaDevice(Device):
    """A GPU through its primary context, which it shares with other users of CUDA in the process."""

    layer = "cuda"

    def __init__(self, core: Any, driver: Any, index: int = 0) -> None:
        self._core, self._driver = core, driver
        self._device = core.Device(index)
        self._device.set_current()
        self.name = str(self._device.name)
        major, minor = self._device.compute_capability
        self.capability = f"{major}.{minor}"

    @contextmanager
    def current(self) -> Iterator[None]:
        """See ``Device.current``. The primary context then stays the thread's, as CUDA's own runtime has it."""
        self._device.set_current()
        yield

    def alloc(self, size: int) -> Memory:
        """See ``Device.alloc``. Not stream-ordered, so that any stream may use it at once."""
        return _Memory(self, int(self.call("cuMemAlloc", size)), size)

    def pinned(self, size: int) -> Pinned:
        """See ``Device.pinned``."""
        return _Pinned(self, int(self.call("cuMemAllocHost", size)), size)

    def h2d(self, target: Memory, source: Pinned, size: int, stream: Stream) -> None:
        """See ``Device.h2d``."""
        self.call("cuMemcpyHtoDAsync", target.pointer, source.array.ctypes.data, size, stream.handle)

    def d2h(self, target: Pinned, source: Memory, size: int, stream: Stream) -> None:
        """See ``Device.d2h``."""
        self.call("cuMemcpyDtoHAsync", target.array.ctypes.data, source.pointer, size, stream.handle)

    def stream(self) -> CudaStream:
        """See ``Device.stream``."""
        return CudaStream(self._device.create_stream())

    def event(self) -> CudaEvent:
        """See ``Device.event``."""
        return CudaEvent(self._device.create_event(self._core.EventOptions(timing_enabled=True)))

    def capture(self, stream: Stream, work: Callable[[], None]) -> Callable[[], None]:
        """See ``Device.capture``."""
        assert isinstance(stream, CudaStream)
        builder = stream.inner.create_graph_builder().begin_building("thread_local")
        try:
            work()
        except BaseException:
            with suppress(Exception):  # what went wrong first is what counts
                builder.end_building()
            raise
        graph = builder.end_building().complete()
        return lambda: graph.launch(stream.inner)

    def close(self) -> None:
        """See ``Device.close``. The primary context belongs to the process and stays."""

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a driver function and return its one result, if it has one.

        Raises:
            EnvironmentMissing: the driver reports an error: out of memory, most often.
        """
        code, *results = getattr(self._driver, name)(*arguments)
        if int(code) != 0:
            _, text = self._driver.cuGetErrorString(code)
            said = text.decode() if isinstance(text, bytes) else str(code)
            raise EnvironmentMissing(
                f"{name} failed on the GPU: {said}", "if its memory is full, use fewer profiles or a smaller batch"
            )
        return results[0] if results else None


class _Memory:
    def __init__(self, device: CudaDevice, pointer: int, size: int) -> None:
        self._device, self.pointer, self.size = device, pointer, size

    def close(self) -> None:
        if self.pointer:
            self._device.call("cuMemFree", self.pointer)
            self.pointer = 0


class _Pinned:
    array: NDArray[np.uint8]

    def __init__(self, device: CudaDevice, address: int, size: int) -> None:
        self._device, self._address, self.size = device, address, size
        self.array = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def close(self) -> None:
        if self._address:
            self.array = np.empty(0, np.uint8)
            self._device.call("cuMemFreeHost", self._address)
            self._address = 0


class CudaStream:
    """A stream of cuda-core, found under ``inner``."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.handle = int(inner.handle)

    def synchronize(self) -> None:
        """See ``Stream.synchronize``."""
        self.inner.sync()

    def close(self) -> None:
        """See ``Stream.close``."""
        self.inner.close()


class CudaEvent:
    """An event of cuda-core, found under ``inner``."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def record(self, stream: Stream) -> None:
        """See ``Event.record``."""
        assert isinstance(stream, CudaStream)
        stream.inner.record(self.inner)

    def synchronize(self) -> None:
        """See ``Event.synchronize``."""
        self.inner.sync()

    def milliseconds_since(self, earlier: AnyEvent) -> float:
        """See ``Event.milliseconds_since``."""
        assert isinstance(earlier, CudaEvent)
        return float(self.inner - earlier.inner)
