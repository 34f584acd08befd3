"""ONNX Runtime on the CPU: the default backend."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort
from numpy.typing import NDArray

from mmx.runtime.backends import Backend
from mmx.runtime.backends.lending import Lent
from mmx.runtime.errors import BadDataError, EnvironmentMissing
from mmx.runtime.extras import install_command
from mmx.runtime.manifest import TensorSpec

PROVIDER = "CPUExecutionProvider"


def load(
    path: Path, precision: str = "fp32", threads: int | None = None, *, streams: int = 1, packed: bool = True
) -> OnnxRuntimeBackend:
    """Load the graph at ``path``; ``precision`` is that of the file.

    ``packed``: bring the weights into the order of the matrix kernels now. It makes loading take twice as long, and is
    earned back in about ten runs, each of which otherwise does it again.

    Raises:
        EnvironmentMissing: bf16 (not computed here), or ONNX Runtime did not give the provider that was asked for.
        BadDataError: ONNX Runtime can't load the file.
    """
    if precision == "bf16":
        raise EnvironmentMissing(
            "ONNX Runtime does not compute in bf16 on the CPU",
            f"{install_command('openvino')}, then --backend openvino",
        )
    return OnnxRuntimeBackend(path, precision, threads, streams, packed)


class OnnxRuntimeBackend(Backend):
    """``streams`` runs at a time, each on ``threads`` threads; further calls wait.

    A session of one thread works in the thread that calls it, so that all streams share one; otherwise each has its own
    session, since a session has one pool of threads.
    """

    name = "onnxruntime"

    def __init__(self, path: Path, precision: str, threads: int | None, streams: int, packed: bool) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or 0  # 0 = one per core
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only; they reach the user as exceptions
        options.enable_mem_pattern = False  # each new shape would leave a plan and memory of its own behind
        if not packed:
            options.add_session_config_entry("session.disable_prepacking", "1")
        first = _session(path, options)
        alike = [first if threads == 1 else _session(path, options) for _ in range(streams - 1)]
        self._sessions = Lent([first, *alike])
        self.precision = precision
        self.device = "CPU"
        self.why = "asked for"
        self.inputs = tuple(node.name for node in first.get_inputs())
        self.outputs = tuple(node.name for node in first.get_outputs())
        self.tensors = tensors_of(first)
        self.streams = streams

    def run(self, inputs: dict[str, NDArray]) -> dict[str, NDArray]:
        """See ``Backend.run``."""
        with self._sessions.one() as session:
            return dict(zip(self.outputs, session.run(list(self.outputs), inputs), strict=True))

    def close(self) -> None:
        """See ``Backend.close``."""
        self._sessions.close()


def _session(path: Path, options: ort.SessionOptions) -> ort.InferenceSession:
    try:
        session = ort.InferenceSession(path, options, providers=[PROVIDER])
    except Exception as e:  # ONNX Runtime's errors share no other base class
        raise BadDataError(f"ONNX Runtime cannot load {path}: {e}", "run mmx export again") from e
    if PROVIDER not in session.get_providers():  # it would fall back without a word
        raise EnvironmentMissing(f"ONNX Runtime did not give {PROVIDER}, only {session.get_providers()}")
    return session


def tensors_of(session: ort.InferenceSession) -> dict[str, TensorSpec]:
    """What ONNX Runtime reports of a graph's inputs and outputs; an axis that may have any size is a text."""
    names = {"float": "float32", "double": "float64"}
    found = {}
    for node in (*session.get_inputs(), *session.get_outputs()):
        dtype = node.type.removeprefix("tensor(").removesuffix(")")
        axes = tuple(axis if isinstance(axis, int) else str(axis) for axis in node.shape)
        found[node.name] = TensorSpec(node.name, names.get(dtype, dtype), axes)
    return found
