"""As much of the Triton Inference Server as a test of a model repository needs.

It reads config.pbtxt with Triton's own schema, gives the Python models a ``triton_python_backend_utils``, runs graphs
in ONNX Runtime, and holds every tensor against the dtype and dims of the config it is for, as the server does.
docs/triton.md says what was also run in the real server.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
from google.protobuf import json_format, text_format
from numpy.typing import NDArray

DTYPES = {"TYPE_STRING": np.object_, "TYPE_FP32": np.float32, "TYPE_FP64": np.float64, "TYPE_INT64": np.int64}
Arrays = dict[str, NDArray]


def schema() -> ModuleType:
    """Triton's model_config.proto as Python's protobuf has compiled it; out of tritonclient, without its gRPC."""
    package = importlib.util.find_spec("tritonclient")
    assert package is not None and package.submodule_search_locations
    path = Path(next(iter(package.submodule_search_locations))) / "grpc" / "model_config_pb2.py"
    if (loaded := sys.modules.get("model_config_pb2")) is not None:
        return loaded
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules["model_config_pb2"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_config(path: Path) -> Any:
    """A config.pbtxt as Triton's ``ModelConfig``; a field or value that the schema has not is an error."""
    return text_format.Parse(path.read_text(), schema().ModelConfig())


@dataclass(frozen=True)
class Tensor:
    """pb_utils.Tensor"""

    tensor_name: str
    array: NDArray

    def name(self) -> str:
        return self.tensor_name

    def as_numpy(self) -> NDArray:
        return self.array


class TritonError(Exception):
    """pb_utils.TritonError"""

    def message(self) -> str:
        return str(self)


class TritonModelException(Exception):
    """pb_utils.TritonModelException"""


@dataclass(frozen=True)
class InferenceResponse:
    """pb_utils.InferenceResponse"""

    output_tensors: Sequence[Tensor]
    error_: TritonError | None = None

    def __init__(self, output_tensors: Sequence[Tensor], error: TritonError | None = None) -> None:
        object.__setattr__(self, "output_tensors", output_tensors)
        object.__setattr__(self, "error_", error)

    def has_error(self) -> bool:
        return self.error_ is not None

    def error(self) -> TritonError | None:
        return self.error_


@dataclass(frozen=True)
class PreferredMemory:
    """pb_utils.PreferredMemory"""

    kind: str
    device: int


def _named(tensors: Sequence[Tensor], name: str) -> Tensor | None:
    return next((tensor for tensor in tensors if tensor.name() == name), None)


@dataclass
class Server:
    """The models of a repository. ``runs``: the inputs of every run of a graph."""

    repository: Path
    runs: list[Arrays] = field(default_factory=list)
    broken: str = ""  # what the graph fails with, if it shall fail

    def __post_init__(self) -> None:
        self.configs = {path.parent.name: read_config(path) for path in self.repository.glob("*/config.pbtxt")}
        self.python: dict[str, Any] = {}

    @contextmanager
    def loaded(self) -> Iterator[Server]:
        """Load the Python models, as the server does before it is ready."""
        server = self

        class InferenceRequest:
            """pb_utils.InferenceRequest, as a model's input and as a model's own call of another (BLS)."""

            def __init__(self, inputs: Sequence[Tensor], model_name: str = "", **options: Any) -> None:
                assert set(options) <= {"requested_output_names", "preferred_memory"}, options
                self.tensors, self.model = list(inputs), model_name
                self.wanted = options.get("requested_output_names", [])

            def exec(self) -> InferenceResponse:
                found = server.run_graph(self.model, {t.name(): t.as_numpy() for t in self.tensors})
                if isinstance(found, str):
                    return InferenceResponse([], TritonError(found))
                return InferenceResponse([Tensor(name, found[name]) for name in self.wanted])

        module: Any = ModuleType("triton_python_backend_utils")
        for kind in (Tensor, TritonError, TritonModelException, InferenceResponse, PreferredMemory, InferenceRequest):
            setattr(module, kind.__name__, kind)
        module.TRITONSERVER_MEMORY_CPU = "cpu"
        module.get_input_tensor_by_name = lambda request, name: _named(request.tensors, name)
        module.get_output_tensor_by_name = lambda response, name: _named(response.output_tensors, name)
        names = ("triton_python_backend_utils", "mmx.serving.packaging.triton_models")  # each server has its own
        before = {name: sys.modules.pop(name) for name in names if name in sys.modules}
        sys.modules["triton_python_backend_utils"] = module
        try:
            for name, config in self.configs.items():
                if config.backend == "python":
                    self.python[name] = self._start(config)
            self._request = InferenceRequest
            yield self
        finally:
            for model in self.python.values():
                getattr(model, "finalize", lambda: None)()
            for name in names:
                sys.modules.pop(name, None)
            sys.modules.update(before)

    def infer(self, ensemble: str, requests: Sequence[Arrays]) -> list[Arrays | str]:
        """Run an ensemble on requests that come at the same time: each one's outputs, or its error."""
        config = self.configs[ensemble]
        state: list[Arrays | str] = []
        for request in requests:
            check(request, config.input, config.max_batch_size)
            state.append(dict(request))
        for step in config.ensemble_scheduling.step:
            state = self._step(step, state)
        outputs = [tensor.name for tensor in config.output]
        return [each if isinstance(each, str) else {name: each[name] for name in outputs} for each in state]

    def _step(self, step: Any, state: Sequence[Arrays | str]) -> list[Arrays | str]:
        """One step for all that have no error yet: joined if the model's dynamic batcher may join them."""
        inner = self.configs[step.model_name]
        alive = [number for number, each in enumerate(state) if not isinstance(each, str)]
        given: list[Arrays] = []
        for number in alive:
            known = state[number]
            assert not isinstance(known, str)
            given.append({key: known[value] for key, value in step.input_map.items() if value in known})
            check(given[-1], inner.input, inner.max_batch_size)
        joined = inner.HasField("dynamic_batching") and len(given) <= inner.max_batch_size
        assert not joined or all(tensor.allow_ragged_batch for tensor in inner.input)
        model = self.python[step.model_name]
        requests = [self._request([Tensor(name, array) for name, array in arrays.items()]) for arrays in given]
        batches = [requests] if joined else [[request] for request in requests]
        responses = [response for batch in batches for response in model.execute(batch)]
        assert len(responses) == len(requests)
        after = list(state)
        for number, response in zip(alive, responses, strict=True):
            if response.has_error():
                after[number] = response.error().message()
                continue
            found = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors}
            check(found, inner.output, inner.max_batch_size)
            before = state[number]
            assert not isinstance(before, str)
            after[number] = before | {value: found[key] for key, value in step.output_map.items()}
        return after

    def run_graph(self, model: str, inputs: Arrays) -> Arrays | str:
        """Run a graph's ONNX file, or say why it failed."""
        config = self.configs[model]
        check(inputs, config.input, config.max_batch_size)
        self.runs.append(inputs)
        if self.broken:
            return self.broken
        folder = self.repository / model / "1"
        session = onnxruntime.InferenceSession(folder / config.default_model_filename)
        names = [tensor.name for tensor in config.output]
        outputs = dict(zip(names, session.run(names, inputs), strict=True))
        check(outputs, config.output, config.max_batch_size)
        return outputs

    def _start(self, config: Any) -> Any:
        folder = self.repository / config.name
        spec = importlib.util.spec_from_file_location(f"model_{config.name}", folder / "1" / "model.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        model = module.TritonPythonModel()
        as_json = json_format.MessageToDict(config, preserving_proto_field_name=True)
        model.initialize({"model_config": json.dumps(as_json), "model_repository": str(folder), "model_version": "1"})
        return model


def check(arrays: Mapping[str, NDArray], specs: Sequence[Any], max_batch_size: int) -> None:
    """Hold tensors against a config, as the server does: names, dtypes, and dims behind the batch axis."""
    kinds = schema().DataType
    required = {spec.name for spec in specs if not getattr(spec, "optional", False)}
    assert required <= set(arrays) <= {spec.name for spec in specs}, (sorted(arrays), sorted(required))
    for spec in specs:
        if (array := arrays.get(spec.name)) is None:
            continue
        assert array.dtype == DTYPES[kinds.Name(spec.data_type)], (spec.name, array.dtype)
        dims = array.shape[1:] if max_batch_size else array.shape
        assert not max_batch_size or array.shape[0] <= max_batch_size, (spec.name, array.shape)
        assert len(dims) == len(spec.dims), (spec.name, array.shape, list(spec.dims))
        assert all(want in (-1, has) for has, want in zip(dims, spec.dims, strict=True)), (spec.name, array.shape)
