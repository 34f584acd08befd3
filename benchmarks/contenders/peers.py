"""What mmx is compared with: the same weights, run the way people run the public code.

- ``eager``: PyTorch on the unfolded module as V2EM's trainer evaluates it: RepVGG blocks switched to their single
branch,
  text padded to 100 tokens, one sample at a time. It is the baseline, and the reference that parity is checked against.
- ``compile``: that module through ``torch.compile``.
- ``plain-onnx``: that module through ``torch.onnx.export`` and ONNX Runtime, both with their defaults.
- ``openvino-own``: that module through OpenVINO's own PyTorch conversion, with its defaults.

All get text padded to 100 and one sample at a time, and as many threads as mmx gets.
"""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmx.benchmarks.contenders.upstream import Inputs, upstream_inputs
from mmx.benchmarks.reports.report import EAGER, PEERS
from mmx.benchmarks.workload.utterances import make_sample, synthetic
from mmx.runtime.errors import EnvironmentMissing, UsageError, missing_extra
from mmx.runtime.packing import INPUTS
from mmx.runtime.types import Sample

# The axes that differ from sample to sample when the text is padded and the batch is 1.
RAGGED_AXES = {"faces": 0, "face_index": 1, "pieces": 0, "piece_index": 1}


class Peer:
    """Runs samples one at a time: ``call`` takes the inputs of one and gives its fused logits [1, labels]."""

    def __init__(self, key: str, call: Callable[[Inputs], NDArray[np.float32]]) -> None:
        self.key = key
        self._call: Callable[[Inputs], NDArray[np.float32]] | None = call

    def run(self, samples: Sequence[Sample]) -> NDArray[np.float32]:
        """Fused logits [samples, labels]."""
        if self._call is None:
            raise RuntimeError("this peer is closed")
        return np.concatenate([self._call(upstream_inputs(sample)) for sample in samples])

    def close(self) -> None:
        """Drop the model."""
        self._call = None


def open_peer(name: str, system: str, module: nn.Module, threads: int, cache: Path) -> Peer:
    """A peer ready to run.

    Args:
        name: one of ``PEERS``. module: from ``upstream_form``; shared, not changed.
        cache: folder of this system's weights, where ``plain-onnx`` keeps its graph.

    Raises:
        EnvironmentMissing: this peer can't be had here; the message says what it lacks. UsageError: no such peer.
    """
    torch.set_num_threads(threads)
    if name == EAGER:
        return Peer(f"{system}/{name}/fp32", _torch_call(module))
    if name == "compile":
        return Peer(f"{system}/{name}/fp32", _compiled(module))
    if name == "plain-onnx":
        return Peer(f"{system}/{name}/fp32", _plain_onnx(module, threads, cache / "plain.onnx"))
    if name == "openvino-own":
        call, precision = _openvino_own(module, threads)
        return Peer(f"{system}/{name}/{precision}", call)
    raise UsageError(f"there is no peer {name!r}", f"choose from {', '.join(PEERS)}")


def _torch_call(module: Callable[..., Any]) -> Callable[[Inputs], NDArray[np.float32]]:
    def call(inputs: Inputs) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: Tensor = module(**{name: torch.from_numpy(array) for name, array in inputs.items()})[0]
        return logits.numpy()

    return call


def _compiled(module: nn.Module) -> Callable[[Inputs], NDArray[np.float32]]:
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise EnvironmentMissing(f"torch.compile needs a C++ compiler and there is no {compiler}", "install g++")
    call = _torch_call(torch.compile(module, dynamic=True))
    try:
        call(_example())
    except Exception as e:  # Inductor's failures share no base class
        raise EnvironmentMissing(f"torch.compile failed: {_first_line(e)}", "leave it out with --peers") from e
    return call


def _plain_onnx(module: nn.Module, threads: int, path: Path) -> Callable[[Inputs], NDArray[np.float32]]:
    import onnxruntime

    if not path.exists():
        _export_plainly(module, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    first = session.get_outputs()[0].name

    def call(inputs: Inputs) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = session.run([first], inputs)[0]
        return logits

    return call


def _export_plainly(module: nn.Module, path: Path) -> None:
    """``torch.onnx.export`` as its documentation shows it, under a temporary name until it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name("unfinished.onnx")
    axes = {name: {axis: torch.export.Dim.DYNAMIC} for name, axis in RAGGED_AXES.items()}
    shapes = {name: axes.get(name, {}) for name in INPUTS}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it lists what of torchvision is not installed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module, kwargs=_tensors(_example()), dynamic_shapes=shapes, input_names=list(INPUTS), verbose=False
        )
        assert program is not None
        program.save(str(unfinished), external_data=False)
    unfinished.replace(path)


def _openvino_own(module: nn.Module, threads: int) -> tuple[Callable[[Inputs], NDArray[np.float32]], str]:
    """The call, and the precision that OpenVINO chose: bfloat16 unasked where the CPU has it."""
    try:
        import openvino
    except ModuleNotFoundError as e:
        raise missing_extra("OpenVINO", "openvino") from e
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = openvino.convert_model(module, example_input=_tensors(_example()))
        except Exception as e:  # whatever its converter stumbles over
            raise EnvironmentMissing(f"OpenVINO's own conversion failed: {_first_line(e)}") from e
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": threads})
    request = compiled.create_infer_request()
    names = [port.get_any_name() for port in compiled.inputs]

    def call(inputs: Inputs) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = request.infer([inputs[name] for name in names], share_inputs=True)[0]
        return logits

    chosen = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return call, {"f32": "fp32", "f16": "fp16"}.get(chosen, chosen)


def _example() -> Inputs:
    """A sample of middling length to trace with: no ragged axis of it is 0 or 1."""
    return upstream_inputs(make_sample(next(u for u in synthetic("iemocap").utterances if 3 < u.duration < 4)))


def _tensors(inputs: Inputs) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in inputs.items()}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
