"""What the Python models of the Triton repository run, inside Triton: media -> segments, and segments -> answers.

Triton's Python backend calls ``initialize`` once and ``execute`` with a list of requests, each with its own tensors.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton

from mmx.runtime.backends import Backend
from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import BadDataError, MmxError
from mmx.runtime.network import Network
from mmx.runtime.packing import split
from mmx.runtime.prediction import Prediction
from mmx.runtime.preprocess import Segment
from mmx.runtime.records import EngineRecord, Profile
from mmx.runtime.scratch import Scratch
from mmx.runtime.splitting import Inputs, in_parts
from mmx.runtime.variants import RECORD, read_record
from mmx.runtime.workers import PARTS
from mmx.runtime.workers.blocking import Workers
from mmx.runtime.workers.segments import from_arrays, to_arrays
from mmx.runtime.workers.task import Task
from mmx.serving.packaging.triton_config import CLIP, WIRE

ROWS_AT_ONCE = 512
FILE = "video"  # what answers and errors call the file: it has no name here


class Preprocess:
    """The model ``mmx_preprocess``. One request is one media file; its answer holds all of its segments."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the parts of the bundle that preprocessing needs, after checking their SHA-256, and warm up."""
        settings = _settings(args)
        self._max_rows = int(settings["max_rows"])
        parts = Bundle.open_parts(_folder(args) / "bundle", PARTS)
        self._scratch = Scratch("triton")
        self._workers = Workers(parts, 1, threads=int(settings["threads"]))
        self._segments((_folder(args) / CLIP).read_bytes(), "warm up", None)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response for each request; what is wrong with one file is the error of that response alone."""
        return [self._respond(request) for request in requests]

    def finalize(self) -> None:
        """End the worker process. Triton calls it before it unloads the model."""
        self._workers.close()
        self._scratch.close()

    def _respond(self, request: Any) -> Any:
        try:
            window = float(_value(request, "WINDOW") or 0)
            segments = self._segments(_value(request, "VIDEO"), _text(_value(request, "TEXT")), window or None)
        except MmxError as e:
            return _failure(f"{e.message} ({e.hint})" if e.hint else e.message)
        tensors = [triton.Tensor(name, array[None]) for name, array in to_arrays(segments).items()]
        return triton.InferenceResponse(tensors)

    def _segments(self, media: bytes, text: str | None, window: float | None) -> list[Segment]:
        with ExitStack() as closing_all:
            path = closing_all.enter_context(self._scratch.holding(media, FILE))
            transcript = None
            if text is not None and "-->" in text:
                kind = "vtt" if text.lstrip("\ufeff").startswith("WEBVTT") else "srt"
                transcript = closing_all.enter_context(self._scratch.holding(text.encode(), f"text.{kind}"))
            task = Task(
                path,
                None if transcript else text,
                transcript,
                window,
                name=FILE,
                transcript_name=transcript.name if transcript else None,
            )
            segments, rows = [], 0
            for segment in closing_all.enter_context(closing(self._workers.read(task))):
                rows += len(segment.sample.faces) + len(segment.sample.pieces)
                if rows > self._max_rows:
                    raise BadDataError(
                        f"{FILE} is too long for one request: over {self._max_rows} faces and mel pieces",
                        "cut it, or raise max_rows in config.pbtxt",
                    )
                segments.append(segment)
            return segments


class Answer:
    """The model ``mmx_answer``. The segments of all requests that Triton has batched go through the graph together."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the manifest, the calibration and, where the graph is an engine, the shapes it takes."""
        settings = _settings(args)
        bundle = Bundle.open_parts(_folder(args), ()).refreshed()
        record = _folder(args) / RECORD
        engine = read_record(record) if record.exists() else None
        profiles = engine.profiles if isinstance(engine, EngineRecord) else ()
        self._network = Network(
            bundle, TritonGraph(bundle, settings["graph"], settings["outputs"].split(","), profiles)
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response for each request. What the graph fails on is the error of the request that it belongs to."""
        files = [
            from_arrays({name: triton.get_input_tensor_by_name(request, name).as_numpy()[0] for name in WIRE})
            for request in requests
        ]
        answers: dict[int, Prediction | MmxError] = {}
        everything = [segment for file in files for segment in file]
        for group in split(everything, ROWS_AT_ONCE, sample_of=lambda segment: segment.sample):
            answers |= zip(map(id, group), self._network.predict(group), strict=True)
        return [_lines([answers[id(segment)] for segment in file]) for file in files]


class TritonGraph(Backend):
    """The model ``mmx_graph``, which Triton runs, as a backend. ``profiles``: what an engine takes; () for a graph."""

    name, device, why = "triton", "Triton's", "asked for"

    def __init__(self, bundle: Bundle, model: str, outputs: Sequence[str], profiles: Sequence[Profile]) -> None:
        self._model, self._profiles = model, profiles
        graph = bundle.manifest.graphs["fp32"]
        self.precision, self.streams = graph.precision, 1
        self.inputs, self.outputs = graph.input_names, tuple(outputs)
        self.tensors = {tensor.name: tensor for tensor in (*graph.inputs, *graph.outputs)}

    def run(self, inputs: Inputs) -> Inputs:
        """See ``Backend.run``. A batch that no profile of an engine takes is cut in two."""
        return in_parts(inputs, self._fits, self._run)

    def close(self) -> None:
        """Nothing of its own."""

    def _fits(self, inputs: Inputs) -> bool:
        shapes = {name: array.shape for name, array in inputs.items()}
        return not self._profiles or any(profile.fits(shapes) for profile in self._profiles)

    def _run(self, inputs: Inputs) -> Inputs:
        response = triton.InferenceRequest(
            model_name=self._model,
            requested_output_names=list(self.outputs),
            inputs=[triton.Tensor(name, array) for name, array in inputs.items()],
            preferred_memory=triton.PreferredMemory(triton.TRITONSERVER_MEMORY_CPU, 0),
        ).exec()
        if response.has_error():
            raise triton.TritonModelException(response.error().message())
        return {
            name: triton.get_output_tensor_by_name(response, name).as_numpy().astype(np.float32)
            for name in self.outputs
        }


def _value(request: Any, name: str) -> Any:
    """The one value of an input, or None for an optional one that was not sent."""
    tensor = triton.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy().reshape(-1)[0]


def _text(raw: bytes | None) -> str | None:
    return raw.decode("utf-8", errors="replace") if raw else None


def _folder(args: dict[str, str]) -> Path:
    return Path(args["model_repository"]) / args["model_version"]


def _settings(args: dict[str, str]) -> dict[str, str]:
    parameters = json.loads(args["model_config"])["parameters"]
    return {name: value["string_value"] for name, value in parameters.items()}


def _failure(message: str) -> Any:
    return triton.InferenceResponse(output_tensors=[], error=triton.TritonError(message))


def _lines(answers: Sequence[Prediction | MmxError]) -> Any:
    lines = []
    for answer in answers:
        if isinstance(answer, MmxError):
            return _failure(answer.message)
        lines.append(answer.to_json().encode())
    return triton.InferenceResponse([triton.Tensor("PREDICTIONS", np.array([lines], np.object_))])
