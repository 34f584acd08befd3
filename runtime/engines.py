"""Engines of a bundle: the sidecar that says what an ``.engine`` file is, and whether it fits this machine.

TensorRT cannot look into an engine without a GPU driver, so everything anybody wants to know is written beside it.
The engine file itself is plain: ``trtexec --loadEngine`` takes it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmx.runtime.bundle import ENGINES, Bundle, sha256_of
from mmx.runtime.errors import BadDataError, EnvironmentMissing
from mmx.runtime.manifest import TensorSpec, from_plain

SCHEMA_VERSION = 1
ENGINE_GRAPHS = {"int8": "int8-fp16", "fp8": "fp8"}
"""The graph of a quantised engine, by its precision: FP16 around the quantised layers, which no CPU computes faster."""
_SIDECAR_LIMIT = 2**20
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Range:
    """The shapes that one input may have in one profile; TensorRT tunes for ``opt``."""

    min: Shape
    opt: Shape
    max: Shape


@dataclass(frozen=True)
class Profile:
    """One optimisation profile: its name (short, typical, long) and the range of every input."""

    name: str
    shapes: dict[str, Range]

    def fits(self, shapes: dict[str, Shape]) -> bool:
        """Whether inputs of these shapes can run in this profile."""
        return all(
            len(shape) == len(self.shapes[name].max)
            and all(
                low <= size <= high
                for low, size, high in zip(self.shapes[name].min, shape, self.shapes[name].max, strict=True)
            )
            for name, shape in shapes.items()
        )


@dataclass(frozen=True)
class EngineRecord:
    """``<name>.json`` beside ``<name>.engine``.

    Attributes:
        engine, sha256, size: the file's name, hash and bytes.
        flavour, version: tensorrt | tensorrt-rtx, and its version; an engine runs with that version only.
        target: as asked for (rtx4090, sm89, portable...). capabilities: the compute capabilities it is for, such as
            "8.9"; empty for a portable engine of TensorRT-RTX (8.0 and later).
        precision: fp32 | fp16 | bf16 | int8 | fp8. graph_sha256: of the ONNX file it was built from.
        key: short hash of everything that would change the engine; part of the file's name.
        settings: workspace and other builder settings.
        layers: layers of the network by type and output type. weights: number of weights by type.
        accuracy: the graph's parity record, as it was when the engine was built.
        made: command, seconds, platform, versions.
    """

    schema_version: int
    engine: str
    sha256: str
    size: int
    key: str
    flavour: str
    version: str
    target: str
    capabilities: tuple[str, ...]
    precision: str
    graph: str
    graph_sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    profiles: tuple[Profile, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    layers: dict[str, int] = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=dict)
    accuracy: dict[str, Any] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The sidecar as indented JSON with a final newline."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


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


def sidecar_path(engine: Path) -> Path:
    """Where the record of an engine file lies."""
    return engine.with_suffix(".json")


def read_record(engine: Path) -> EngineRecord:
    """Read the sidecar of an engine file (or the sidecar itself).

    Raises:
        BadDataError: no sidecar, an unknown schema_version, or fields that do not fit.
    """
    path = sidecar_path(engine)
    again = "build it again with mmx build-engine"
    try:
        if path.stat().st_size > _SIDECAR_LIMIT:
            raise BadDataError(f"{path} is larger than {_SIDECAR_LIMIT >> 20} MB", again)
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise BadDataError(f"{engine} has no sidecar {path.name}", again) from e
    except (OSError, ValueError) as e:
        raise BadDataError(f"{path} is not readable JSON: {e}", again) from e
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if version != SCHEMA_VERSION:
        raise BadDataError(f"{path} has schema_version {version!r}; this mmx reads {SCHEMA_VERSION}", again)
    record: EngineRecord = from_plain(EngineRecord, raw, str(path))
    names = {spec.name for spec in record.inputs}
    if record.engine != engine.with_suffix(".engine").name or any(set(p.shapes) != names for p in record.profiles):
        raise BadDataError(f"{path} does not describe {engine.with_suffix('.engine').name}", again)
    return record


def engines_of(bundle: Bundle) -> list[tuple[Path, EngineRecord]]:
    """Every finished engine of a bundle with its record, newest first.

    Raises:
        BadDataError: a sidecar that cannot be read.
    """
    found = sorted((bundle.path / ENGINES).glob("*.engine"), key=lambda path: path.stat().st_mtime, reverse=True)
    return [(path, read_record(path)) for path in found if sidecar_path(path).exists()]


def is_whole(engine: Path, record: EngineRecord) -> bool:
    """Whether the engine file is there with its recorded size: cheap, for a cache hit."""
    return engine.is_file() and engine.stat().st_size == record.size


def check_file(engine: Path, record: EngineRecord) -> None:
    """Compare the file's bytes with its record.

    Raises:
        BadDataError: it was changed or cut off.
    """
    if not is_whole(engine, record) or sha256_of(engine) != record.sha256:
        raise BadDataError(f"{engine} is not the file that was built", "build it again with mmx build-engine")


def mismatches(record: EngineRecord, bundle: Bundle | None, version: str, capability: str) -> list[Mismatch]:
    """Why an engine cannot run here, before it is deserialised.

    Args:
        bundle: whose graph the engine should be of; None does not ask.
        version: the installed version of the record's flavour.
        capability: of the GPU here, such as "8.9".
    """
    found = []
    if bundle is not None:
        spec = bundle.manifest.graphs.get(ENGINE_GRAPHS.get(record.precision, record.precision))
        digest = bundle.manifest.files[spec.file] if spec else "no such graph"
        if digest != record.graph_sha256:
            found.append(Mismatch(f"{record.precision} graph", record.graph_sha256[:12], digest[:12]))
    if record.version != version:
        found.append(Mismatch(f"{record.flavour} version", record.version, version))
    if record.capabilities and capability not in record.capabilities:
        found.append(Mismatch("GPU compute capability", ", ".join(record.capabilities), capability))
    elif not record.capabilities and tuple(map(int, capability.split("."))) < (8, 0):
        found.append(Mismatch("GPU compute capability", "8.0 or later", capability))
    return found


def rebuild_command(bundle: Path, record: EngineRecord) -> str:
    """The command that builds the engine again, for this machine."""
    return f"mmx build-engine --{record.precision} --flavour {record.flavour} {bundle}"


def mismatch_error(engine: Path, bundle: Path, record: EngineRecord, found: list[Mismatch]) -> EngineMismatch:
    """The error that names both sides of every mismatch and the command that mends it."""
    return EngineMismatch(
        f"{engine} does not fit: " + "; ".join(map(str, found)),
        f"{rebuild_command(bundle, record)}, or --on-mismatch rebuild, or --on-mismatch onnx",
    )


def describe_engine(path: Path) -> str:
    """What ``mmx inspect x.engine`` prints: everything the sidecar says, and whether the file is the one it is about.

    Raises:
        BadDataError: no sidecar, or one that cannot be read.
    """
    record = read_record(path)
    whole = "unchanged since" if path.is_file() and sha256_of(path) == record.sha256 else "NOT the file that was built"
    where = ", ".join(record.capabilities) if record.capabilities else "8.0 and later"
    lines = [
        f"{path.name}  ({record.size / 2**20:.1f} MB, {whole} {record.made.get('date', '?')})",
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
    lines += _accuracy(record.accuracy)
    lines.append("  made       " + ", ".join(f"{name} {value}" for name, value in record.made.items()))
    return "\n".join(lines)


def _accuracy(measured: dict[str, Any]) -> list[str]:
    """What the graph's parity record says of accuracy; records differ by who made the graph."""
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


def _by(shape: Shape) -> str:
    return "x".join(map(str, shape))
