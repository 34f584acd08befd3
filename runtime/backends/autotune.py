"""Autotuning: which of the CPU backends is the fastest here, measured once in about a second.

The result is kept in the user's cache folder by graph and machine; where that cannot be written, every start measures.
The file can only choose between backends that mmx offers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.bundle import Graph
from mmx.runtime.kept import Kept, engine_versions
from mmx.runtime.machine import cpu_name, usable_cores
from mmx.runtime.manifest import TensorSpec
from mmx.runtime.packing import feature_sizes, pack, pack_features
from mmx.runtime.synthetic import make_sample, with_features

if TYPE_CHECKING:
    from mmx.runtime.backends import Backend

RESULTS = Kept("autotune.json", schema_version=1)
LIMIT_S = 1.0
ROUNDS = 9  # more would not change the median
# An utterance of 4.5 s, about the mean of IEMOCAP's; features are taken at a few steps a second.
TYPICAL = (16, 9, 12)  # tokens, faces and mel pieces of it
FEATURE_ROWS = 20
SMALL_VOCABULARY = 100  # no graph's is smaller


@dataclass(frozen=True)
class Autotuned:
    """What was measured, by backend: seconds for one utterance, and seconds to load."""

    seconds: dict[str, float]
    load_seconds: dict[str, float]

    def winner(self, utterances: int | None = None) -> str:
        """The backend that finishes ``utterances`` first, loading included; None: loading does not count."""
        if utterances is None:
            return min(self.seconds, key=self.seconds.__getitem__)
        return min(self.seconds, key=lambda name: self.load_seconds[name] + utterances * self.seconds[name])

    def __str__(self) -> str:
        ranked = sorted(self.seconds, key=self.seconds.__getitem__)
        return ", ".join(
            f"{name} {self.seconds[name] * 1000:.1f} ms an utterance and {self.load_seconds[name]:.1f} s to load"
            for name in ranked
        )


@dataclass(frozen=True)
class Setting:
    """What a result holds for: another machine, version, graph or number of threads is another autotune."""

    cpu: str
    cores: int
    threads: int | None
    precision: str
    graph_sha256: str
    versions: tuple[tuple[str, str], ...]

    @property
    def key(self) -> str:
        """Its name in ``autotune.json``."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]


def setting_of(graph: Graph, precision: str, threads: int | None) -> Setting:
    """The setting of this process on this machine; ``graph`` is the one that would run."""
    return Setting(
        cpu=cpu_name(),
        cores=usable_cores(),
        threads=threads,
        precision=precision,
        graph_sha256=graph.sha256,
        versions=engine_versions(),
    )


def compare(backends: Sequence[Backend], inputs: Sequence[TensorSpec], limit_s: float = LIMIT_S) -> dict[str, float]:
    """Median seconds of one utterance by backend name, interleaved, so that a busy moment hits all of them.

    Each runs once unmeasured; at least one measured round follows, however slow they are.
    """
    utterance = typical_inputs(inputs)
    started = perf_counter()
    for backend in backends:
        backend.run(utterance)
    seconds: dict[str, list[float]] = {backend.name: [] for backend in backends}
    for number in range(ROUNDS):
        for backend in backends[:: -1 if number % 2 else 1]:
            before = perf_counter()
            backend.run(utterance)
            seconds[backend.name].append(perf_counter() - before)
        if perf_counter() - started > limit_s:
            break
    return {name: median(each) for name, each in seconds.items()}


def typical_inputs(inputs: Sequence[TensorSpec]) -> dict[str, NDArray]:
    """One utterance of the mean size for a graph with these inputs; the values are noise."""
    random = np.random.default_rng(0)
    sample = make_sample(*TYPICAL, random, vocabulary=SMALL_VOCABULARY)
    if sizes := feature_sizes(inputs):
        return pack_features([with_features(sample, dict.fromkeys(sizes, FEATURE_ROWS), sizes, random)], sizes)
    return pack([sample], inputs=[tensor.name for tensor in inputs]).inputs


def recall(setting: Setting, names: Sequence[str]) -> Autotuned | None:
    """The result for this setting; None if these backends were not compared in it."""
    kept = RESULTS.get(setting.key)
    seconds, load_seconds = (_times(kept.get(kind), names) for kind in ("seconds", "load_seconds"))
    return Autotuned(seconds, load_seconds) if seconds and load_seconds else None


def remember(setting: Setting, result: Autotuned) -> None:
    """Keep a result where it can be kept. Never an error: the next start measures again."""
    RESULTS.put(setting.key, {**asdict(setting), **{kind: _rounded(times) for kind, times in asdict(result).items()}})


def _rounded(times: Mapping[str, float]) -> dict[str, float]:
    return {name: round(seconds, 6) for name, seconds in times.items()}


def _times(value: object, names: Sequence[str]) -> dict[str, float] | None:
    """The value if it has a time for each of the names and for nothing else."""
    if not isinstance(value, dict) or set(value) != set(names):
        return None
    return value if all(isinstance(s, float) and 0 < s < 3600 for s in value.values()) else None
