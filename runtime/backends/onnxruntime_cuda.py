"""ONNX Runtime on an NVIDIA GPU: the package onnxruntime-gpu in place of onnxruntime, never beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from mmx.runtime.backends import Backend
from mmx.runtime.backends.lending import Lent
from mmx.runtime.backends.onnxruntime import tensors_of
from mmx.runtime.device.probe import DriverProblem, ask_driver
from mmx.runtime.errors import BadDataError, EnvironmentMissing

PROVIDER = "CUDAExecutionProvider"
SWAP = "pip uninstall -y onnxruntime, then pip install 'onnxruntime-gpu[cuda,cudnn]' (never both)"


def load(
    path: Path, precision: str = "fp32", threads: int | None = None, *, streams: int = 1, index: int = 0
) -> OnnxRuntimeCudaBackend:
    """Load the graph at ``path`` on GPU ``index``; ``precision`` is that of the file. FP32 is FP32, without TF32.

    Raises:
        EnvironmentMissing: this ONNX Runtime has no CUDA provider, the GPU does not work, or the provider fell back to
            the CPU.
        BadDataError: ONNX Runtime can't load the file.
    """
    if PROVIDER not in ort.get_available_providers():
        raise EnvironmentMissing(f"this ONNX Runtime ({ort.__version__}) has no CUDA provider", SWAP)
    try:
        gpu = ask_driver(index)
    except DriverProblem as e:
        raise EnvironmentMissing(f"ONNX Runtime cannot use a GPU: {e}", "use --backend onnxruntime") from e
    return OnnxRuntimeCudaBackend(path, precision, threads, gpu.name, streams, index)


class OnnxRuntimeCudaBackend(Backend):
    """A session with a CUDA stream of its own for each stream, with input and output binding."""

    name = "onnxruntime-cuda"

    def __init__(
        self, path: Path, precision: str, threads: int | None, device: str, streams: int = 1, index: int = 0
    ) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        provider = (PROVIDER, {"use_tf32": "0", "device_id": str(index)})
        try:
            sessions = [ort.InferenceSession(path, options, providers=[provider]) for _ in range(streams)]
        except Exception as e:  # ONNX Runtime's errors share no other base class
            raise BadDataError(f"ONNX Runtime cannot load {path} on the GPU: {e}", "run mmx export again") from e
        require_provider(sessions[0].get_providers())
        self._sessions = Lent(sessions)
        self._index = index
        self.precision, self.device, self.why = precision, device, "asked for"
        self.inputs = tuple(node.name for node in sessions[0].get_inputs())
        self.outputs = tuple(node.name for node in sessions[0].get_outputs())
        self.tensors = tensors_of(sessions[0])
        self.streams = streams

    def run(self, inputs: dict[str, NDArray]) -> dict[str, NDArray]:
        """See ``Backend.run``."""
        with self._sessions.one() as session:
            binding = session.io_binding()
            for name in self.inputs:
                value = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(inputs[name]), "cuda", self._index)
                binding.bind_ortvalue_input(name, value)
            for name in self.outputs:
                binding.bind_output(name, "cpu")
            session.run_with_iobinding(binding)
            return dict(zip(self.outputs, binding.copy_outputs_to_cpu(), strict=True))

    def close(self) -> None:
        """See ``Backend.close``."""
        self._sessions.close()


def require_provider(given: list[str]) -> None:
    """ONNX Runtime replaces a provider whose libraries are missing by the CPU, and only logs it.

    Raises:
        EnvironmentMissing: it did.
    """
    if PROVIDER not in given:
        raise EnvironmentMissing(
            f"ONNX Runtime did not give {PROVIDER}, only {', '.join(given)}: its CUDA or cuDNN libraries are missing",
            "pip install 'onnxruntime-gpu[cuda,cudnn]'",
        )
