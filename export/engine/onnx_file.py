"""An ONNX file that mmx did not make, as the source of an engine: its contract, its half-precision form, its proof.

What is made of ``net.onnx`` goes to ``net.engines/`` beside it; the file itself is never changed.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

from mmx.export.engine.profiles import profile, read_profiles
from mmx.export.engine.source import Source
from mmx.export.precision.current import Half, meets
from mmx.export.precision.samples import Inputs
from mmx.export.precision.variant import TRIAL_SAMPLES, locked, make_variant, until
from mmx.export.precision.view import read_graph
from mmx.runtime.bundle import sha256_of
from mmx.runtime.engines import Profile
from mmx.runtime.errors import BadDataError, UsageError
from mmx.runtime.external_data import external_locations
from mmx.runtime.manifest import TensorSpec

STATIC = "static"  # the one profile of a graph whose axes are all fixed
_RECORD_LIMIT = 2**20
_LARGEST = 2**31 - 2**20  # protobuf's limit

Report = Callable[[str, float], None]


def source_of_file(path: Path) -> Source:
    """The file as it is.

    Raises:
        UsageError: there is no such file.
        BadDataError: it is not an ONNX file, or its weights lie outside its folder.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}", "name an .onnx file or a bundle")
    digest = file_digest(path)
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as e:  # protobuf's own error classes differ between its implementations
        raise BadDataError(f"{path} is not a readable ONNX file: {e}") from e
    weights = {tensor.name for tensor in graph.initializer}

    def check() -> None:
        if file_digest(path) != digest:
            raise BadDataError(f"{path} was changed while it was worked on", "run the command again")

    return Source(
        asked=path,
        graph=path,
        sha256=digest,
        inputs=tuple(_spec(value, path) for value in graph.input if value.name not in weights),
        outputs=tuple(_spec(value, path) for value in graph.output),
        accuracy={},
        folder=path.with_suffix(".engines"),
        check=check,
    )


def profiles_of_file(source: Source, asked: Sequence[str] | Path) -> tuple[Profile, ...]:
    """``--profiles FILE.json``, or the one profile of a graph without dynamic axes.

    Raises:
        UsageError: the graph has dynamic axes and no file says how long they are.
    """
    return read_profiles(asked, source.inputs) if isinstance(asked, Path) else (profile(STATIC, source.inputs, {}),)


def half_of_file(
    source: Source,
    half: Half,
    profiles: Sequence[Profile],
    given: Sequence[Path],
    *,
    samples: int,
    seconds: float,
    tolerance: float,
    report: Report,
) -> tuple[Source, bool]:
    """The file's FP16 or BF16 form, made and proved unless it is there; and whether it was made now.

    Args:
        given: .npz files with the inputs of one run each; without them the proof runs on random ones.
        samples, seconds: how many runs to compare, and when to stop at the latest.
        tolerance: largest accepted error, of the largest value of each output where that is above 1.

    Raises:
        BadDataError: the graph cannot be run, or ``given`` does not fit it.
        ParityError: not accurate enough.
    """
    graph = source.folder / f"{source.graph.stem}.{half}.onnx"
    note = graph.with_suffix(".json")
    inputs_digest = hashlib.sha256("".join(map(sha256_of, given)).encode()).hexdigest()
    source.folder.mkdir(exist_ok=True)
    with locked(source.folder):
        record = _read_record(note)
        made = not (graph.is_file() and meets(record, source.sha256, tolerance) and record["inputs"] == inputs_digest)
        if made:
            trials = list(runs_of(source.inputs, profiles, given, TRIAL_SAMPLES, seed=1))
            _require_a_run(source.graph, trials[0], given)
            variant = make_variant(
                read_graph(source.graph),
                half,
                lambda: until(runs_of(source.inputs, profiles, given, samples), seconds),
                trials,
                what=f"{source.asked} in {half}",
                tolerance=tolerance,
                total=samples,
                report=report,
            )
            on = f"{len(given)} given file{'s' * (len(given) > 1)}" if given else "random inputs"
            record = {**variant.accuracy.to_dict(), **variant.summary}
            record |= {"source": source.sha256, "inputs": inputs_digest, "on": on}
            _save(variant.model, graph)
            record["sha256"] = sha256_of(graph)
            new = note.with_suffix(".json.tmp")
            new.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            new.replace(note)
    digest = str(record["sha256"])

    def check() -> None:
        if sha256_of(graph) != digest:
            raise BadDataError(f"{graph} was changed", f"remove {source.folder} and run the command again")

    return Source(source.asked, graph, digest, source.inputs, source.outputs, record, source.folder, check), made


def runs_of(
    inputs: Sequence[TensorSpec], profiles: Sequence[Profile], given: Sequence[Path], count: int, seed: int = 0
) -> Iterator[Inputs]:
    """Inputs for ``count`` runs: the given files in turn, or random ones in the shapes that the profiles are tuned for.

    Random floats are normally distributed, integers 0 or 1: they are valid as masks and as numbers of rows.

    Raises:
        BadDataError: a file that is no .npz, or lacks an input.
    """
    if given:
        yield from islice(cycle([_read_inputs(path, inputs) for path in given]), min(count, len(given)))
        return
    random = np.random.default_rng(seed)
    for plan in islice(cycle(profiles), count):
        yield {spec.name: _random(spec, plan.shapes[spec.name].opt, random) for spec in inputs}


def file_digest(path: Path) -> str:
    """SHA-256 of an ONNX file; with weights in other files, of all their hashes.

    Raises:
        BadDataError: not an ONNX file, or a weight's file is missing or outside of the file's folder.
    """
    try:
        locations = sorted(external_locations(path))
    except BadDataError as e:
        raise BadDataError(e.message, "name an ONNX file") from e
    folder = path.parent.resolve()
    for location in locations:
        pure = PurePosixPath(location)
        inside = not pure.is_absolute() and ".." not in pure.parts
        if not inside or not (folder / location).resolve().is_relative_to(folder):
            raise BadDataError(f"{path} keeps weights in {location!r}, which is not in its folder", "do not load it")
        if not (folder / location).is_file():
            raise BadDataError(f"{path} keeps weights in {location}, and there is no such file beside it")
    if not locations:
        return sha256_of(path)
    parts = [sha256_of(path), *(sha256_of(folder / location) for location in locations)]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _spec(value: onnx.ValueInfoProto, path: Path) -> TensorSpec:
    """Name, type and axes; an axis without a name is called <tensor>_<position>."""
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
        raise BadDataError(f"{path}: {value.name} has no shape", "run onnx.shape_inference on it first")
    axes = tuple(
        size.dim_value if size.HasField("dim_value") and size.dim_value >= 0 else size.dim_param or f"{value.name}_{i}"
        for i, size in enumerate(kind.shape.dim)
    )
    return TensorSpec(value.name, np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)).name, axes)


def _random(spec: TensorSpec, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    kind = np.dtype(spec.dtype)
    values = random.normal(size=shape) if kind.kind == "f" else random.integers(0, 2, shape)
    return values.astype(kind)


def _read_inputs(path: Path, inputs: Sequence[TensorSpec]) -> Inputs:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {spec.name: arrays[spec.name].astype(spec.dtype) for spec in inputs}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as e:
        wanted = ", ".join(spec.name for spec in inputs)
        raise BadDataError(f"{path} does not hold the inputs of a run: {e}", f"an .npz with {wanted}") from e


def _require_a_run(graph: Path, inputs: Inputs, given: Sequence[Path]) -> None:
    """Raise BadDataError unless ONNX Runtime runs the graph on these inputs."""
    try:
        ort.InferenceSession(graph, providers=["CPUExecutionProvider"]).run(None, inputs)
    except Exception as e:  # ONNX Runtime's errors share no other base class
        hint = "see whether the arrays fit the graph" if given else "give it inputs that it takes: --inputs RUN.npz"
        raise BadDataError(f"ONNX Runtime cannot run {graph}: {str(e).splitlines()[0][:300]}", hint) from e


def _read_record(note: Path) -> Mapping[str, Any]:
    """The record of a variant, empty where there is none that can be read."""
    try:
        if note.stat().st_size > _RECORD_LIMIT:
            return {}
        found = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _save(model: onnx.ModelProto, path: Path) -> None:
    if model.ByteSize() > _LARGEST:
        raise BadDataError(f"{path} would be over 2 GB, more than one ONNX file holds", "split the model")
    new = path.with_suffix(".onnx.tmp")
    try:
        onnx.save(model, new)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
