"""``mmx calibrate``: measure ranges, quantise, give the worst layers back to FP32 until the gate holds, or say no."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from mmx.calibration.gate import CPU_BACKENDS, Accuracy, Judge, Speed, measure_speed
from mmx.calibration.layers import Layer, find_layers, without
from mmx.calibration.noise import Noise
from mmx.calibration.quantize import WEIGHT_BITS, quantise
from mmx.calibration.ranges import SCHEMA_VERSION, Inputs, Ranges, measure_limits, read_ranges
from mmx.calibration.sensitivity import layer_sqnr
from mmx.export.precision.session import cpu_session
from mmx.export.precision.variant import add_graph
from mmx.export.variant_writer import made_now, new_variant
from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import BadDataError, ParityError
from mmx.runtime.packing import inputs_for
from mmx.runtime.probe import Run, make_probe
from mmx.runtime.records import Record
from mmx.runtime.types import Sample
from mmx.runtime.variants import check_files

RANGES = "ranges.json"
VERIFIED = ("schema_version", "layers", "sqnr_db", "tries", "milliseconds", "faster", "bytes", "target")  # recorded
SQNR_SAMPLES = 16
SPEED_SAMPLES = 24
FORESEEN_S = 15.0

Targets = NDArray[np.int64]


class Data(Protocol):
    """What ``datasets.samples.Utterances`` and ``noise.Noise`` both are: samples by index, and a hash of all of them.

    ``targets``: int64 [samples, labels], or None where they are not known.
    """

    @property
    def targets(self) -> Targets | None: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def digest(self) -> str: ...


Say = Callable[[str, float], None]
"""Called with what is being done, and how much of it is done (0..1)."""


@dataclass(frozen=True)
class Try:
    """One round of the sweep: the layers kept in FP32, and what came of it.

    Each is judged in the graph's own arithmetic; what holds, also on the backends that would run it here.
    """

    kept: tuple[str, ...]
    accuracy: Accuracy


@dataclass(frozen=True)
class Calibration:
    """What a calibration found.

    Attributes:
        bundle: as it is now. added: whether it has the INT8 graph. failure: which part of the gate failed, or "".
        ranges: what was measured, and where they were saved (``ranges_path``). reused: they were there already.
        sqnr: by layer, worst first, in dB. tries: the sweep. speed: None where accuracy failed before.
        sizes: bytes of the FP32 and the INT8 graph.
        labelled: whether targets were known; if not, the FP32 graph's labels stood in for them (agreement).
    """

    bundle: Bundle
    added: bool
    failure: str
    ranges: Ranges
    ranges_path: Path
    reused: bool
    layers: tuple[Layer, ...]
    sqnr: dict[str, float]
    tries: tuple[Try, ...]
    speed: Speed | None
    sizes: tuple[int, int]
    labelled: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data, without the bundle."""
        return {
            "schema_version": SCHEMA_VERSION,
            "bundle": str(self.bundle.path),
            "added": self.added,
            "failure": self.failure,
            "method": self.ranges.method,
            "samples": self.ranges.samples,
            "weight_bits": WEIGHT_BITS,
            "layers": len(self.layers),
            "sqnr_db": self.sqnr,
            "tries": [asdict(each) for each in self.tries],
            "milliseconds": None if self.speed is None else self.speed.milliseconds,
            "faster": None if self.speed is None else asdict(self.speed.ratio),
            "bytes": {"fp32": self.sizes[0], "int8": self.sizes[1]},
            "target": "labels" if self.labelled else "the FP32 graph's answers",
        }


def saved_ranges(bundle: Bundle, data: str, method: str) -> tuple[Ranges, Path] | None:
    """The bundle's ranges for the data with the hash ``data`` and a method, and their file; None without any."""
    for variant in bundle.variants:
        recipe = variant.record.recipe
        if variant.record.kind == "ranges" and recipe.get("data") == data and recipe.get("method") == method:
            with suppress(BadDataError):  # then it is measured again
                check_files(variant)
                return read_ranges(variant.file), variant.file
    return None


def save_ranges(bundle: Bundle, ranges: Ranges, seconds: float) -> Path:
    """Keep ranges as a variant of the bundle; returns its file."""
    with new_variant(bundle) as folder:
        with folder.writing():
            ranges.write(folder.path / RANGES)
        about = Record(
            kind="ranges",
            precision="int8",
            source=ranges.weights,
            files={},
            recipe={"data": ranges.data, "method": ranges.method, "samples": ranges.samples},
            **made_now(seconds),
        )
        return folder.publish("int8-ranges", about).file


def calibrate(
    bundle: Bundle,
    data: Data,
    held_out: Data,
    *,
    method: str = "mse",
    labelled: bool = True,
    fresh: bool = False,
    require_speed: bool = True,
    keep_fp32: Sequence[str] = (),
    say: Say = lambda what, share: None,
) -> Calibration:
    """Make a bundle's INT8 variant, if it passes the gate. Otherwise the bundle gets no graph, only the ranges.

    Args:
        data: samples to measure ranges on. held_out: samples of the gate, none of them in ``data``.
        method: of ``ranges.METHODS``. labelled: whether ``held_out.targets`` are the bundle's labels.
        fresh: measure ranges although the bundle has those of this data and method.
        keep_fp32: patterns of layers that are not quantised (``layers.without``).
        require_speed: whether a slower graph fails the gate; an engine for another machine is judged there.

    Raises:
        UsageError: an argument is wrong, or the bundle cannot be written.
        BadDataError: a value is not finite. BundleReplaced: the bundle was exported again meanwhile.
    """
    started = time.monotonic()
    with new_variant(bundle) as folder:
        path = bundle.graph().path
        model = onnx.load(path)
        layers = find_layers(model)
        digest = data.digest()
        found_ranges = None if fresh else saved_ranges(bundle, digest, method)
        if found_ranges is not None:
            ranges, saved = found_ranges
        else:
            largest, limits, count = measure_limits(
                model, layers, lambda: _inputs(bundle, data), method, lambda n: say("ranges", n / len(data))
            )
            ranges = Ranges(SCHEMA_VERSION, bundle.graph_sha256, digest, method, count, largest, limits)
            saved = save_ranges(bundle, ranges, time.monotonic() - started)
        layers = without(layers, keep_fp32)
        say("layers", 0)
        few = [data[i] for i in range(min(SQNR_SAMPLES, len(data)))]
        sqnr = layer_sqnr(model, layers, ranges.limits, _inputs(bundle, few))
        worst = sorted(sqnr, key=sqnr.__getitem__)
        samples = [held_out[i] for i in range(len(held_out))]
        judge = Judge(bundle, samples, held_out.targets if labelled else None)
        tries, int8 = _sweep(model, layers, ranges.limits, worst, judge, say)
        speed, failure = None, ""
        if not tries[-1].accuracy.holds:
            failure = tries[-1].accuracy.failure
        else:
            say("speed", 0)
            speed = measure_speed(bundle, int8, _spread(samples, SPEED_SAMPLES))
            if (backend := speed.fastest.split()[0]) != tries[-1].accuracy.backend:
                tries += (Try(tries[-1].kept, judge.accuracy(int8, backend)),)
            if not tries[-1].accuracy.holds:
                failure = tries[-1].accuracy.failure
            elif not speed.holds and require_speed:
                failure = speed.failure
        found = Calibration(
            bundle,
            not failure,
            failure,
            ranges,
            saved,
            found_ranges is not None,
            tuple(layers),
            {name: sqnr[name] for name in worst},
            tries,
            speed,
            (path.stat().st_size, int8.ByteSize()),
            tries[-1].accuracy.labelled,
        )
        if not failure:
            outcome = found.to_dict()
            add_graph(
                folder,
                bundle,
                "int8",
                int8,
                recipe={
                    "data": digest,
                    "method": method,
                    "samples": ranges.samples,
                    "weight_bits": WEIGHT_BITS,
                    "kept_fp32": tries[-1].kept,
                },
                probe=make_probe(bundle.manifest.graphs["fp32"].inputs, _runner(model), _runner(int8, as_written=True)),
                verification={name: outcome[name] for name in VERIFIED},
                **made_now(time.monotonic() - started),
            )
    return replace(found, bundle=bundle.refreshed())


def foresee_speed(bundle: Bundle, keep_fp32: Sequence[str] = ()) -> Speed:
    """INT8's speed here, before anything is measured for it: every layer quantised, to ranges that are made up.

    Ranges do not change how long a graph takes. Layers that go back to FP32 do, but where INT8 as a whole costs time,
    nobody should wait minutes for the few that may gain.

    Args:
        keep_fp32: see ``calibrate``.
    """
    model = onnx.load(bundle.graph().path)
    layers = without(find_layers(model), keep_fp32)
    limits = {name: 1.0 for layer in layers for name in (layer.activation, layer.output)}
    noise = Noise(bundle.manifest, SPEED_SAMPLES, 0)
    samples = [noise[i] for i in range(len(noise))]
    return measure_speed(bundle, quantise(model, layers, limits), samples, seconds=FORESEEN_S)


def require_gain(bundle: Bundle, speed: Speed) -> None:
    """Raise ParityError where INT8 cannot pay here.

    Raises:
        ParityError: ``speed`` says that it is slower beyond the noise.
    """
    if speed.hopeless:
        raise ParityError(
            f"{bundle.path} keeps its precision, and nothing was calibrated: INT8 failed the gate on {speed.failure}",
            "--any-speed calibrates all the same, for engines elsewhere",
        )


def require(found: Calibration) -> None:
    """Raise ParityError if the gate failed.

    Raises:
        ParityError: naming the part that failed.
    """
    if found.failure:
        raise ParityError(
            f"{found.bundle.path} keeps its precision: INT8 failed the gate on {found.failure}",
            "--method tries another way to choose ranges; --any-speed accepts a slower graph, for engines elsewhere",
        )


def _sweep(
    model: onnx.ModelProto, layers: list[Layer], limits: dict[str, float], worst: list[str], judge: Judge, say: Say
) -> tuple[tuple[Try, ...], onnx.ModelProto]:
    """Keep no layer in FP32, then the worst 1, 2, 4, 8... until the gate holds; stops before nothing is left."""
    tries: list[Try] = []
    count = 0
    while True:
        kept = tuple(worst[:count])
        say(f"gate, {count} layers kept", count / max(len(worst), 1))
        int8 = quantise(model, layers, limits, kept)
        tries.append(Try(kept, judge.accuracy(int8)))
        if tries[-1].accuracy.holds:  # here it is run by a backend, which may add up otherwise
            tries.append(Try(kept, judge.accuracy(int8, CPU_BACKENDS[0])))
        count = max(1, 2 * count)
        if tries[-1].accuracy.holds or count >= len(worst):
            return tuple(tries), int8


def _runner(model: onnx.ModelProto, **options: bool) -> Run:
    session = cpu_session(model, **options)
    names = [node.name for node in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def _inputs(bundle: Bundle, samples: Data | list[Sample]) -> Iterator[Inputs]:
    for i in range(len(samples)):
        yield inputs_for(bundle.manifest, [samples[i]])


def _spread(samples: list[Sample], count: int) -> list[Sample]:
    """At most ``count`` of the samples, from the shortest sound to the longest."""
    order: Iterable[int] = np.argsort([len(sample.pieces) for sample in samples], kind="stable")
    places: NDArray[np.int64] = np.unique(np.linspace(0, len(samples) - 1, count).round().astype(np.int64))
    ranked = list(order)
    return [samples[ranked[place]] for place in places]
