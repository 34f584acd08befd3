"""What the Python models of the Triton repository run, inside Triton: media -> segments, and segments -> answers.

Triton's Python backend calls ``initialize`` once and ``execute`` with a list of requests, each with its own tensors.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import triton_python_backend_utils as triton
from numpy.typing import NDArray

from mmx.runtime.bundle import ENGINES, MANIFEST, Bundle, sha256_of
from mmx.runtime.engines import Profile, read_record
from mmx.runtime.errors import BadDataError, MmxError
from mmx.runtime.manifest import TextSpec, read_manifest
from mmx.runtime.media.transcript import read_transcript
from mmx.runtime.packing import pack, split
from mmx.runtime.prediction import Prediction
from mmx.runtime.predictor import prediction_of
from mmx.runtime.preprocess import Preprocessor, Segment
from mmx.runtime.splitting import batch_size, halves
from mmx.runtime.types import Span
from mmx.serving.packaging.triton_config import CLIP, PARTS, WIRE
from mmx.serving.segments import from_arrays, to_arrays

ROWS_AT_ONCE = 512
FILE = "video"  # what answers and errors call the file: it has no name here


class Preprocess:
    """The model ``mmx_preprocess``. One request is one media file; its answer holds all of its segments."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the parts of the bundle that preprocessing needs, after checking their SHA-256, and warm up."""
        settings = _settings(args)
        self._max_rows = int(settings["max_rows"])
        self._preprocessor = Preprocessor(open_parts(_folder(args) / "bundle"), threads=int(settings["threads"]))
        self._segments((_folder(args) / CLIP).read_bytes(), "warm up", None)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response for each request; what is wrong with one file is the error of that response alone."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        try:
            window = float(_value(request, "WINDOW") or 0)
            segments = self._segments(_value(request, "VIDEO"), _text(_value(request, "TEXT")), window or None)
        except MmxError as e:
            return _failure(f"{e.message} ({e.hint})" if e.hint else e.message)
        tensors = [triton.Tensor(name, array[None]) for name, array in to_arrays(segments).items()]
        return triton.InferenceResponse(tensors)

    def _segments(self, media: bytes, text: str | None, window: float | None) -> list[Segment]:
        with tempfile.TemporaryDirectory(prefix="mmx-") as scratch:
            path = Path(scratch) / FILE
            path.write_bytes(media)
            try:
                transcript = None if text is None or "-->" not in text else _cues(text, Path(scratch))
                segments, rows = [], 0
                for segment in self._preprocessor.segments(
                    path, text=None if transcript else text, transcript=transcript, window=window
                ):
                    rows += len(segment.sample.faces) + len(segment.sample.pieces)
                    if rows > self._max_rows:
                        raise BadDataError(
                            f"{FILE} is too long for one request: over {self._max_rows} faces and mel pieces",
                            "cut it, or raise max_rows in config.pbtxt",
                        )
                    segments.append(replace(segment, file=FILE))
                return segments
            except MmxError as e:
                e.message = e.message.replace(f"{scratch}/", "")
                raise


class Answer:
    """The model ``mmx_answer``. The segments of all requests that Triton has batched go through the graph together."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the manifest and, where the graph is an engine, the shapes it takes."""
        settings = _settings(args)
        self._manifest = read_manifest(_folder(args) / MANIFEST)
        self._graph, self._outputs = settings["graph"], settings["outputs"].split(",")
        self._inputs = self._manifest.graphs["fp32"].input_names
        engines = [read_record(path) for path in (_folder(args) / ENGINES).glob("*.json")]
        self._profiles: tuple[Profile, ...] = engines[0].profiles if engines else ()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response for each request. If the graph fails on a batch, those with a segment in it get the error."""
        files = [
            from_arrays({name: triton.get_input_tensor_by_name(request, name).as_numpy()[0] for name in WIRE})
            for request in requests
        ]
        runnable = [(number, s) for number, file in enumerate(files) for s in file if s.sample.modalities]
        outputs_of: dict[int, dict[str, NDArray[np.float32]]] = {}
        network_ms: dict[int, float] = {}
        failed: dict[int, str] = {}
        for group in _groups(runnable):
            started = perf_counter()
            try:
                outputs = self._run(pack([s.sample for _, s in group], self._text_spec, self._inputs).inputs)
            except triton.TritonModelException as e:
                failed |= {number: str(e) for number, _ in group}
                continue
            each_ms = (perf_counter() - started) * 1000 / len(group)
            for row, (_, segment) in enumerate(group):
                outputs_of[id(segment)] = {name: values[row] for name, values in outputs.items()}
                network_ms[id(segment)] = each_ms
        return [
            _failure(failed[number])
            if number in failed
            else _lines(
                [prediction_of(s, outputs_of.get(id(s)), self._manifest, network_ms.get(id(s), 0.0)) for s in file]
            )
            for number, file in enumerate(files)
        ]

    @property
    def _text_spec(self) -> TextSpec:
        return self._manifest.preprocessing.text

    def _run(self, inputs: dict[str, NDArray]) -> dict[str, NDArray]:
        """Ask Triton to run ``mmx_graph``; a batch that no profile of an engine takes is cut in two."""
        shapes = {name: array.shape for name, array in inputs.items()}
        fits = not self._profiles or any(profile.fits(shapes) for profile in self._profiles)
        if not fits and batch_size(inputs) > 1:
            first, second = (self._run(half) for half in halves(inputs))
            return {name: np.concatenate([first[name], second[name]]) for name in first}
        response = triton.InferenceRequest(
            model_name=self._graph,
            requested_output_names=self._outputs,
            inputs=[triton.Tensor(name, array) for name, array in inputs.items()],
            preferred_memory=triton.PreferredMemory(triton.TRITONSERVER_MEMORY_CPU, 0),
        ).exec()
        if response.has_error():
            raise triton.TritonModelException(response.error().message())
        found = {
            name: triton.get_output_tensor_by_name(response, name).as_numpy().astype(np.float32)
            for name in self._outputs
        }
        if not all(np.isfinite(values).all() for values in found.values()):
            raise triton.TritonModelException(f"{self._graph} gives logits that are not finite numbers")
        return found


def open_parts(folder: Path) -> Bundle:
    """The bundle's manifest, tokenizer and face nets, without its graphs.

    Raises:
        BadDataError: a file is not the one that the manifest lists.
    """
    manifest = read_manifest(folder / MANIFEST)
    for name, digest in manifest.files.items():
        if name.startswith(PARTS) and sha256_of(folder / name) != digest:
            raise BadDataError(f"{folder / name} was changed", "run mmx package again")
    return Bundle(folder, manifest)


def _groups(parts: Sequence[tuple[int, Segment]]) -> list[list[tuple[int, Segment]]]:
    """Cut as ``packing.split`` cuts their samples."""
    waiting = iter(parts)
    sizes = [len(group) for group in split([segment.sample for _, segment in parts], max_rows=ROWS_AT_ONCE)]
    return [[next(waiting) for _ in range(size)] for size in sizes]


def _cues(text: str, scratch: Path) -> list[Span]:
    path = scratch / ("text.vtt" if text.lstrip("\ufeff").startswith("WEBVTT") else "text.srt")
    path.write_text(text, encoding="utf-8")
    cues = read_transcript(path)
    assert not isinstance(cues, str)
    return cues


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


def _lines(predictions: Sequence[Prediction]) -> Any:
    lines = [prediction.to_json().encode() for prediction in predictions]
    return triton.InferenceResponse([triton.Tensor("PREDICTIONS", np.array([lines], np.object_))])
