"""What the TensorRT backend asks of a GPU: memory, copies, streams, events and, where there are any, CUDA graphs."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.errors import EnvironmentMissing, UsageError

VARIABLE = "MMX_CUDA"
LAYERS = {"cuda": "mmx.runtime.device.cuda", "pycuda": "mmx.runtime.device.pycuda"}
DEFAULT = "cuda"


class Memory(Protocol):
    """Memory on the GPU. ``pointer`` is its address, ``size`` its bytes."""

    pointer: int
    size: int

    def close(self) -> None:
        """Give it back."""


class Pinned(Protocol):
    """Page-locked memory of the host, which the GPU copies from and to without the CPU. ``array``: uint8 [size]."""

    array: NDArray[np.uint8]
    size: int

    def close(self) -> None:
        """Give it back; ``array`` is gone."""


class Stream(Protocol):
    """A queue of work on the GPU. ``handle``: the CUstream."""

    handle: int

    def synchronize(self) -> None:
        """Wait until everything in it is done."""

    def close(self) -> None:
        """Give it back."""


class Event(Protocol):
    """A mark in a stream."""

    def record(self, stream: Stream) -> None:
        """Put the mark behind what is in ``stream`` now."""

    def synchronize(self) -> None:
        """Wait until the mark is reached."""

    def milliseconds_since(self, earlier: Event) -> float:
        """Time between two marks that were reached."""


class Device(Protocol):
    """A GPU.

    CUDA's current device belongs to a thread: everything else happens inside ``current()``.

    Attributes:
        layer: the name of this layer, as ``MMX_CUDA`` takes it.
        name, capability: of the GPU, such as "NVIDIA GeForce RTX 4090" and "8.9".
    """

    layer: str
    name: str
    capability: str

    def current(self) -> AbstractContextManager[None]:
        """Make this the calling thread's device for as long as the block runs."""

    def alloc(self, size: int) -> Memory:
        """``size`` bytes on the GPU."""

    def pinned(self, size: int) -> Pinned:
        """``size`` bytes of page-locked host memory."""

    def h2d(self, target: Memory, source: Pinned, size: int, stream: Stream) -> None:
        """Queue a copy of the first ``size`` bytes to the GPU."""

    def d2h(self, target: Pinned, source: Memory, size: int, stream: Stream) -> None:
        """Queue a copy of the first ``size`` bytes to the host."""

    def stream(self) -> Stream:
        """A new stream, independent of the default one."""

    def event(self) -> Event:
        """A new event that can be timed."""

    def capture(self, stream: Stream, work: Callable[[], None]) -> Callable[[], None] | None:
        """Record what ``work`` queues in ``stream`` as a CUDA graph, without running it.

        Returns:
            A function that queues the graph, or None where this layer has no CUDA graphs (``work`` is not called).

        Raises:
            Exception: the driver or ``work`` failed; nothing is being captured any more.
        """

    def close(self) -> None:
        """Let go of the GPU."""


def open_device(layer: str | None = None, index: int = 0) -> Device:
    """Open a GPU through a layer: ``cuda`` (cuda-core, the default) or ``pycuda``.

    Args:
        layer: None takes the environment variable ``MMX_CUDA``, or the default.
        index: which GPU, as CUDA numbers them.

    Raises:
        UsageError: no such layer.
        EnvironmentMissing: its packages are not installed, or there is no driver or no such GPU.
    """
    name = layer or os.environ.get(VARIABLE, DEFAULT)
    if name not in LAYERS:
        raise UsageError(f"{VARIABLE}={name}: there is no such device layer", f"use {' or '.join(LAYERS)}")
    device: Device = import_module(LAYERS[name]).open_gpu(index)
    return device


def no_gpu(reason: str) -> EnvironmentMissing:
    """The error for a machine without a working GPU."""
    return EnvironmentMissing(
        f"no NVIDIA GPU can be used: {reason}", "run on the machine with the GPU, or use --backend onnxruntime"
    )
