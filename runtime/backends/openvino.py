"""OpenVINO on the CPU, in FP32, INT8 or (where the CPU has it) bfloat16: ``pip install 'mmx[openvino]'``."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.backends import Backend
from mmx.runtime.backends.lending import Lent
from mmx.runtime.errors import BadDataError, EnvironmentMissing, missing_extra
from mmx.runtime.manifest import TensorSpec
from mmx.runtime.splitting import batch_size, equally_long

DEVICE = "CPU"
# The Python binding of OpenVINO sets itself up in its first inference; two threads that are in their first at once wait
# for each other for ever, for the interpreter's lock and for the set-up (seen with 2026.4.1).
FIRST_RUN = threading.Lock()
RECURRENT = ("LSTMSequence", "GRUSequence", "RNNSequence")
HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "bf16"}  # int8: of what the graph does not quantise


def load(path: Path, precision: str = "fp32", threads: int | None = None, *, streams: int = 1) -> OpenVinoBackend:
    """Compile the graph at ``path``.

    Raises:
        EnvironmentMissing: OpenVINO is not installed, or this CPU has no bf16, or this precision is not offered.
        BadDataError: OpenVINO can't load the file.
    """
    if precision not in HINTS:
        raise EnvironmentMissing(
            f"the OpenVINO backend computes in {' or '.join(HINTS)}, not {precision}", "use --backend onnxruntime"
        )
    return OpenVinoBackend(path, precision, threads, streams)


class OpenVinoBackend(Backend):
    """One compiled model, with weights that all streams share, and an inference request for each stream."""

    name = "openvino"

    def __init__(self, path: Path, precision: str, threads: int | None, streams: int = 1) -> None:
        try:
            import openvino
        except ModuleNotFoundError as e:
            raise missing_extra("OpenVINO", "openvino") from e
        core = openvino.Core()
        has_bf16 = "BF16" in core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
        if precision == "bf16" and not has_bf16:
            raise EnvironmentMissing(
                "this CPU has no bf16 (AVX512-BF16 or AMX), so OpenVINO would not use it", "use --precision fp32"
            )
        # Without the hint OpenVINO computes an FP32 graph in bf16 wherever the CPU can: 7e-3 off, and unasked for.
        hint = HINTS[precision] if has_bf16 else "f32"
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads * streams
        if streams > 1:
            settings["NUM_STREAMS"] = streams
        try:
            compiled = core.compile_model(path, DEVICE, settings)
        except RuntimeError as e:
            raise BadDataError(f"OpenVINO cannot load {path}: {e}", "run mmx export again") from e
        self.inputs = tuple(port.get_any_name() for port in compiled.inputs)
        self.outputs = tuple(port.get_any_name() for port in compiled.outputs)
        self._by_length = any(name.endswith("_len") for name in self.inputs) and _has_recurrence(core, path)
        self._has_run = False
        self._requests: Lent[Any] = Lent([compiled.create_infer_request() for _ in range(streams)])
        self.streams = streams
        self.precision = precision
        self.device = str(core.get_property(DEVICE, "FULL_DEVICE_NAME"))
        self.why = "asked for"
        self.tensors = {port.get_any_name(): _spec(port) for port in (*compiled.inputs, *compiled.outputs)}

    def run(self, inputs: dict[str, NDArray]) -> dict[str, NDArray]:
        """See ``Backend.run``."""
        if not self._by_length:
            return self._run(inputs)
        outputs: dict[str, NDArray] = {}
        for places, group in equally_long(inputs):
            for name, values in self._run(group).items():
                whole = outputs.setdefault(name, np.empty((batch_size(inputs), *values.shape[1:]), values.dtype))
                whole[places] = values
        return outputs

    def _run(self, inputs: dict[str, NDArray]) -> dict[str, NDArray]:
        with self._requests.one() as request:
            if self._has_run:
                return self._infer(request, inputs)
            with FIRST_RUN:
                outputs = self._infer(request, inputs)
                self._has_run = True
                return outputs

    def _infer(self, request: Any, inputs: dict[str, NDArray]) -> dict[str, NDArray]:
        results = request.infer(inputs, share_inputs=True, share_outputs=False)
        return {name: results[number] for number, name in enumerate(self.outputs)}

    def close(self) -> None:
        """See ``Backend.close``."""
        self._requests.close()


def _spec(port: Any) -> TensorSpec:
    """What OpenVINO reports of an input or output; an axis that may have any size is a text."""
    axes = tuple("?" if axis.is_dynamic else axis.get_length() for axis in port.get_partial_shape())
    return TensorSpec(port.get_any_name(), port.get_element_type().to_dtype().name, axes)


def _has_recurrence(core: Any, path: Path) -> bool:
    """Whether the graph has an LSTM or its like. Where shapes are dynamic OpenVINO (2026.4) ignores their lengths and
    reads the padding, so that such a graph is given samples of equal lengths together, and no others.
    """
    return any(operator.get_type_name() in RECURRENT for operator in core.read_model(path).get_ops())
