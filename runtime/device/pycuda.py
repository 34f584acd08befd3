"""The device layer on pycuda, for those who have it (``pip install 'mmx[pycuda]'`` needs nvcc). No CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.device.base import Device, Memory, Pinned, Stream, no_gpu
from mmx.runtime.device.base import Event as AnyEvent
from mmx.runtime.errors import missing_extra


def open_gpu(index: int = 0) -> PycudaDevice:
    """Open a GPU by its number.

    Raises:
        EnvironmentMissing: pycuda is not installed, or the driver does not work.
    """
    try:
        driver = import_module("pycuda.driver")
    except ModuleNotFoundError as e:
        raise missing_extra("pycuda", "pycuda") from e
    except ImportError as e:  # pycuda links against the driver
        raise no_gpu(f"pycuda cannot load the driver: {e}") from e
    try:
        driver.init()
        if index >= driver.Device.count():
            raise no_gpu(f"there is no GPU {index}, the driver has {driver.Device.count()}")
        return PycudaDevice(driver, index)
    except driver.Error as e:
        raise no_gpu(str(e)) from e


class PycudaDevice(Device):
    """A GPU through its primary context."""

    layer = "pycuda"

    def __init__(self, driver: Any, index: int = 0) -> None:
        self._driver = driver
        device = driver.Device(index)
        self._context = device.retain_primary_context()
        self.name = str(device.name())
        major, minor = device.compute_capability()
        self.capability = f"{major}.{minor}"

    @contextmanager
    def current(self) -> Iterator[None]:
        """See ``Device.current``. A context that a thread leaves behind on its stack aborts the process at its end."""
        self._context.push()
        try:
            yield
        finally:
            self._driver.Context.pop()

    def alloc(self, size: int) -> Memory:
        """See ``Device.alloc``."""
        return _Memory(self._driver.mem_alloc(size), size)

    def pinned(self, size: int) -> Pinned:
        """See ``Device.pinned``."""
        return _Pinned(self._driver.pagelocked_empty(size, np.uint8))

    def h2d(self, target: Memory, source: Pinned, size: int, stream: Stream) -> None:
        """See ``Device.h2d``."""
        assert isinstance(stream, PycudaStream)
        self._driver.memcpy_htod_async(target.pointer, source.array[:size], stream.inner)

    def d2h(self, target: Pinned, source: Memory, size: int, stream: Stream) -> None:
        """See ``Device.d2h``."""
        assert isinstance(stream, PycudaStream)
        self._driver.memcpy_dtoh_async(target.array[:size], source.pointer, stream.inner)

    def stream(self) -> PycudaStream:
        """See ``Device.stream``."""
        return PycudaStream(self._driver.Stream())

    def event(self) -> PycudaEvent:
        """See ``Device.event``."""
        return PycudaEvent(self._driver.Event())

    def capture(self, stream: Stream, work: Callable[[], None]) -> None:
        """pycuda has no CUDA graphs."""

    def close(self) -> None:
        """See ``Device.close``."""
        self._context.detach()


class _Memory:
    def __init__(self, inner: Any, size: int) -> None:
        self._inner, self.pointer, self.size = inner, int(inner), size

    def close(self) -> None:
        if self.pointer:
            self._inner.free()
            self.pointer = 0


class _Pinned:
    array: NDArray[np.uint8]

    def __init__(self, array: NDArray[np.uint8]) -> None:
        self.array, self.size = array, array.nbytes

    def close(self) -> None:
        self.array = np.empty(0, np.uint8)  # pycuda frees the memory with its last array


class PycudaStream:
    """A stream of pycuda, found under ``inner``."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.handle = int(inner.handle)

    def synchronize(self) -> None:
        """See ``Stream.synchronize``."""
        self.inner.synchronize()

    def close(self) -> None:
        """pycuda frees it with its last reference."""


class PycudaEvent:
    """An event of pycuda, found under ``inner``."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def record(self, stream: Stream) -> None:
        """See ``Event.record``."""
        assert isinstance(stream, PycudaStream)
        self.inner.record(stream.inner)

    def synchronize(self) -> None:
        """See ``Event.synchronize``."""
        self.inner.synchronize()

    def milliseconds_since(self, earlier: AnyEvent) -> float:
        """See ``Event.milliseconds_since``."""
        assert isinstance(earlier, PycudaEvent)
        return float(self.inner.time_since(earlier.inner))
