"""``record.json`` of a variant as frozen dataclasses: what it is, what it was made from and how, how near it comes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from mmx.runtime.domain import Gaussian
from mmx.runtime.from_json import Name, OneOf, Within
from mmx.runtime.manifest import TensorSpec
from mmx.runtime.probabilities import Count, SubsetFit
from mmx.runtime.to_json import to_json

SCHEMA_VERSION = 1
Size = Annotated[int, Within(0, 2**31 - 1)]
Shape = tuple[Size, ...]
Rows = list[list[Annotated[float, Within(-1e6, 1e6)]]]


@dataclass(frozen=True, kw_only=True)
class Record:
    """What every variant records.

    Attributes:
        kind: of ``KINDS``. precision: fp16, bf16, int8, fp8, or int8-fp16 (INT8 as TensorRT engines take it).
        source: SHA-256 of the FP32 graph that it was derived from.
        files: SHA-256 by name of every file of the folder but the record.
        made_from: SHA-256 by precision of the other graphs that went into it.
        recipe: all that a repetition needs: rules, data, settings.
        verification: what was measured against the FP32 graph.
        created: UTC, as ISO 8601; the newest of several is taken.
        made: command, seconds, platform, versions.
    """

    schema_version: Annotated[int, OneOf((SCHEMA_VERSION,))] = SCHEMA_VERSION
    kind: Name
    precision: Name
    source: str
    files: dict[Name, str]
    made_from: dict[Name, str] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    verification: dict[str, Any] = field(default_factory=dict)
    created: Name
    made: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The record as indented JSON with a final newline; a number that is not finite becomes null."""
        return to_json(asdict(self)) + "\n"


@dataclass(frozen=True)
class Probe:
    """A few samples of ``probe.probe_inputs``: their numbers, and their logits, [samples][labels] by output: in FP32
    (``exact``), and in the INT8 graph's own arithmetic.
    """

    samples: tuple[Size, ...]
    exact: dict[str, Rows]
    own: dict[str, Rows]


@dataclass(frozen=True, kw_only=True)
class GraphRecord(Record):
    """An ONNX graph in another precision; its inputs and outputs are those of the FP32 graph.

    ``graph``: its file. ``probe``: what an INT8 graph answers where it is computed right.
    """

    kind: Annotated[str, OneOf(("graph",))] = "graph"
    graph: Name
    opset: Annotated[int, Within(1, 1000)]
    probe: Probe | None = None


@dataclass(frozen=True)
class Range:
    """The shapes that one input may have in one profile; TensorRT tunes for ``opt``."""

    min: Shape
    opt: Shape
    max: Shape


@dataclass(frozen=True)
class Profile:
    """One optimisation profile: its name (short, typical, long) and the range of every input."""

    name: Name
    shapes: dict[Name, Range]

    def fits(self, shapes: dict[str, tuple[int, ...]]) -> bool:
        """Whether inputs of these shapes can run in this profile."""
        return all(
            len(shape) == len(self.shapes[name].max)
            and all(
                low <= size <= high
                for low, size, high in zip(self.shapes[name].min, shape, self.shapes[name].max, strict=True)
            )
            for name, shape in shapes.items()
        )


@dataclass(frozen=True, kw_only=True)
class EngineRecord(Record):
    """A TensorRT engine.

    Attributes:
        engine, size: the file's name and bytes.
        flavour, version: tensorrt | tensorrt-rtx, and its version; an engine runs with that version only.
        target: as asked for (rtx4090, sm89, portable...). capabilities: the compute capabilities it is for, such as
            "8.9"; empty for a portable engine of TensorRT-RTX (8.0 and later).
        graph, graph_sha256: the ONNX file it was built from.
        key: short hash of everything that would change the engine; part of the folder's name.
        settings: workspace and other builder settings.
        layers: layers of the network by type and output type. weights: number of weights by type.
    """

    kind: Annotated[str, OneOf(("engine",))] = "engine"
    engine: Name
    size: Annotated[int, Within(0, 2**48)]
    key: Name
    flavour: Name
    version: Name
    target: Name
    capabilities: tuple[Name, ...]
    graph: Name
    graph_sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    profiles: tuple[Profile, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    layers: dict[str, int] = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ProbabilitiesRecord(Record):
    """Calibrated probabilities: the record is all there is, ``files`` is empty.

    ``precision``: of the logits that it was fitted on. ``subsets``: by ``probabilities.subset_name``.
    """

    kind: Annotated[str, OneOf(("probabilities",))] = "probabilities"
    subsets: dict[Name, SubsetFit]


@dataclass(frozen=True, kw_only=True)
class DomainRecord(Record):
    """What the training data look and sound like; the record is all there is, ``files`` is empty."""

    kind: Annotated[str, OneOf(("domain",))] = "domain"
    kinds: dict[Name, Gaussian]


Measured = Annotated[float, Within(0, 1)] | None
"""A share; None: there was nothing to measure it on."""


@dataclass(frozen=True)
class ScoredRow:
    """One way to run the system: means over the labels; ``milliseconds`` of one utterance, if it was timed."""

    name: Name
    f1: Measured
    accuracy: Measured
    weighted_accuracy: Measured
    milliseconds: Annotated[float, Within(0, 1e9)] | None = None


@dataclass(frozen=True)
class ScoredSet:
    """One set of modalities: with the network's probabilities, and with calibrated ones (None: there are none)."""

    modalities: Name
    samples: Count
    f1: Measured
    calibration_error: Measured
    brier: Measured
    calibrated_error: Measured
    calibrated_brier: Measured
    coverage: Measured
    error: Measured


@dataclass(frozen=True)
class ScoredFault:
    """All modalities together under one fault."""

    fault: Name
    severity: Annotated[float, Within(-1e3, 1e3)]
    unit: Name
    f1: Measured
    calibration_error: Measured
    coverage: Measured


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord(Record):
    """What ``mmx eval`` measured on a whole split; the record is all there is, ``files`` is empty.

    Attributes:
        data, split, samples: what was scored.
        asked: what a prediction had to reach to be given labels, in words. cpu: the machine's.
    """

    kind: Annotated[str, OneOf(("evaluation",))] = "evaluation"
    data: Name
    split: Name
    samples: Count
    asked: Name
    cpu: Name
    rows: tuple[ScoredRow, ...]
    sets: tuple[ScoredSet, ...] = ()
    faults: tuple[ScoredFault, ...] = ()


KINDS: dict[str, type[Record]] = {
    "graph": GraphRecord,
    "engine": EngineRecord,
    "ranges": Record,
    "probabilities": ProbabilitiesRecord,
    "evaluation": EvaluationRecord,
    "domain": DomainRecord,
}
"""``ranges``: the activation ranges that INT8 was calibrated with."""
