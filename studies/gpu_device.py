"""The device layer on a real GPU: are copies, streams, events and graphs right, and how fast is the card?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mmx.runtime.device.base import Device, Memory, Pinned, Stream
from mmx.runtime.errors import EnvironmentMissing

COPY_BYTES = 256 * 2**20
ROUNDS = 10
MATRIX = 8192  # rows and columns of the product that shows what the tensor cores reach


def check_copies(device: Device) -> str:
    """Send noise to the GPU and back, through two buffers and in two streams that wait for each other's end."""
    size = 4 * 2**20
    noise = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    source, target, memory = device.pinned(size), device.pinned(size), device.alloc(size)
    streams = [device.stream(), device.stream()]
    try:
        source.array[:] = noise
        target.array[:] = 0
        device.h2d(memory, source, size, streams[0])
        streams[0].synchronize()
        device.d2h(target, memory, size, streams[1])
        streams[1].synchronize()
        if not np.array_equal(target.array, noise):
            raise RuntimeError("bytes changed on the way to the GPU and back")
    finally:
        _close(*streams, source, target, memory)
    return f"{size >> 20} MB there and back unchanged"


def check_graph(device: Device) -> str:
    """Capture two copies, change what is on the host, replay: the replay must carry the new bytes."""
    source, target, memory, stream = device.pinned(1024), device.pinned(1024), device.alloc(1024), device.stream()

    def copies() -> None:
        device.h2d(memory, source, 1024, stream)
        device.d2h(target, memory, 1024, stream)

    try:
        target.array[:] = 0
        replay = device.capture(stream, copies)
        if replay is None:
            return "this layer has none"
        stream.synchronize()
        if target.array.any():
            raise RuntimeError("capturing ran the work")
        for value in (3, 5):
            source.array[:] = value
            replay()
            stream.synchronize()
            if not (target.array == value).all():
                raise RuntimeError("a replayed graph did not do its copies")
    finally:
        _close(stream, source, target, memory)
    return "captured, replayed twice"


def copy_rates(device: Device) -> dict[str, float]:
    """GB/s between pinned memory and the GPU, by direction, by the GPU's own clock."""
    source, memory, stream = device.pinned(COPY_BYTES), device.alloc(COPY_BYTES), device.stream()
    try:
        ways: dict[str, Callable[[], None]] = {
            "h2d_gb_s": lambda: device.h2d(memory, source, COPY_BYTES, stream),
            "d2h_gb_s": lambda: device.d2h(source, memory, COPY_BYTES, stream),
        }
        return {name: ROUNDS * COPY_BYTES / 1e6 / _milliseconds(device, stream, way) for name, way in ways.items()}
    finally:
        _close(stream, source, memory)


def _close(*things: Memory | Pinned | Stream) -> None:
    for thing in things:
        thing.close()


def _milliseconds(device: Device, stream: Stream, work: Callable[[], None]) -> float:
    work()
    begin, end = device.event(), device.event()
    begin.record(stream)
    for _ in range(ROUNDS):
        work()
    end.record(stream)
    end.synchronize()
    return end.milliseconds_since(begin)


def product_rates() -> dict[str, float]:
    """TFLOP/s of a large matrix product in PyTorch, by type: what the card reaches at best. FP32 without TF32."""
    try:
        import torch
    except ModuleNotFoundError as e:
        raise EnvironmentMissing("torch is not installed", "pip install torch") from e
    if not torch.cuda.is_available():
        raise EnvironmentMissing(f"torch {torch.__version__} sees no GPU", "install torch's CUDA build")
    torch.backends.cuda.matmul.allow_tf32 = False
    rates = {}
    for name, kind in (("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)):
        a = torch.randn(MATRIX, MATRIX, device="cuda", dtype=kind)
        for _ in range(3):
            a @ a
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(ROUNDS):
            a @ a
        end.record()
        torch.cuda.synchronize()
        rates[f"{name}_tflop_s"] = ROUNDS * 2 * MATRIX**3 / begin.elapsed_time(end) / 1e9
    return rates
