"""What mmx is compared with: the same weights, run the way people run the public code.

- ``eager``: PyTorch on the unfolded module as V2EM's trainer evaluates it: RepVGG blocks in their deployed form, text
  padded to 100 tokens, one sample at a time. It is the baseline, and the reference that parity is checked against.
- ``compile``: that module through ``torch.compile``.
- ``plain-onnx``: that module through ``torch.onnx.export`` and ONNX Runtime, both with their defaults.
- ``openvino-own``: that module through OpenVINO's own PyTorch conversion, with its defaults.

All get text padded to 100 and one sample at a time, and as many threads as mmx gets. ``UnpaddedPeer`` is the exception:
OpenVINO's own conversion in the offline scenario, batched as mmx is.
"""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmx.benchmarks.contenders.upstream import Inputs, upstream_inputs
from mmx.benchmarks.results import EAGER, PEERS
from mmx.benchmarks.workload.utterances import make_sample, synthetic
from mmx.export.specs import spec_for
from mmx.runtime.errors import EnvironmentMissing, UsageError, missing_extra
from mmx.runtime.files import whole_file
from mmx.runtime.packing import INPUTS, feature_sizes, pack, pack_features
from mmx.runtime.types import Sample

Call = Callable[[Inputs], NDArray[np.float32]]
InputsOf = Callable[[Sample], Inputs]
PLAIN_GRAPH, OWN_GRAPH = "plain.onnx", "own.xml"
# The axes that differ from sample to sample when the text is padded and the batch is 1.
RAGGED_AXES = {"faces": 0, "face_index": 1, "pieces": 0, "piece_index": 1}


class Peer:
    """Runs samples one at a time: ``call`` takes the inputs of one and gives its fused logits [1, labels]."""

    def __init__(self, key: str, call: Call, inputs_of: InputsOf = upstream_inputs) -> None:
        self.key = key
        self._call: Call | None = call
        self._inputs_of = inputs_of

    def run(self, samples: Sequence[Sample]) -> NDArray[np.float32]:
        """Fused logits [samples, labels]."""
        return np.concatenate([self._called(self._inputs_of(sample)) for sample in samples])

    def unpadded(self) -> UnpaddedPeer:
        """The same graph on whole batches with text padded to the longest, as mmx packs them."""
        return UnpaddedPeer(f"{self.key} batched", self._called)

    def close(self) -> None:
        """Drop the model."""
        self._call = None

    def _called(self, inputs: Inputs) -> NDArray[np.float32]:
        if self._call is None:
            raise RuntimeError("this peer is closed")
        return self._call(inputs)


@dataclass
class UnpaddedPeer:
    """A peer's graph given batches as mmx packs them; it belongs to the peer, which closes it."""

    key: str
    call: Call

    def run(self, samples: Sequence[Sample]) -> NDArray[np.float32]:
        """Fused logits [samples, labels]."""
        return self.call(pack(samples).inputs)

    def close(self) -> None:
        """Nothing of its own."""


def open_peer(name: str, system: str, module: nn.Module, threads: int, cache: Path) -> Peer:
    """A peer ready to run.

    Args:
        name: one of ``PEERS``. module: from ``upstream_form``; shared, not changed.
        cache: folder of this system's weights, where peers keep their graphs.

    Raises:
        EnvironmentMissing: this peer can't be had here; the message says what it lacks. UsageError: no such peer.
    """
    torch.set_num_threads(threads)
    if name == EAGER:
        sizes = feature_sizes(spec_for(module).inputs)
        inputs_of = partial(_feature_inputs, sizes) if sizes else upstream_inputs
        return Peer(f"{system}/{name}/fp32", _torch_call(module), inputs_of)
    if name == "compile":
        return Peer(f"{system}/{name}/fp32", _compiled(module))
    if name == "plain-onnx":
        return Peer(f"{system}/{name}/fp32", _plain_onnx(module, threads, cache / PLAIN_GRAPH))
    if name == "openvino-own":
        call, precision = _openvino_own(module, threads, cache / OWN_GRAPH)
        return Peer(f"{system}/{name}/{precision}", call)
    raise UsageError(f"there is no peer {name!r}", f"choose from {', '.join(PEERS)}")


def _feature_inputs(sizes: Mapping[str, int], sample: Sample) -> Inputs:
    return pack_features([sample], sizes)


def _torch_call(module: Callable[..., Any]) -> Call:
    def call(inputs: Inputs) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: Tensor = module(**{name: torch.from_numpy(array) for name, array in inputs.items()})[0]
        return logits.numpy()

    return call


def _compiled(module: nn.Module) -> Call:
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise EnvironmentMissing(f"torch.compile needs a C++ compiler and there is no {compiler}", "install g++")
    call = _torch_call(torch.compile(module, dynamic=True))
    try:
        call(_example())
    except Exception as e:  # Inductor's failures share no base class
        raise EnvironmentMissing(f"torch.compile failed: {_first_line(e)}", "leave it out with --peers") from e
    return call


def _plain_onnx(module: nn.Module, threads: int, path: Path) -> Call:
    import onnxruntime

    if not path.exists():
        export_plainly(module, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    first = session.get_outputs()[0].name

    def call(inputs: Inputs) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = session.run([first], inputs)[0]
        return logits

    return call


def export_plainly(module: nn.Module, path: Path) -> None:
    """``torch.onnx.export`` as its documentation shows it, under a temporary name until it is whole."""
    axes = {name: {axis: torch.export.Dim.DYNAMIC} for name, axis in RAGGED_AXES.items()}
    shapes = {name: axes.get(name, {}) for name in INPUTS}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it lists what of torchvision is not installed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module, kwargs=_tensors(_example()), dynamic_shapes=shapes, input_names=list(INPUTS), verbose=False
        )
        assert program is not None
        with whole_file(path) as part:
            program.save(str(part), external_data=False)


def convert_by_openvino(module: nn.Module, path: Path) -> None:
    """OpenVINO's own PyTorch conversion, saved as ``path`` with a .bin beside it; weights stay float32.

    Raises:
        EnvironmentMissing: OpenVINO is not installed, or can't convert the module.
    """
    openvino = _openvino()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = openvino.convert_model(module, example_input=_tensors(_example()))
        except Exception as e:  # whatever its converter stumbles over
            raise EnvironmentMissing(f"OpenVINO's own conversion failed: {_first_line(e)}") from e
    with whole_file(path) as part, whole_file(path.with_suffix(".bin")) as weights:
        openvino.save_model(model, part, compress_to_fp16=False)
        part.with_suffix(".bin").replace(weights)


def _openvino_own(module: nn.Module, threads: int, path: Path) -> tuple[Call, str]:
    """The call, and the precision that OpenVINO chose: bfloat16 unasked where the CPU has it."""
    openvino = _openvino()
    if not path.exists():
        convert_by_openvino(module, path)
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_NUM_THREADS": threads})
    request = compiled.create_infer_request()
    names = [port.get_any_name() for port in compiled.inputs]

    def call(inputs: Inputs) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = request.infer([inputs[name] for name in names], share_inputs=True)[0]
        return logits

    chosen = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return call, {"f32": "fp32", "f16": "fp16"}.get(chosen, chosen)


def _openvino() -> Any:
    try:
        import openvino
    except ModuleNotFoundError as e:
        raise missing_extra("OpenVINO", "openvino") from e
    return openvino


def _example() -> Inputs:
    """A sample of middling length to trace with: no ragged axis of it is 0 or 1."""
    return upstream_inputs(make_sample(next(u for u in synthetic("iemocap").utterances if 3 < u.duration < 4)))


def _tensors(inputs: Inputs) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in inputs.items()}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


# What ``prepare`` can make beforehand, by the file it goes to.
GRAPHS: Mapping[str, Callable[[nn.Module, Path], None]] = {PLAIN_GRAPH: export_plainly, OWN_GRAPH: convert_by_openvino}
