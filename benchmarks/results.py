"""What a bench run found, as frozen dataclasses: written as JSON, read back by ``--compare``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmx.evaluation.environment import Environment
from mmx.evaluation.statistics import Latency, Ratio
from mmx.runtime.errors import BadDataError
from mmx.runtime.to_json import to_json

SCHEMA_VERSION = 1
OK, PARITY_FAILED, UNAVAILABLE, NO_TIME = "ok", "parity failed", "not available", "not run"
EAGER = "eager"  # PyTorch as upstream runs it: the reference of every parity check, and V2EM's is the baseline
BASELINE = f"v2em/{EAGER}/fp32"
PEERS = (EAGER, "compile", "plain-onnx", "openvino-own")  # see contenders.peers


@dataclass(frozen=True)
class Offline:
    """All samples as fast as they will go.

    Attributes:
        samples_per_second: by batch size; a size whose answers were not those of single samples is left out.
        best_batch: the fastest of them. gain: how many times faster it is than single samples.
        vs_own_conversion: than OpenVINO's own conversion in the same precision and batches.
        vs_baseline, vs_own, vs_plain: than V2EM upstream-style, this system upstream-style, and its plain export in
            ONNX Runtime, which all run one sample at a time: their single-stream ratios times ``gain``.
    """

    samples_per_second: dict[int, float]
    best_batch: int
    gain: Ratio | None = None
    vs_own_conversion: Ratio | None = None
    vs_baseline: Ratio | None = None
    vs_own: Ratio | None = None
    vs_plain: Ratio | None = None
    samples: int = 0


@dataclass(frozen=True)
class Server:
    """Poisson arrivals at one worker without batching: a rate at which 99 % are answered within a bound.

    Attributes:
        bound_ms: the bound. rate: arrivals a second at which a play showed it with 95 % confidence (0: none did).
        simulated_rate: what a simulated queue with the measured service times promised.
        arrivals, late, p99_ms: of the last play: how many, how many of them over the bound, waiting included.
        needed_s: seconds that a play of the next rate would have taken, where the time was up (0: it was not).
    """

    bound_ms: float
    rate: float
    simulated_rate: float
    arrivals: int = 0
    p99_ms: float = 0.0
    late: int = 0
    needed_s: float = 0.0


@dataclass(frozen=True)
class Row:
    """One contender, one sample at a time (``single-stream``).

    Attributes:
        system, runner, precision: registry name; peer or backend; what it computes in.
        threads: CPU threads it was given.
        status: ok | parity failed | not available | not run; of all but the first no speed is given, and ``reason``
            says why.
        error: max|logits - reference| / max|reference|; shift: the largest change of a probability. The reference is
            this system in eager PyTorch, on the same samples.
        load_s: seconds to open it (torch imported, bundle exported).
        latency: milliseconds of one sample. first_sight_ms: median of the first time that each shape was seen.
        set_seconds: seconds for the whole set. realtime: seconds of media for each second of work.
        vs_baseline: how many times less time than V2EM upstream-style the set takes. vs_own: than this system
            upstream-style. median_vs_baseline: how many times faster than V2EM upstream-style a sample is, the median.
        in_order_seconds, in_order_vs_baseline, in_order_vs_own: as set_seconds, vs_baseline, vs_own, with each
            utterance run once in the set's own order, so that a shape is new to the contender when it first comes.
        points: for each sample its duration in seconds and its milliseconds.
    """

    system: str
    runner: str
    precision: str
    threads: int
    status: str
    reason: str = ""
    error: float | None = None
    shift: float | None = None
    load_s: float | None = None
    latency: Latency | None = None
    first_sight_ms: float | None = None
    set_seconds: float | None = None
    realtime: float | None = None
    vs_baseline: Ratio | None = None
    vs_own: Ratio | None = None
    median_vs_baseline: Ratio | None = None
    in_order_seconds: float | None = None
    in_order_vs_baseline: Ratio | None = None
    in_order_vs_own: Ratio | None = None
    points: tuple[tuple[float, float], ...] = ()

    @property
    def key(self) -> str:
        """What identifies a row."""
        return f"{self.system}/{self.runner}/{self.precision}"

    @property
    def is_mmx(self) -> bool:
        """Whether mmx runs it, rather than a peer."""
        return self.runner not in PEERS


@dataclass(frozen=True)
class WholeProgram:
    """The ``paper`` scenario: a process of its own, from start to exit, as the paper timed its test runs.

    Attributes:
        key: of the contender. threads: it was given. samples: it ran.
        start_s: seconds until the first sample (interpreter, imports, load). run_s: seconds on the samples.
        set_seconds: start plus the whole set. peak_rss_mb: largest resident memory of the process.
    """

    key: str
    threads: int
    samples: int
    start_s: float
    run_s: float
    set_seconds: float
    peak_rss_mb: float | None


@dataclass(frozen=True)
class WorkloadInfo:
    """What was run: data set, its source, utterances in it, their seconds of media, timed runs of each, preset."""

    dataset: str
    source: str
    total: int
    media_seconds: float
    passes: int
    preset: str = "full"


@dataclass(frozen=True)
class Report:
    """One run of ``mmx bench``.

    Attributes:
        command: as it was given. created: ISO time, UTC. scope: model | pipeline. seconds: how long the run took.
        peak_rss_mb: of this process, with a system's contenders open at once.
        notes: what a reader must know before the figures: what is synthetic, extrapolated, left out.
        rows: single-stream, by system. offline, server: by contender key. whole_program: the paper's scenario.
        stages: milliseconds by stage, by contender key. residual: merge over keep, by engine.
        machine_shares: each tower's arithmetic rate at the best offline batch over that of the engine's own large
            matrix product, by contender key.
        parameters: counted here, by system and trunk. scores: accuracy and F1 in percent, by system.
    """

    schema_version: int
    command: str
    created: str
    scope: str
    environment: Environment
    workload: WorkloadInfo
    notes: tuple[str, ...]
    rows: tuple[Row, ...]
    offline: dict[str, Offline] = field(default_factory=dict)
    server: dict[str, Server] = field(default_factory=dict)
    whole_program: tuple[WholeProgram, ...] = ()
    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    machine_shares: dict[str, dict[str, float]] = field(default_factory=dict)
    residual: dict[str, Ratio] = field(default_factory=dict)
    parameters: dict[str, dict[str, int]] = field(default_factory=dict)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: float = 0.0
    peak_rss_mb: float | None = None

    @property
    def used(self) -> str:
        """How many utterances were run; one system's number may differ from another's."""
        counts = sorted({len(row.points) for row in self.rows if row.points})
        return " to ".join(map(str, dict.fromkeys((counts[0], counts[-1])))) if counts else "0"

    @property
    def extrapolated(self) -> bool:
        """Whether totals for the set come from a part of it."""
        return any(len(row.points) < self.workload.total for row in self.rows if row.points)

    @property
    def main_rows(self) -> list[Row]:
        """The rows of the first number of threads that was asked for."""
        return [row for row in self.rows if row.threads == self.rows[0].threads]

    def best(self, system: str, precision: str | None = None) -> Row | None:
        """The system's fastest row through mmx, of the main rows (of this precision)."""
        return best_rows([row for row in self.main_rows if precision in (None, row.precision)]).get(system)

    def row(self, key: str) -> Row | None:
        """The main row called ``key``, if it has a speed."""
        return next((row for row in self.main_rows if row.key == key and row.set_seconds is not None), None)

    def to_json(self) -> str:
        """Indented JSON with a final newline."""
        return to_json(asdict(self), indent=1) + "\n"


def best_rows(rows: Sequence[Row]) -> dict[str, Row]:
    """Each system's fastest row through mmx, by system."""
    found: dict[str, Row] = {}
    for row in rows:
        if row.is_mmx and row.set_seconds is not None:
            best = found.get(row.system)
            if best is None or best.set_seconds is None or row.set_seconds < best.set_seconds:
                found[row.system] = row
    return found


def read_report(path: Path) -> dict[str, Any]:
    """An earlier report as plain data: its ``workload`` is a dict and its ``rows`` a list of dicts.

    Raises:
        BadDataError: it is not a report of this version.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as e:
        raise BadDataError(f"{path} is not a bench report: {e}", "make one with mmx bench ... --out FILE.json") from e
    if not isinstance(data, dict) or data.get("schema_version") != SCHEMA_VERSION:
        raise BadDataError(f"{path} is not a bench report of version {SCHEMA_VERSION}", "make one with this mmx")
    rows, workload = data.get("rows"), data.get("workload")
    if not isinstance(rows, list) or not isinstance(workload, dict) or not all(isinstance(r, dict) for r in rows):
        raise BadDataError(f"{path} is a damaged bench report: it has no rows", "make it again")
    return data
