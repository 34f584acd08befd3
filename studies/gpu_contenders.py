"""What runs against each other on a GPU: mmx's GPU backends, and the same system in PyTorch on the same card."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmx.benchmarks.contenders.bundles import BundleContender
from mmx.benchmarks.contenders.prepare import Prepared
from mmx.evaluation.timing import Contender
from mmx.runtime.device.trt import FLAVOURS
from mmx.runtime.errors import EnvironmentMissing, UsageError
from mmx.runtime.packing import INPUTS, inputs_for
from mmx.runtime.types import Sample

PRECISIONS = ("fp32", "fp16")
Maker = tuple[str, Callable[[], Contender]]


def makers(prepared: Prepared) -> Iterator[Maker]:
    """Every contender of a system by key (system/runner/precision), and how to open it; opening may be rejected."""
    system, bundle = prepared.system, prepared.bundle
    for backend in (*FLAVOURS, "onnxruntime-cuda"):
        for precision in PRECISIONS:
            yield (
                f"{system}/{backend}/{precision}",
                lambda b=backend, p=precision: BundleContender(system, bundle, b, p, None),  # type: ignore[misc]
            )
    for runner, precision in (("torch-eager", "fp32"), ("torch-eager", "fp16"), ("torch-compile", "fp16")):
        yield (
            f"{system}/{runner}/{precision}",
            lambda r=runner, p=precision: TorchOnGpu(prepared, r, p),  # type: ignore[misc]
        )


class TorchOnGpu:
    """The folded PyTorch system on the GPU, on mmx's own packed inputs; FP16 is autocast, FP32 is without TF32.

    Raises:
        EnvironmentMissing: no torch, no GPU for it, or it cannot be compiled.
        UsageError: the system takes features, not media.
    """

    def __init__(self, prepared: Prepared, runner: str, precision: str) -> None:
        try:
            import torch
        except ModuleNotFoundError as e:
            raise EnvironmentMissing("torch is not installed", "pip install torch") from e
        if not torch.cuda.is_available():
            raise EnvironmentMissing(f"torch {torch.__version__} sees no GPU", "install torch's CUDA build")
        if any(spec.name not in INPUTS for spec in prepared.bundle.manifest.graphs["fp32"].inputs):
            raise UsageError(f"{prepared.system} takes features", "it is compared on the CPU by mmx bench")
        from mmx.benchmarks.contenders.upstream import upstream_module
        from mmx.export.folding.fold import fold

        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        module, _ = fold(upstream_module(prepared.system, prepared.preset, prepared.checkpoint))
        self.key = f"{prepared.system}/{runner}/{precision}"
        self._torch, self._half = torch, precision == "fp16"
        self._module: Any = module.eval().cuda()
        if runner == "torch-compile":
            self._module = torch.compile(self._module, mode="max-autotune-no-cudagraphs", dynamic=True)
        self._manifest = prepared.bundle.manifest

    def run(self, samples: Sequence[Sample]) -> NDArray[np.float32]:
        """Fused logits [samples, labels]."""
        torch = self._torch
        inputs = inputs_for(self._manifest, samples)
        with torch.inference_mode(), torch.autocast("cuda", torch.float16, enabled=self._half):
            tensors = [torch.from_numpy(inputs[name]).pin_memory().cuda(non_blocking=True) for name in INPUTS]
            logits: NDArray[np.float32] = self._module(*tensors)[0].float().cpu().numpy()
        return logits

    def close(self) -> None:
        """Give the GPU's memory back."""
        self._module = None
        self._torch.cuda.empty_cache()
