"""The device layer without a GPU: it imports, says what is missing, and the pycuda adapter calls what pycuda has."""

from __future__ import annotations

import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mmx.runtime.device import pycuda
from mmx.runtime.device.base import open_device
from mmx.runtime.device.probe import find_gpu
from mmx.runtime.errors import EnvironmentMissing, UsageError

without_gpu = pytest.mark.skipif(find_gpu() is not None, reason="this machine has a GPU")


def test_importing_the_runtime_touches_neither_cuda_nor_tensorrt() -> None:
    code = (
        "import sys, mmx.runtime.backends.tensorrt, mmx.runtime.device.cuda, mmx.runtime.device.pycuda\n"
        "import mmx.runtime.backends.onnxruntime_cuda, mmx.runtime.engines\n"
        "heavy = ('cuda', 'tensorrt', 'tensorrt_rtx', 'pycuda', 'torch', 'onnx')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@without_gpu
def test_no_driver_is_one_clear_line() -> None:
    with pytest.raises(EnvironmentMissing, match="no NVIDIA driver"):
        open_device()


def test_the_variable_chooses_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMX_CUDA", "opencl")
    with pytest.raises(UsageError, match="MMX_CUDA=opencl"):
        open_device()
    monkeypatch.setenv("MMX_CUDA", "pycuda")
    with pytest.raises(EnvironmentMissing, match="pycuda is not installed"):
        open_device()


class FakePycuda:
    """The calls of ``pycuda.driver`` that the adapter makes, in host memory, with pycuda's own signatures."""

    class Error(Exception):
        pass

    def __init__(self) -> None:
        self.memory: dict[int, np.ndarray] = {}
        self.log: list[str] = []
        self.stack = threading.local()  # of contexts: each thread has its own
        self.Context = SimpleNamespace(pop=self._pop)

    def depth(self) -> int:
        return getattr(self.stack, "depth", 0)

    def _push(self) -> None:
        self.stack.depth = self.depth() + 1

    def _pop(self) -> None:
        assert self.depth() > 0
        self.stack.depth -= 1

    def init(self) -> None:
        self.log.append("init")

    @property
    def Device(self) -> Any:
        def device(number: int) -> Any:
            self.log.append(f"device {number}")
            return self._device()

        device.count = lambda: 2  # type: ignore[attr-defined]
        return device

    def _device(self) -> Any:
        context = SimpleNamespace(push=self._push, detach=lambda: self.log.append("detach"))
        return SimpleNamespace(
            name=lambda: "GPU", compute_capability=lambda: (8, 9), retain_primary_context=lambda: context
        )

    def mem_alloc(self, size: int) -> Any:
        assert self.depth() > 0
        array = np.zeros(size, np.uint8)
        self.memory[array.ctypes.data] = array

        class Allocation(int):
            def free(inner) -> None:
                del self.memory[int(inner)]

        return Allocation(array.ctypes.data)

    def pagelocked_empty(self, shape: int, dtype: Any) -> np.ndarray:
        return np.empty(shape, dtype)

    def memcpy_htod_async(self, dest: int, src: np.ndarray, stream: Any) -> None:
        self.memory[dest][: src.nbytes] = src

    def memcpy_dtoh_async(self, dest: np.ndarray, src: int, stream: Any) -> None:
        dest[:] = self.memory[src][: dest.nbytes]

    def Stream(self) -> Any:
        return SimpleNamespace(handle=7, synchronize=lambda: self.log.append("synchronize"))

    def Event(self) -> Any:
        return SimpleNamespace(record=lambda stream: self.log.append(f"record {stream.handle}"))


def test_pycuda_opens_the_gpu_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakePycuda()
    monkeypatch.setattr(pycuda, "import_module", lambda name: fake)
    open_device("pycuda", index=1)
    assert "device 1" in fake.log
    with pytest.raises(EnvironmentMissing, match="there is no GPU 2, the driver has 2"):
        open_device("pycuda", index=2)


def test_the_pycuda_adapter_copies_through_the_gpu_and_back(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakePycuda()
    monkeypatch.setattr(pycuda, "import_module", lambda name: fake)
    device = open_device("pycuda")
    assert (device.layer, device.name, device.capability) == ("pycuda", "GPU", "8.9")
    with device.current():
        stream, memory = device.stream(), device.alloc(16)
        source, target = device.pinned(16), device.pinned(16)
        source.array[:] = np.arange(16)
        target.array[:] = 99
        device.h2d(memory, source, 16, stream)
        device.d2h(target, memory, 10, stream)
        stream.synchronize()
        np.testing.assert_array_equal(target.array, [*range(10), *[99] * 6])
        device.event().record(stream)
        assert device.capture(stream, lambda: pytest.fail("pycuda has no graphs")) is None
        memory.close()
        memory.close()
    device.close()
    assert not fake.memory and fake.log == ["init", "device 0", "synchronize", "record 7", "detach"]


def test_pycuda_leaves_no_context_on_any_threads_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is left there when the thread or the process ends aborts the process."""
    fake = FakePycuda()
    monkeypatch.setattr(pycuda, "import_module", lambda name: fake)
    left = []

    def load() -> None:
        device = open_device("pycuda")
        with device.current(), pytest.raises(ValueError), device.current():
            raise ValueError
        left.append((fake.depth(), device))

    loader = threading.Thread(target=load)
    loader.start()
    loader.join()
    depth, device = left[0]
    assert depth == fake.depth() == 0
    with device.current():
        device.alloc(16).close()
    assert fake.depth() == 0
