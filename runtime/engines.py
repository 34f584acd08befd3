"""TensorRT engines of a bundle: which there are, and whether one fits this machine.

TensorRT cannot read an engine without a GPU driver, so all facts about it are in its record.
The engine file itself is plain: ``trtexec --loadEngine`` takes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import BadDataError, EnvironmentMissing
from mmx.runtime.files import sha256_of
from mmx.runtime.manifest import TensorSpec
from mmx.runtime.records import EngineRecord
from mmx.runtime.variants import RECORD, Variant, read_variant

ENGINE_GRAPHS = {"int8": "int8-fp16", "fp8": "fp8"}
"""The graph of a quantised engine, by its precision: FP16 around the quantised layers, which no CPU computes faster."""


def engine_graph(precision: str) -> str:
    """The precision of the graph that an engine of a precision is built from."""
    return ENGINE_GRAPHS.get(precision, precision)


@dataclass(frozen=True)
class Engine:
    """An engine file and its record."""

    path: Path
    record: EngineRecord

    @property
    def is_whole(self) -> bool:
        """Whether the file is there with its recorded size: cheap, for a cache hit."""
        return self.path.is_file() and self.path.stat().st_size == self.record.size

    def check(self) -> None:
        """Compare the file's bytes with its record.

        Raises:
            BadDataError: it was changed or cut off.
        """
        if not self.is_whole or sha256_of(self.path) != self.record.files[self.record.engine]:
            raise BadDataError(f"{self.path} is not the file that was built", "build it again with mmx build-engine")


@dataclass(frozen=True)
class Mismatch:
    """One reason why an engine cannot be used here: what it is about, the engine's side, and this side."""

    what: str
    engine: str
    here: str

    def __str__(self) -> str:
        return f"{self.what}: the engine has {self.engine}, here is {self.here}"


class EngineMismatch(EnvironmentMissing):
    """An engine that was built for another GPU, TensorRT or graph than those here."""


def read_engine(path: Path) -> Engine:
    """The engine of an ``.engine`` file, a variant's folder, or its record.

    Raises:
        BadDataError: no record beside it, one that cannot be read, or one of something else.
    """
    folder = path if path.is_dir() else path.parent
    try:
        variant = read_variant(folder)
    except FileNotFoundError as e:
        raise BadDataError(f"{path} is missing", "build it again with mmx build-engine") from e
    engine = as_engine(variant)
    if engine is None or path not in (folder, engine.path, folder / RECORD):
        raise BadDataError(f"{folder / RECORD} does not describe {path.name}", "build it again with mmx build-engine")
    return engine


def as_engine(variant: Variant) -> Engine | None:
    """A variant that is an engine; None for any other."""
    return Engine(variant.file, variant.record) if isinstance(variant.record, EngineRecord) else None


def engines_of(bundle: Bundle) -> list[Engine]:
    """Every engine of a bundle, newest first."""
    return [engine for variant in bundle.variants if (engine := as_engine(variant))]


def mismatches(record: EngineRecord, bundle: Bundle | None, version: str, capability: str) -> list[Mismatch]:
    """Why an engine cannot run here, before it is deserialised.

    Args:
        bundle: whose graph the engine should be of, if it still has it; None does not ask.
        version: the installed version of the record's flavour.
        capability: of the GPU here, such as "8.9".
    """
    found = []
    graph = None if bundle is None else bundle.described(engine_graph(record.precision))
    if graph is not None and graph.sha256 != record.graph_sha256:
        found.append(Mismatch(f"{record.precision} graph", record.graph_sha256[:12], graph.sha256[:12]))
    if record.version != version:
        found.append(Mismatch(f"{record.flavour} version", record.version, version))
    if record.capabilities and capability not in record.capabilities:
        found.append(Mismatch("GPU compute capability", ", ".join(record.capabilities), capability))
    elif not record.capabilities and tuple(map(int, capability.split("."))) < (8, 0):
        found.append(Mismatch("GPU compute capability", "8.0 or later", capability))
    return found


def rebuild_options(record: EngineRecord) -> list[str]:
    """The options of ``mmx build-engine`` that an engine was built with, but for target and profiles."""
    given = {"workspace": record.settings.get("workspace"), "level": record.settings.get("level")}
    given |= {name: record.recipe.get(name) for name in ("samples", "seconds", "tolerance", "max_flips")}
    options = [f"--{record.precision}", "--flavour", record.flavour]
    for name, value in given.items():
        if isinstance(value, (int, float)):  # a level or a limit that was not given is None
            options += [f"--{name.replace('_', '-')}", f"{value}"]
    for name in ("keep_fp32", "allow_half"):
        options += [f"--{name.replace('_', '-')}={pattern}" for pattern in record.recipe.get(name) or ()]
    return options


def axes_of(record: EngineRecord) -> dict[str, dict[str, tuple[int, int, int]]]:
    """The profiles of an engine as ``mmx build-engine --profiles FILE.json`` takes them: by name and axis."""
    plans: dict[str, dict[str, tuple[int, int, int]]] = {}
    for profile in record.profiles:
        plan = plans.setdefault(profile.name, {})
        for spec in record.inputs:
            sizes = profile.shapes[spec.name]
            for axis, *each in zip(spec.axes, sizes.min, sizes.opt, sizes.max, strict=True):
                if isinstance(axis, str):
                    plan[axis] = (each[0], each[1], each[2])
    return plans


def rebuild_command(bundle: Path, record: EngineRecord) -> str:
    """The command that builds the engine again, for this machine, with the usual profiles."""
    return f"mmx build-engine --{record.precision} --flavour {record.flavour} {bundle}"


def mismatch_error(engine: Engine, bundle: Path, found: list[Mismatch]) -> EngineMismatch:
    """The error that names both sides of every mismatch and the command that builds the engine again."""
    return EngineMismatch(
        f"{engine.path} does not fit: " + "; ".join(map(str, found)),
        f"{rebuild_command(bundle, engine.record)}, or --on-mismatch rebuild, or --on-mismatch onnx",
    )


def describe_engine(path: Path) -> str:
    """What ``mmx inspect x.engine`` prints: everything in the record, and whether the file is the one it is about.

    Raises:
        BadDataError: no record, or one that cannot be read.
    """
    engine = read_engine(path)
    record = engine.record
    whole = "unchanged since"
    try:
        engine.check()
    except BadDataError:
        whole = "NOT the file that was built"
    where = ", ".join(record.capabilities) if record.capabilities else "8.0 and later"
    lines = [
        f"{record.engine}  ({record.size / 2**20:.1f} MB, {whole} {record.created[:10]})",
        f"  flavour    {record.flavour} {record.version}",
        f"  target     {record.target}: compute capability {where}",
        f"  precision  {record.precision}: weights " + _shares(record.weights),
        f"  graph      {record.graph} {record.graph_sha256[:12]}",
        f"  key        {record.key}",
        "  settings   " + (", ".join(f"{name} {value}" for name, value in record.settings.items()) or "defaults"),
        "  inputs",
        *(f"    {spec.name:<16} {spec.dtype:<8} {_axes(spec)}" for spec in record.inputs),
        "  outputs",
        *(f"    {spec.name:<16} {spec.dtype:<8} {_axes(spec)}" for spec in record.outputs),
        "  profiles",
    ]
    for profile in record.profiles:
        lines.append(f"    {profile.name}")
        for name, sizes in profile.shapes.items():
            lines.append(f"      {name:<16} {_by(sizes.min):<12} to {_by(sizes.max):<16} tuned for {_by(sizes.opt)}")
    lines += ["  layers", *(f"    {name:<32} {count}" for name, count in list(record.layers.items())[:12])]
    lines += _accuracy(record.verification)
    lines.append("  made       " + ", ".join(f"{name} {value}" for name, value in record.made.items()))
    return "\n".join(lines)


def _accuracy(measured: dict[str, Any]) -> list[str]:
    """How accurate the graph was found to be; what is recorded differs by who made the graph."""
    if isinstance(error := measured.get("max_error"), (int, float)):
        said = f"  accuracy   within {error:.1e} of FP32 on {measured.get('samples')} samples"
        if decisions := measured.get("decisions"):
            said += f", {measured.get('label_flips')} label flips in {decisions} decisions"
        return [said]
    if isinstance(worst := measured.get("worst"), (int, float)):
        return [f"  accuracy   worst relative error {worst:.1e} against PyTorch"]
    return []


def _shares(counts: dict[str, int]) -> str:
    total = sum(counts.values()) or 1
    return ", ".join(f"{name} {100 * count / total:.1f} %" for name, count in counts.items())


def _axes(spec: TensorSpec) -> str:
    return f"[{', '.join(map(str, spec.axes))}]"


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
