"""An ONNX file that mmx did not make, as the source of an engine: its contract, its half-precision form.

What is made of ``net.onnx`` goes to ``net.engines/`` beside it, as variants do in a bundle; the file itself is never
changed.
"""

from __future__ import annotations

import hashlib
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path, PurePosixPath

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

from mmx.export.engine.profiles import profile, read_profiles
from mmx.export.engine.source import Source
from mmx.export.precision.current import RECIPE, Half, meets
from mmx.export.precision.rules import NO_CHOICES, Choices
from mmx.export.precision.samples import Inputs
from mmx.export.precision.variant import TUNING_SAMPLES, make_variant, until
from mmx.export.precision.view import read_graph
from mmx.export.variant_writer import made_now, new_variant_in
from mmx.runtime.bundle import Graph
from mmx.runtime.engines import as_engine
from mmx.runtime.errors import BadDataError, UsageError
from mmx.runtime.external_data import external_locations
from mmx.runtime.files import sha256_of
from mmx.runtime.manifest import GraphSpec, TensorSpec
from mmx.runtime.records import GraphRecord, Profile
from mmx.runtime.variants import Variant, check_files, list_variants

STATIC = "static"  # the one profile of a graph whose axes are all fixed
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
        base_sha256=digest,
        inputs=tuple(_spec(value, path) for value in graph.input if value.name not in weights),
        outputs=tuple(_spec(value, path) for value in graph.output),
        accuracy={},
        engines=[engine for each in list_variants(_root(path), digest)[0] if (engine := as_engine(each))],
        new_variant=lambda: new_variant_in(_root(path)),
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
    choices: Choices = NO_CHOICES,
    report: Report,
) -> tuple[Source, bool]:
    """The file's FP16 or BF16 form, made and verified unless it is there; and whether it was made now.

    Args:
        given: .npz files with the inputs of one run each; without them random ones are used.
        samples, seconds: how many runs to compare, and when to stop at the latest.
        choices: the user's, for single nodes.
        tolerance: largest accepted error, of the largest value of each output where that is above 1.

    Raises:
        BadDataError: the graph cannot be run, or ``given`` does not fit it.
        ParityError: not accurate enough.
    """
    digest = hashlib.sha256("".join(map(sha256_of, given)).encode()).hexdigest()
    recipe = {"rules": RECIPE, "inputs": digest, "choices": choices.to_dict()}
    root, started = _root(source.asked), time.monotonic()
    for found in list_variants(root, source.sha256)[0]:
        graph = _as_graph(found, source)
        same = found.record.precision == half and {**found.record.recipe, **recipe} == found.record.recipe
        if graph is not None and same and meets(graph, RECIPE, tolerance):
            return _half_source(source, graph), False
    with new_variant_in(root) as folder:
        tuning = list(runs_of(source.inputs, profiles, given, TUNING_SAMPLES, seed=1))
        _require_a_run(source.graph, tuning[0], given)
        variant = make_variant(
            read_graph(source.graph),
            half,
            lambda: until(runs_of(source.inputs, profiles, given, samples), seconds),
            tuning,
            what=f"{source.asked} in {half}",
            tolerance=tolerance,
            total=samples,
            choices=choices,
            report=report,
        )
        if variant.model.ByteSize() > _LARGEST:
            raise BadDataError(f"{source.asked} in {half} is over 2 GB, an ONNX file's limit", "split the model")
        on = f"{len(given)} given file{'s' * (len(given) > 1)}" if given else "random inputs"
        name = f"{source.graph.stem}.{half}.onnx"
        with folder.writing():
            onnx.save(variant.model, folder.path / name)
        record = GraphRecord(
            precision=half,
            source=source.sha256,
            files={},
            graph=name,
            opset=max(each.version for each in variant.model.opset_import if each.domain in ("", "ai.onnx")),
            recipe=recipe | {"samples": samples, "seconds": seconds, "tolerance": tolerance},
            verification={**variant.accuracy.to_dict(), **variant.summary, "on": on},
            **made_now(time.monotonic() - started),
        )
        graph = _as_graph(folder.publish(half, record), source)
    assert graph is not None
    return _half_source(source, graph), True


def _root(path: Path) -> Path:
    """The folder of what is made of an ONNX file: variants as a bundle has them."""
    return path.with_suffix(".engines")


def _as_graph(variant: Variant, source: Source) -> Graph | None:
    """A variant that is a graph, with the contract of the file that it was made of."""
    record = variant.record
    if not isinstance(record, GraphRecord):
        return None
    spec = GraphSpec(record.graph, record.precision, record.opset, source.inputs, source.outputs, record.verification)
    return Graph(variant.file, variant.sha256, spec, variant)


def _half_source(source: Source, graph: Graph) -> Source:
    assert graph.variant is not None
    variant = graph.variant
    return replace(
        source,
        graph=graph.path,
        sha256=graph.sha256,
        accuracy=graph.spec.parity,
        check=lambda: check_files(variant),
    )


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
