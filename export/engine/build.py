"""``mmx build-engine``: from a bundle to an engine, its proof and its sidecar; or at once, if that engine is there."""

from __future__ import annotations

import hashlib
import json
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

from mmx.export.engine.targets import Target, parse_target
from mmx.export.precision.current import TOLERANCE, is_current
from mmx.runtime.bundle import ENGINES, Bundle, sha256_of
from mmx.runtime.device.probe import find_gpu
from mmx.runtime.device.trt import FULL, RTX, Flavour
from mmx.runtime.device.trt import flavour as flavour_named
from mmx.runtime.engines import SCHEMA_VERSION, EngineRecord, Profile, is_whole, read_record, sidecar_path
from mmx.runtime.errors import BadDataError, EnvironmentMissing, UsageError, missing_extra

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")
BUILD_RECIPE = 1  # raised whenever ``worker.build`` changes what it makes of the same job

Report = Callable[[str, float], None]  # what is being done, and how much of it is done (0..1)


@dataclass(frozen=True)
class Settings:
    """``workspace``: bytes (0: TensorRT's own limit). ``level``: optimisation level 0..5 (None: its own)."""

    workspace: int = 0
    level: int | None = None
    tf32: bool = False  # never: FP32 that was asked for is FP32


@dataclass(frozen=True)
class Built:
    """An engine of a bundle. ``cached``: it was there; ``variant_made``: its graph was made and proved just now."""

    path: Path
    record: EngineRecord
    bundle: Bundle
    cached: bool
    variant_made: bool


def build_engine(
    path: Path,
    precision: str,
    *,
    target: str | None = None,
    flavour: str = "auto",
    profiles: Sequence[str] | Path = ("short", "typical", "long"),
    batch: int = 8,
    settings: Settings = Settings(),
    samples: int = 256,
    seconds: float = 300,
    tolerance: float | None = None,
    force: bool = False,
    report: Report | None = None,
) -> Built:
    """Build the engine of a bundle, or find it.

    Args:
        path: the bundle folder.
        precision: one of ``PRECISIONS``. FP16 and BF16 graphs are made and proved when the bundle has none.
        target: see ``targets.parse_target``.
        flavour: auto | tensorrt | tensorrt-rtx.
        profiles: names for ``profiles.profiles_for``, or a JSON file for ``profiles.read_profiles``.
        batch: the most utterances in one run.
        samples, seconds, tolerance: see ``variant.ensure_variant``.
        force: build even if the engine is there.

    Raises:
        UsageError, BadDataError, EnvironmentMissing, ParityError: each names what is wrong and what to do.
    """
    from mmx.export.engine.profiles import profiles_for, read_profiles

    say = report or (lambda what, share: None)
    wanted = parse_target(target)
    chosen, version = choose_flavour(flavour, wanted)
    bundle = Bundle.open(path, verify=False)
    limit = TOLERANCE.get(precision, 0.0) if tolerance is None else tolerance
    variant_made = False
    if precision in TOLERANCE and not is_current(bundle, precision, limit):  # type: ignore[arg-type]
        from mmx.export.precision.variant import ensure_variant

        chosen.load()  # before minutes of proof: can it be built at all?
        bundle, variant_made = ensure_variant(
            Bundle.open(path),
            precision,  # type: ignore[arg-type]
            samples=samples,
            seconds=seconds,
            tolerance=limit,
            report=say,
        )
    _require_graph(bundle, precision)
    inputs = bundle.manifest.graphs[precision].inputs
    if isinstance(profiles, Path):
        ranges = read_profiles(profiles, inputs)
    else:
        ranges = profiles_for(bundle.manifest, profiles, batch)
    job = _Job(bundle, precision, wanted, chosen, version, ranges, settings)
    engine = job.engine_path
    if not force and (found := _cached(engine)):
        return Built(engine, found, bundle, True, variant_made)
    return Built(engine, job.run(say), bundle, False, variant_made)


def choose_flavour(name: str, target: Target) -> tuple[Flavour, str]:
    """The flavour to build with and its installed version.

    ``auto``: full TensorRT where it is installed and the target is the GPU in this machine, which is the only one that
    it builds for; TensorRT for RTX otherwise.

    Raises:
        EnvironmentMissing: not installed, or it cannot build for that target here. UsageError: no such flavour.
    """
    gpu = find_gpu()
    here = gpu is not None and gpu.capability == target.capability
    if name == "auto":
        chosen = FULL if here and FULL.installed_version else RTX
        if chosen is RTX and not target.is_portable and target.capability not in RTX.capabilities:
            chosen = FULL
    else:
        chosen = flavour_named(name)
    if chosen is RTX and not target.is_portable and target.capability not in RTX.capabilities:
        raise EnvironmentMissing(
            f"TensorRT for RTX does not build for compute capability {target.capability} ({target.name})",
            f"it knows {', '.join(RTX.capabilities)}; on the machine with that GPU use --flavour tensorrt",
        )
    if (version := chosen.installed_version) is None:
        raise missing_extra(chosen.title, chosen.extra)
    if chosen is FULL and not here:
        raise EnvironmentMissing(
            f"TensorRT builds only for the GPU in this machine, and that is not {target.name}",
            "build on the machine to deploy on, or use --flavour tensorrt-rtx",
        )
    return chosen, version


@dataclass(frozen=True)
class _Job:
    bundle: Bundle
    precision: str
    target: Target
    flavour: Flavour
    version: str
    profiles: tuple[Profile, ...]
    settings: Settings

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What goes into the engine's record: none for a portable one."""
        return () if self.target.is_portable else (self.target.capability,)

    @property
    def graph_sha256(self) -> str:
        return self.bundle.manifest.files[self.bundle.manifest.graphs[self.precision].file]

    @property
    def key(self) -> str:
        """Twelve hex digits that change with everything that would change the engine."""
        parts: dict[str, Any] = {
            "recipe": BUILD_RECIPE,
            "flavour": self.flavour.name,
            "version": self.version,
            "capabilities": self.capabilities,
            "precision": self.precision,
            "graph": self.graph_sha256,
            "profiles": [asdict(profile) for profile in self.profiles],
            "settings": asdict(self.settings),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def engine_path(self) -> Path:
        name = f"{self.flavour.name}-{self.target.name}-{self.precision}-{self.key}.engine"
        return self.bundle.path / ENGINES / name

    def run(self, say: Report) -> EngineRecord:
        """Build, prove, and put engine and sidecar in place; the sidecar last, so that it never speaks too early."""
        from mmx.export.engine.child import run_build
        from mmx.export.engine.evidence import prove_precision

        self.flavour.load()
        Bundle.open(self.bundle.path)  # hashes and all: what is built is what was proved
        manifest, engine = self.bundle.manifest, self.engine_path
        spec = manifest.graphs[self.precision]
        engine.parent.mkdir(exist_ok=True)
        new, note = engine.with_suffix(".engine.tmp"), engine.with_suffix(".json.tmp")
        started = time.monotonic()
        try:
            built = run_build(self._description(new), say)
            prove_precision(self.precision, built, spec.outputs, str(self.bundle.path / spec.file))
            record = EngineRecord(
                schema_version=SCHEMA_VERSION,
                engine=engine.name,
                sha256=sha256_of(new),
                size=new.stat().st_size,
                key=self.key,
                flavour=self.flavour.name,
                version=self.version,
                target=self.target.name,
                capabilities=self.capabilities,
                precision=self.precision,
                graph=spec.file,
                graph_sha256=self.graph_sha256,
                inputs=spec.inputs,
                outputs=spec.outputs,
                profiles=self.profiles,
                settings=asdict(self.settings),
                layers=built["layers"],
                weights=built["weights"],
                accuracy=spec.parity,
                made={
                    "date": time.strftime("%Y-%m-%d"),
                    "seconds": round(time.monotonic() - started, 1),
                    "command": shlex.join(["mmx", *sys.argv[1:]]) if Path(sys.argv[0]).name == "mmx" else "Python",
                    "platform": f"{platform.system()} {platform.machine()}",
                    "mmx": package_version("mmx"),
                },
            )
            note.write_text(record.to_json(), encoding="utf-8")
            sidecar_path(engine).unlink(missing_ok=True)
            new.replace(engine)
            note.replace(sidecar_path(engine))
        finally:
            new.unlink(missing_ok=True)
            note.unlink(missing_ok=True)
        return record

    def _description(self, out: Path) -> dict[str, Any]:
        cross = self.flavour is RTX and not self.target.is_portable
        return {
            "module": self.flavour.module,
            "graph": str(self.bundle.graph_path(self.precision)),
            "out": str(out),
            "capabilities": list(self.capabilities) if cross else [],
            "profiles": [asdict(profile) for profile in self.profiles],
            "workspace": self.settings.workspace,
            "level": self.settings.level,
        }


def _require_graph(bundle: Bundle, precision: str) -> None:
    if precision not in PRECISIONS:
        raise UsageError(f"there is no precision {precision!r}", f"use one of {', '.join(PRECISIONS)}")
    if precision not in bundle.manifest.graphs:
        raise UsageError(
            f"{bundle.path} has no {precision} graph, and building an engine does not make one",
            f"mmx calibrate {bundle.path} --data DIR makes an INT8 graph; --fp16 needs no data",
        )


def _cached(engine: Path) -> EngineRecord | None:
    """The record of an engine that is there, whole; one that cannot be read is built again."""
    try:
        record = read_record(engine)
    except BadDataError:
        return None
    return record if is_whole(engine, record) else None
