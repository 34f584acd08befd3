"""Is there an NVIDIA GPU? Asked of the driver itself, without any CUDA package."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


@dataclass(frozen=True)
class Gpu:
    """A GPU: its name, compute capability ("8.9"), memory in bytes, and the CUDA version of the driver."""

    name: str
    capability: str
    memory: int
    cuda: str


class DriverProblem(Exception):
    """There is a driver, but it does not work; the message is what it said."""


def find_gpu() -> Gpu | None:
    """The first GPU, or None where there is no driver or no device. See ``ask_driver`` for the reason."""
    try:
        return ask_driver()
    except DriverProblem:
        return None


def ask_driver(index: int = 0) -> Gpu:
    """A GPU that the driver knows, by its number.

    Raises:
        DriverProblem: no driver library, it cannot start, or it has no such device.
    """
    try:
        driver = ctypes.CDLL(_LIBRARY)
    except OSError as e:
        raise DriverProblem(f"there is no NVIDIA driver ({_LIBRARY} cannot be loaded)") from e
    _check(driver, "cuInit", driver.cuInit(0))
    version, count, device = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    _check(driver, "cuDriverGetVersion", driver.cuDriverGetVersion(ctypes.byref(version)))
    _check(driver, "cuDeviceGetCount", driver.cuDeviceGetCount(ctypes.byref(count)))
    if count.value == 0:
        raise DriverProblem("the NVIDIA driver has no device")
    if index >= count.value:
        raise DriverProblem(f"there is no GPU {index}, the driver has {count.value} (cuda:0 is the first)")
    _check(driver, "cuDeviceGet", driver.cuDeviceGet(ctypes.byref(device), index))
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    _check(driver, "cuDeviceGetName", driver.cuDeviceGetName(name, len(name), device))
    _check(driver, "cuDeviceTotalMem", driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device))
    numbers = []
    for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
        value = ctypes.c_int()
        _check(driver, "cuDeviceGetAttribute", driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device))
        numbers.append(value.value)
    cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return Gpu(name.value.decode(errors="replace"), f"{numbers[0]}.{numbers[1]}", memory.value, cuda)


def _check(driver: ctypes.CDLL, call: str, code: int) -> None:
    if code:
        text = ctypes.c_char_p()
        driver.cuGetErrorString(code, ctypes.byref(text))
        said = text.value.decode(errors="replace") if text.value else f"error {code}"
        raise DriverProblem(f"the NVIDIA driver says to {call}: {said}")
