"""The visual trunk with its shortcuts merged away against the one that keeps them, in every engine.

Both folded forms of the full-size trunk of ``ours``, on one thread, in turns that switch order (merge keep, keep
merge), on as many faces as short and long utterances have. A ratio above 1 means that merging is slower.
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from mmx.evaluation.statistics import speedup
from mmx.models.registry import get_system
from mmx.runtime.errors import ParityError

FACES = (1, 4, 10, 24)
TOLERANCE = 2e-5
Faces = NDArray[np.float32]
Run = Callable[[Faces], NDArray[Any]]


def visual_trunk() -> nn.Module:
    """The full-size visual trunk in residual training form, with seeded weights."""
    torch.manual_seed(0)
    trunk: nn.Module = get_system("ours").build().eval().get_submodule("V")
    return trunk


def to_onnx(trunk: nn.Module) -> bytes:
    """The trunk as an ONNX graph with a free number of faces."""
    shapes = ({0: torch.export.Dim("faces")},)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it lists what of torchvision is not installed
    program = torch.onnx.export(trunk, (torch.randn(2, 3, 48, 48),), dynamo=True, dynamic_shapes=shapes, verbose=False)
    assert program is not None
    graph: bytes = program.model_proto.SerializeToString()
    return graph


def eager(trunk: nn.Module) -> Run:
    """The trunk in PyTorch, as the paper measured it."""

    @torch.inference_mode()
    def run(faces: Faces) -> NDArray[Any]:
        return trunk(torch.from_numpy(faces)).numpy()

    return run


def in_onnxruntime(graph: bytes) -> Run:
    """The graph in ONNX Runtime, one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda faces: session.run(None, {name: faces})[0]


def in_openvino(graph: bytes) -> Run:
    """The graph in OpenVINO, one thread, float32 throughout."""
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(io.BytesIO(graph)), "CPU", settings)
    return lambda faces: compiled(faces)[0].copy()


def interleaved(merge: Run, keep: Run, rounds: int) -> dict[str, Any]:
    """Time two runs in turns.

    Returns:
        ``merge_over_keep``, the median ratio over rounds and face counts with its interval, and by number of
        faces the median milliseconds of each and their ratio.
    """
    seconds = np.zeros((len(FACES), rounds, 2))
    rng = np.random.default_rng(0)
    for i, count in enumerate(FACES):
        faces = rng.normal(size=(count, 3, 48, 48)).astype(np.float32)
        answers = merge(faces), keep(faces)
        error = float(np.abs(answers[0] - answers[1]).max() / np.abs(answers[1]).max())
        if not error <= TOLERANCE:
            raise ParityError(f"the merged trunk differs from the kept one by {error:.1e} on {count} faces")
        for turn in range(rounds):
            for which in (0, 1) if turn % 2 == 0 else (1, 0):
                start = time.perf_counter()
                (merge, keep)[which](faces)
                seconds[i, turn, which] = time.perf_counter() - start
    flat = seconds.reshape(-1, 2)
    by_faces = {
        count: {
            "merge_ms": float(np.median(part[:, 0])) * 1e3,
            "keep_ms": float(np.median(part[:, 1])) * 1e3,
            "merge_over_keep": asdict(speedup(part[:, 0], part[:, 1])),
        }
        for count, part in zip(FACES, seconds, strict=True)
    }
    return {"merge_over_keep": asdict(speedup(flat[:, 0], flat[:, 1])), "by_faces": by_faces}
