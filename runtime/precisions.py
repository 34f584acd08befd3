"""Which precisions a bundle offers on a backend."""

from __future__ import annotations

from collections.abc import Iterator

from mmx.runtime.bundle import Bundle
from mmx.runtime.engines import ENGINE_GRAPHS

BF16_BACKENDS = ("openvino",)  # those that compute an fp32 graph in bfloat16


def precisions(bundle: Bundle, backend: str) -> Iterator[str]:
    """The precisions this bundle can be asked for on a backend, fp32 first; a machine may still lack one."""
    yield "fp32"
    if backend in BF16_BACKENDS:
        yield "bf16"
    yield from (name for name in bundle.precisions if name not in ("fp32", *ENGINE_GRAPHS.values()))
