"""The rounds of a run: a system's contenders and the baseline, open together, and how long they may take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Protocol

from mmx.benchmarks.contenders.bundles import BundleContender, open_contenders, precisions
from mmx.benchmarks.contenders.peers import open_peer
from mmx.benchmarks.contenders.pipeline import pipeline_makers, pipeline_stages
from mmx.benchmarks.contenders.prepare import Prepared
from mmx.benchmarks.contenders.upstream import upstream_module
from mmx.benchmarks.measure import extras
from mmx.benchmarks.measure.scenarios import Offline, Server
from mmx.benchmarks.measure.single_stream import BASELINE, Measured, Opened, measure
from mmx.benchmarks.options import FULLY_COMPARED, Options
from mmx.benchmarks.reports.report import EAGER, PEERS, Row, best_rows
from mmx.benchmarks.timing import Contender
from mmx.benchmarks.workload.sources import Source

# Parts of the time after which something optional is no longer begun: a peer of the essential systems, another system.
LAST_PEER, LAST_ROUND = 0.6, 0.8
INTERLEAVED_SHARE = 0.45  # of the time left before the first round; opening and the other scenarios share the rest
ROUND_WEIGHT = 2  # of a fully compared system's round, against 1 of another's
UNLIMITED_S = 1e9


class Display(Protocol):
    """Where progress goes."""

    def say(self, message: str) -> None: ...

    def progress(self, what: str, done: int, total: int) -> None: ...


class Clock:
    """How much of the time a run may take is over."""

    def __init__(self, minutes: float) -> None:
        self.began = time.perf_counter()
        self.allowed = minutes * 60 or UNLIMITED_S

    @property
    def spent(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self.began

    @property
    def left(self) -> float:
        """Seconds that are left; negative when the time is over."""
        return self.allowed - self.spent

    def past(self, share: float) -> bool:
        """Whether more than this share of the time is over."""
        return self.spent > share * self.allowed


class Rounds:
    """One round for each system: its contenders and the baseline, open together and interleaved.

    No more than that is open at once, because every contender holds its own copy of the weights.
    """

    def __init__(
        self, options: Options, systems: Sequence[Prepared], source: Source, clock: Clock, show: Display
    ) -> None:
        self.rows: list[Row] = []
        self.offline: dict[str, Offline] = {}
        self.server: dict[str, Server] = {}
        self.stages: dict[str, dict[str, float]] = {}
        self.scores: dict[str, dict[str, float]] = {}
        self._options, self._systems, self._source = options, systems, source
        self._clock, self._show = clock, show
        self._for_rounds = INTERLEAVED_SHARE * clock.left

    def measure_all(self, threads: int) -> None:
        """Measure every system with so many threads; what goes beyond single-stream only with the first number."""
        baseline: Opened | None = None
        for prepared in self._systems:
            with ExitStack() as closing:
                opened, refused = open_contenders(
                    self._makers(prepared, threads), threads, self._show.say, self._leave_out
                )
                self.rows += refused
                if not opened:
                    continue
                for each in opened:
                    if each.contender.key != BASELINE:
                        closing.callback(each.contender.close)
                    else:
                        baseline = each
                beside = [baseline] if baseline and baseline not in opened else []
                measured = self._measure([*beside, *opened], prepared, threads)
                mine = [row for row in measured.rows if row.system == prepared.system]
                self.rows += mine
                if threads == self._options.threads[0]:
                    self._beyond(prepared, [each.contender for each in opened], replace(measured, rows=mine))
        if baseline is not None:
            baseline.contender.close()

    def _measure(self, opened: Sequence[Opened], prepared: Prepared, threads: int) -> Measured:
        weights = {each.system: ROUND_WEIGHT if each.system in FULLY_COMPARED else 1 for each in self._systems}
        share = weights[prepared.system] / sum(weights.values()) / len(self._options.threads)
        return measure(
            opened,
            self._source.workload,
            self._source.make,
            threads=threads,
            samples=self._options.samples,
            passes=self._options.passes,
            seconds=share * self._for_rounds,
            progress=partial(self._show.progress, f"measuring {prepared.system} on {threads} thread(s)"),
        )

    def _leave_out(self, key: str) -> bool:
        system, runner, _ = key.split("/")
        if system not in self._options.essential:
            return runner == EAGER and self._clock.past(LAST_ROUND)
        return runner in PEERS and runner != EAGER and self._clock.past(LAST_PEER)

    def _makers(self, prepared: Prepared, threads: int) -> Iterator[tuple[str, Callable[[], Contender]]]:
        """Each contender's key and how to open it: eager PyTorch, the other peers, mmx."""
        if self._options.scope == "pipeline":
            yield from pipeline_makers(prepared, self._options.backends, threads)
            return
        name = prepared.system
        module = upstream_module(name, prepared.preset, prepared.checkpoint)
        peers = [peer for peer in self._options.peers if peer != EAGER] if name in FULLY_COMPARED else []
        for peer in (EAGER, *peers):
            yield f"{name}/{peer}/fp32", partial(open_peer, peer, name, module, threads, prepared.folder)
        for backend in self._options.backends:
            for precision in precisions(prepared.bundle, backend):
                make = partial(BundleContender, name, prepared.bundle, backend, precision, threads)
                yield f"{name}/{backend}/{precision}", make

    def _beyond(self, prepared: Prepared, contenders: Sequence[Contender], measured: Measured) -> None:
        """What uses the contenders as they are: the pipeline's stages; offline, server and scores for mmx's best."""
        name, options = prepared.system, self._options
        if options.scope == "pipeline":
            self.stages |= pipeline_stages(contenders, measured.rows)
            return
        row = best_rows(measured.rows).get(name)
        if row is None:
            return
        contender = next(each for each in contenders if each.key == row.key)
        if name in FULLY_COMPARED:
            samples = [self._source.make(utterance.index) for utterance in measured.workload.utterances]
            if "offline" in options.scenarios:
                self._show.say(f"offline: {row.key}")
                each = float(measured.timings[row.key].seconds.mean())
                self.offline[row.key] = extras.offline_of(contender, samples, each)
            if "server" in options.scenarios:
                self._show.say(f"server: {row.key}")
                self.server[row.key] = extras.server_of(contender, samples, measured, options.bound_ms)
        if self._source.truths is not None and name in options.checkpoints:
            total = len(self._source.workload.utterances)
            tell = partial(self._show.progress, f"scoring {name}", total=total)
            self.scores[name] = extras.scores_of(contender, prepared, self._source, tell)
