"""``mmx build-engine``: build, verify and record an engine of a bundle or an ONNX file, unless it is there already."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mmx.export.engine.source import Source, source_in
from mmx.export.engine.targets import Target, parse_target
from mmx.export.precision.current import TOLERANCE, is_current, quantised_is_current
from mmx.export.variant_writer import made_now
from mmx.runtime.bundle import Bundle
from mmx.runtime.device.probe import find_gpu
from mmx.runtime.device.trt import FULL, RTX, Flavour
from mmx.runtime.device.trt import flavour as flavour_named
from mmx.runtime.engines import ENGINE_GRAPHS, Engine, as_engine
from mmx.runtime.errors import EnvironmentMissing, UsageError, missing_extra
from mmx.runtime.extras import install_command
from mmx.runtime.records import EngineRecord, Profile

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
    """An engine. ``source``: what it was built from; ``bundle``: that, opened, unless it is an ONNX file. ``cached``:
    it was there; ``variant_made``: its graph was made and verified just now."""

    path: Path
    record: EngineRecord
    source: Source
    bundle: Bundle | None
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
    seconds: float = 1800,
    tolerance: float | None = None,
    max_flips: int | None = None,
    inputs: Sequence[Path] = (),
    keep_fp32: Sequence[str] = (),
    allow_half: Sequence[str] = (),
    force: bool = False,
    report: Report | None = None,
) -> Built:
    """Build the engine of a bundle or of an ONNX file, or find it.

    Args:
        path: the bundle folder, or the .onnx file.
        precision: one of ``PRECISIONS``. Its graph is made and verified when the bundle has none; INT8 and FP8 need the
            one that ``mmx calibrate`` adds.
        target: see ``targets.parse_target``.
        flavour: auto | tensorrt | tensorrt-rtx.
        profiles: names for ``profiles.profiles_for``, or a JSON file for ``profiles.read_profiles``.
        batch: the most utterances in one run.
        samples, seconds, tolerance, max_flips: see ``variant.ensure_variant``.
        inputs: for an ONNX file, .npz files with the inputs of one run each, to compare its FP16 form on.
        keep_fp32, allow_half: patterns of nodes that stay FP32, or that no rule of accuracy keeps (``rules.Choices``).
        force: build even if the engine is there.

    Raises:
        UsageError, BadDataError, EnvironmentMissing, ParityError: each names what is wrong and what to do.
    """
    wanted = parse_target(target)
    chosen, version = choose_flavour(flavour, wanted)
    if precision == "fp8" and not wanted.has_fp8:
        raise UsageError(
            f"{wanted.name} computes no FP8", "FP8 needs 8.9 or later, such as --target rtx4090; use --int8"
        )
    limit = TOLERANCE.get(precision) if tolerance is None else tolerance
    if path.suffix.lower() == ".onnx":
        prepare = _prepare_file
    elif inputs:
        raise UsageError("--inputs is for ONNX files; a bundle is verified on utterances of its data set's lengths")
    else:
        prepare = _prepare_bundle
    say = report or (lambda what, share: None)
    chosen_nodes = {"keep_fp32": tuple(keep_fp32), "allow_half": tuple(allow_half)}
    if any(chosen_nodes.values()) and precision not in TOLERANCE:
        raise UsageError(f"--keep-fp32 and --allow-half are for FP16 and BF16, not {precision}", "leave them out")
    verification = _Verification(chosen, samples, seconds, limit, max_flips, tuple(inputs), chosen_nodes)
    ready = prepare(path, precision, profiles, batch, verification, say)
    job = _Job(ready.source, precision, wanted, chosen, version, ready.profiles, settings, verification)
    found = None if force else job.cached()
    engine = found or job.run(say)
    record = replace(engine.record, verification=dict(ready.source.accuracy))  # it may have been measured again since
    return Built(engine.path, record, ready.source, ready.bundle, found is not None, ready.variant_made)


@dataclass(frozen=True)
class _Verification:
    """How a graph is compared with FP32 (see ``ensure_variant`` and ``ensure_quantised``), and for which TensorRT."""

    flavour: Flavour
    samples: int
    seconds: float
    tolerance: float | None
    max_flips: int | None
    inputs: tuple[Path, ...]
    choices: dict[str, tuple[str, ...]]

    @property
    def recorded_choices(self) -> dict[str, list[str]]:
        """As ``rules.Choices.to_dict`` gives them."""
        return {name: list(patterns) for name, patterns in self.choices.items() if patterns}

    @property
    def recipe(self) -> dict[str, Any]:
        """What the engine's record keeps of it, for ``engines.rebuild_options``."""
        kept = {name: getattr(self, name) for name in ("samples", "seconds", "tolerance", "max_flips")}
        return kept | self.recorded_choices


@dataclass(frozen=True)
class _Ready:
    """Everything that a build needs to know of its graph."""

    source: Source
    profiles: tuple[Profile, ...]
    bundle: Bundle | None
    variant_made: bool


def _prepare_bundle(
    path: Path, precision: str, profiles: Sequence[str] | Path, batch: int, verification: _Verification, say: Report
) -> _Ready:
    from mmx.export.engine.profiles import profiles_for, read_profiles

    bundle = Bundle.open(path, verify=False)
    made = False
    if precision in TOLERANCE and not is_current(
        bundle,
        precision,  # type: ignore[arg-type]
        verification.tolerance,  # type: ignore[arg-type]
        verification.max_flips,
        verification.recorded_choices,
    ):
        from mmx.export.precision.rules import Choices
        from mmx.export.precision.variant import ensure_variant

        verification.flavour.load()  # before minutes of verification: can anything be built at all?
        bundle, made = ensure_variant(
            Bundle.open(path),
            precision,  # type: ignore[arg-type]
            samples=verification.samples,
            seconds=verification.seconds,
            tolerance=verification.tolerance,
            max_flips=verification.max_flips,
            choices=Choices(**verification.choices),
            report=say,
        )
    elif precision in ENGINE_GRAPHS and not quantised_is_current(bundle, precision, verification.max_flips):
        from mmx.export.precision.quantised import ensure_quantised

        verification.flavour.load()
        bundle, made = ensure_quantised(
            Bundle.open(path),
            precision,
            samples=verification.samples,
            seconds=verification.seconds,
            tolerance=verification.tolerance,
            max_flips=verification.max_flips,
            report=say,
        )
    source = source_in(bundle, precision)
    if isinstance(profiles, Path):
        return _Ready(source, read_profiles(profiles, source.inputs, bundle.manifest), bundle, made)
    return _Ready(source, profiles_for(bundle.manifest, profiles, batch), bundle, made)


def _prepare_file(
    path: Path, precision: str, profiles: Sequence[str] | Path, batch: int, verification: _Verification, say: Report
) -> _Ready:
    from mmx.export.engine.onnx_file import half_of_file, profiles_of_file, source_of_file
    from mmx.export.precision.rules import Choices

    source, made = source_of_file(path), False
    shapes = profiles_of_file(source, profiles)
    if precision in TOLERANCE:
        assert verification.tolerance is not None
        verification.flavour.load()
        source, made = half_of_file(
            source,
            precision,  # type: ignore[arg-type]
            shapes,
            verification.inputs,
            samples=verification.samples,
            seconds=verification.seconds,
            tolerance=verification.tolerance,
            choices=Choices(**verification.choices),
            report=say,
        )
    return _Ready(source, shapes, None, made)


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
        if name == "auto" and chosen is FULL:
            raise EnvironmentMissing(
                f"TensorRT for RTX does not build for {target.name}, and TensorRT is not installed",
                f"on the machine with that GPU: {install_command(FULL.extra)}",
            )
        raise missing_extra(chosen.title, chosen.extra)
    if chosen is FULL and not here:
        raise EnvironmentMissing(
            f"TensorRT builds only for the GPU in this machine, and that is not {target.name}",
            "build on the machine to deploy on, or use --flavour tensorrt-rtx",
        )
    return chosen, version


@dataclass(frozen=True)
class _Job:
    source: Source
    precision: str
    target: Target
    flavour: Flavour
    version: str
    profiles: tuple[Profile, ...]
    settings: Settings
    verification: _Verification

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What goes into the engine's record: none for a portable one."""
        return () if self.target.is_portable else (self.target.capability,)

    @property
    def key(self) -> str:
        """Twelve hex digits that change with everything that would change the engine."""
        parts: dict[str, Any] = {
            "recipe": BUILD_RECIPE,
            "flavour": self.flavour.name,
            "version": self.version,
            "capabilities": self.capabilities,
            "precision": self.precision,
            "graph": self.source.sha256,
            "profiles": [asdict(profile) for profile in self.profiles],
            "settings": asdict(self.settings),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """Of the variant, and of the engine's file."""
        return f"{self.flavour.name}-{self.target.name}-{self.precision}-{self.key}"

    def cached(self) -> Engine | None:
        """The newest engine that this job would build, whole."""
        return next((each for each in self.source.engines if each.record.key == self.key and each.is_whole), None)

    def run(self, say: Report) -> Engine:
        """Build, check and publish the engine with its record."""
        from mmx.export.engine.child import run_build
        from mmx.export.engine.precision_check import check_precision

        self.source.check()  # hashes and all: what is built is what was verified
        source, started = self.source, time.monotonic()
        with source.new_variant() as folder:
            file = folder.path / f"{self.name}.engine"
            with folder.writing():
                built = run_build(self._description(file), say)
            check_precision(self.precision, built, source.outputs, str(source.graph))
            record = EngineRecord(
                precision=self.precision,
                source=source.base_sha256,
                files={},
                recipe={"rules": BUILD_RECIPE, **self.verification.recipe},
                verification=dict(source.accuracy),
                engine=file.name,
                size=file.stat().st_size,
                key=self.key,
                flavour=self.flavour.name,
                version=self.version,
                target=self.target.name,
                capabilities=self.capabilities,
                graph=source.graph.name,
                graph_sha256=source.sha256,
                inputs=source.inputs,
                outputs=source.outputs,
                profiles=self.profiles,
                settings=asdict(self.settings),
                layers=built["layers"],
                weights=built["weights"],
                **made_now(time.monotonic() - started),
            )
            engine = as_engine(folder.publish(self.name, record))
        assert engine is not None
        return engine

    def _description(self, out: Path) -> dict[str, Any]:
        cross = self.flavour is RTX and not self.target.is_portable
        return {
            "module": self.flavour.module,
            "graph": str(self.source.graph),
            "out": str(out),
            "capabilities": list(self.capabilities) if cross else [],
            "profiles": [asdict(profile) for profile in self.profiles],
            "workspace": self.settings.workspace,
            "level": self.settings.level,
        }
