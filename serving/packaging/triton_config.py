"""The four models of the Triton repository, as config.pbtxt messages (fields of Triton's model_config.proto).

    mmx (ensemble)     VIDEO, TEXT, WINDOW -> PREDICTIONS
      mmx_preprocess   Python: a media file -> its segments' tokens, faces and mel pieces
      mmx_answer       Python: packs the segments of many requests, runs mmx_graph, fuses
    mmx_graph          the bundle's graph (ONNX Runtime) or engine (TensorRT), with the inputs of the graph contract

Requests are of different sizes, and Triton batches them nevertheless: every input of ``mmx_answer`` has
``allow_ragged_batch``, so the dynamic batcher does not compare shapes, and Triton's Python backend hands the requests
over one by one, as they are. ``runtime.packing`` then makes of them what the graph takes. See docs/triton.md on why
``mmx_graph`` is not batched by Triton itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmx.runtime.engines import EngineRecord
from mmx.runtime.manifest import GraphSpec, TensorSpec
from mmx.runtime.packing import FACE_SHAPE, PIECE_SHAPE
from mmx.serving.packaging.pbtxt import Name, entries

Config = dict[str, Any]
TYPES = {"float32": "TYPE_FP32", "int64": "TYPE_INT64"}
CLIP = "warmup.mkv"  # what mmx_preprocess reads when it is loaded
# What a file becomes between the two Python steps: see ``runtime.workers.segments``.
WIRE = {
    "TOKENS": ("TYPE_INT64", [-1]),
    "FACES": ("TYPE_FP32", [-1, *FACE_SHAPE]),
    "PIECES": ("TYPE_FP32", [-1, *PIECE_SHAPE]),
    "COUNTS": ("TYPE_INT64", [-1, 3]),
    "SEGMENTS": ("TYPE_STRING", [-1]),
}
REQUEST = {"VIDEO": ("TYPE_STRING", [1]), "TEXT": ("TYPE_STRING", [1]), "WINDOW": ("TYPE_FP64", [1])}
OPTIONAL = ("TEXT", "WINDOW")
MAX_ROWS = 4096  # faces and pieces of one file: about a quarter of an hour
MAX_BATCH = 32  # requests that mmx_answer takes at once
QUEUE_DELAY_US = 5000


def ensemble(name: str) -> Config:
    """The model that clients call: a media file in, one JSON line for each segment out."""
    inner = {tensor: tensor.lower() for tensor in WIRE}
    return {
        "name": name,
        "platform": "ensemble",
        "max_batch_size": 1,
        "input": _inputs(REQUEST),
        "output": _tensors({"PREDICTIONS": ("TYPE_STRING", [-1])}),
        "ensemble_scheduling": {
            "step": [
                {
                    "model_name": f"{name}_preprocess",
                    "model_version": -1,
                    "input_map": entries({tensor: tensor for tensor in REQUEST}),
                    "output_map": entries(inner),
                },
                {
                    "model_name": f"{name}_answer",
                    "model_version": -1,
                    "input_map": entries(inner),
                    "output_map": entries({"PREDICTIONS": "PREDICTIONS"}),
                },
            ]
        },
    }


def preprocess(name: str, instances: int) -> Config:
    """The Python model that reads media. Each instance is a process with a detector of its own."""
    return {
        "name": f"{name}_preprocess",
        "backend": "python",
        "max_batch_size": 1,
        "input": _inputs(REQUEST),
        "output": _tensors(WIRE),
        "instance_group": [{"count": instances, "kind": Name("KIND_CPU")}],
        "parameters": _parameters({"max_rows": str(MAX_ROWS), "threads": "1"}),
    }


def answer(name: str, outputs: Sequence[TensorSpec]) -> Config:
    """The Python model that packs segments of many requests, runs the graph, and fuses."""
    return {
        "name": f"{name}_answer",
        "backend": "python",
        "max_batch_size": MAX_BATCH,
        "input": [{**tensor, "allow_ragged_batch": True} for tensor in _inputs(WIRE)],
        "output": _tensors({"PREDICTIONS": ("TYPE_STRING", [-1])}),
        "dynamic_batching": {"max_queue_delay_microseconds": QUEUE_DELAY_US},
        "instance_group": [{"count": 1, "kind": Name("KIND_CPU")}],
        "parameters": _parameters({"graph": f"{name}_graph", "outputs": ",".join(spec.name for spec in outputs)}),
    }


def onnx_graph(name: str, spec: GraphSpec) -> Config:
    """The bundle's graph in ONNX Runtime: on the GPU where there is one, otherwise on the CPU."""
    return {
        **_graph(name, spec.inputs, spec.outputs),
        "backend": "onnxruntime",
        "default_model_filename": "model.onnx",
        "instance_group": [{"count": 1, "kind": Name("KIND_AUTO")}],
        "model_warmup": [
            _warmup("one_utterance", spec.inputs, {"batch": 1}),
            _warmup("eight_utterances", spec.inputs, {"batch": 8}),
        ],
    }


def plan_graph(name: str, record: EngineRecord) -> Config:
    """The bundle's TensorRT engine with all its profiles; each is warmed up in the shapes it is tuned for."""
    return {
        **_graph(name, record.inputs, record.outputs),
        "backend": "tensorrt",
        "default_model_filename": "model.plan",
        "instance_group": [
            {
                "count": 1,
                "kind": Name("KIND_GPU"),
                "profile": [str(number) for number in range(len(record.profiles))],
            }
        ],
        "model_warmup": [
            _zeros(profile.name, record.inputs, {name: list(sizes.opt) for name, sizes in profile.shapes.items()})
            for profile in record.profiles
        ],
    }


def _graph(name: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Config:
    """``max_batch_size`` 0: the first axis of the faces is not the batch, so Triton must not cut or join there."""

    def tensors(specs: Sequence[TensorSpec]) -> list[Config]:
        return _tensors({spec.name: (TYPES[spec.dtype], [_dim(axis) for axis in spec.axes]) for spec in specs})

    return {"name": f"{name}_graph", "max_batch_size": 0, "input": tensors(inputs), "output": tensors(outputs)}


def _dim(axis: int | str) -> int:
    return axis if isinstance(axis, int) else -1


def _warmup(name: str, inputs: Sequence[TensorSpec], sizes: dict[str, int]) -> Config:
    """Utterances of about five seconds: 20 tokens, 10 faces and 13 mel pieces each."""
    batch = sizes["batch"]
    each = {
        "tokens": 20,
        "face_slots": 10,
        "piece_slots": 13,
        "batch": batch,
        "faces": 10 * batch,
        "pieces": 13 * batch,
    }
    shapes = {spec.name: [axis if isinstance(axis, int) else each[axis] for axis in spec.axes] for spec in inputs}
    return _zeros(name, inputs, shapes)


def _zeros(name: str, inputs: Sequence[TensorSpec], shapes: dict[str, list[int]]) -> Config:
    """Zeros are valid input: token 0, row 0 of the faces and of the pieces in every slot."""
    tensors = {
        spec.name: {"data_type": Name(TYPES[spec.dtype]), "dims": shapes[spec.name], "zero_data": True}
        for spec in inputs
    }
    return {"name": name, "batch_size": 1, "inputs": entries(tensors)}


def _tensors(specs: dict[str, tuple[str, list[int]]]) -> list[Config]:
    return [{"name": name, "data_type": Name(kind), "dims": dims} for name, (kind, dims) in specs.items()]


def _inputs(specs: dict[str, tuple[str, list[int]]]) -> list[Config]:
    return [{**tensor, "optional": True} if tensor["name"] in OPTIONAL else tensor for tensor in _tensors(specs)]


def _parameters(values: dict[str, str]) -> list[Config]:
    return entries({key: {"string_value": value} for key, value in values.items()})
