"""The rounds of a run: some systems' contenders and the baseline, open together, and how long they may take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from mmx.benchmarks.contenders.bundles import BundleContender
from mmx.benchmarks.contenders.features import with_features
from mmx.benchmarks.contenders.opening import Opened, open_contenders
from mmx.benchmarks.contenders.peers import open_peer
from mmx.benchmarks.contenders.pipeline import MmxPipeline, pipeline_makers, pipeline_stages
from mmx.benchmarks.contenders.prepare import Prepared
from mmx.benchmarks.contenders.upstream import upstream_module
from mmx.benchmarks.measure import extras
from mmx.benchmarks.measure.clock import OPENING_S, SLACK_S, Clock
from mmx.benchmarks.measure.single_stream import Measured, measure
from mmx.benchmarks.options import FULLY_COMPARED, Options
from mmx.benchmarks.results import BASELINE, EAGER, PEERS, Offline, Row, Server, best_rows
from mmx.benchmarks.workload.sources import Source
from mmx.evaluation.timing import Contender
from mmx.models.registry import get_system
from mmx.runtime.precisions import precisions

ROUND_WEIGHT = 1.5  # of V2EM's round, whose samples take longer, against 1 of another


class Display(Protocol):
    """Where progress goes."""

    def say(self, message: str) -> None: ...

    def update(self, what: str, done: int, total: int) -> None: ...


class Rounds:
    """Systems that are about as slow as each other share a round, which repeats the baseline (``options.ROUNDS``)."""

    def __init__(
        self, options: Options, systems: Sequence[Prepared], source: Source, clock: Clock, show: Display
    ) -> None:
        self.rows: list[Row] = []
        self.offline: dict[str, Offline] = {}
        self.server: dict[str, Server] = {}
        self.stages: dict[str, dict[str, float]] = {}
        self.scores: dict[str, dict[str, float]] = {}
        self._options, self._source, self._clock, self._show = options, source, clock, show
        by_name = {prepared.system: prepared for prepared in systems}
        rounds = ([by_name[name] for name in together if name in by_name] for together in options.rounds)
        self._rounds = [together for together in rounds if together]
        self._number = 0  # of the round under way
        self._open: Opened | None = None  # the baseline, once it is
        self._cost: dict[str, float] = {}  # of the baseline, once it is known

    def measure_all(self, threads: int) -> None:
        """Measure every system with so many threads; what goes beyond single-stream only with the first number."""
        self._open, self._cost = None, {}
        for number, together in enumerate(self._rounds):
            self._number = number
            with ExitStack() as closing:
                opened, rejected = self._opened(together, threads)
                self.rows += rejected
                for each in opened:
                    if each.contender.key == BASELINE:
                        self._open = each
                    else:
                        closing.callback(each.contender.close)
                if opened:
                    self._round(together, opened, threads)
        if self._open is not None:
            self._open.contender.close()

    def _opened(self, together: Sequence[Prepared], threads: int) -> tuple[list[Opened], list[Row]]:
        opened: list[Opened] = []
        rejected: list[Row] = []
        for prepared in together:
            found = open_contenders(self._makers(prepared, threads), threads, self._show.say, self._leave_out)
            opened += found[0]
            rejected += found[1]
        return opened, rejected

    def _round(self, together: Sequence[Prepared], opened: list[Opened], threads: int) -> None:
        if self._open is not None and self._open not in opened:
            opened = [self._open, *opened]
        names = [prepared.system for prepared in together]
        what = f"measuring {', '.join(names)} on {threads} thread(s)"
        measured = measure(
            opened,
            self._source.workload,
            self._maker(names),
            threads=threads,
            samples=self._options.samples,
            passes=self._options.passes,
            seconds=self._seconds(threads),
            progress=partial(self._show.update, what),
            known=self._cost,
        )
        self._cost = {key: cost for key, cost in measured.costs.items() if key == BASELINE}
        mine = replace(measured, rows=[row for row in measured.rows if row.system in names])
        self.rows += mine.rows
        if threads == self._options.threads[0]:
            for prepared in together:
                self._beyond(prepared, [each.contender for each in opened], mine)

    def _left(self) -> float:
        """Seconds that are left for interleaving, less what comes between and after the rounds."""
        names = [each.system for together in self._rounds[self._number :] for each in together]
        return self._clock.left_before(self._options.extras, sum(name in FULLY_COMPARED for name in names))

    def _seconds(self, threads: int) -> float:
        """A round's share of the time that is left."""
        weights = [ROUND_WEIGHT if any(each.system == "v2em" for each in together) else 1 for together in self._rounds]
        again = len(self._options.threads) - self._options.threads.index(threads) - 1
        later = self._rounds[self._number + 1 :]
        opening = OPENING_S * (sum(map(len, later)) + again * sum(map(len, self._rounds)))
        share = weights[self._number] / (sum(weights[self._number :]) + again * sum(weights))
        return share * (self._left() - opening)

    def _maker(self, names: Sequence[str]) -> Callable[[int], Any]:
        """What makes a sample by its index: with features beside the media where a system of the round takes them."""
        if all(get_system(name).inputs == "media" for name in names):
            return self._source.make
        utterances = self._source.workload.utterances
        return lambda index: with_features(self._source.make(index), utterances[index])

    def _leave_out(self, key: str) -> bool:
        """Whether there is no time for a contender: a system's eager for the whole of it, or a peer."""
        system, runner, _ = key.split("/")
        short = self._left() < -SLACK_S
        return short and (runner in PEERS if system not in self._options.essential else runner in PEERS[1:])

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
        name, options, source = prepared.system, self._options, self._source
        mine = [row for row in measured.rows if row.system == name]
        if options.scope == "pipeline":
            self.stages |= pipeline_stages(contenders, mine)
            if "offline" in options.scenarios:
                self._side_by_side(mine, contenders, measured)
            return
        best = best_rows(mine).get(name)
        if best is None:
            return
        by_key = {each.key: each for each in contenders}
        if name in FULLY_COMPARED and "offline" in options.scenarios:
            for row in self._batched(best, mine):
                self._show.say(f"offline: {row.key}")
                self.offline[row.key] = extras.offline_of(
                    by_key[row.key], measured, source.make, source.workload, contenders
                )
        if name in FULLY_COMPARED and "server" in options.scenarios:
            samples = [source.make(utterance.index) for utterance in measured.workload.utterances]
            self._show.say(f"server: {best.key}")
            self.server[best.key] = extras.server_of(
                by_key[best.key], samples, measured, options.bound_ms, unlimited=not options.minutes
            )
        if source.targets is not None and name in options.checkpoints:
            progress = partial(self._show.update, f"scoring {name}", total=len(source.workload.utterances))
            self.scores[name] = extras.scores_of(by_key[best.key], prepared, source, progress)

    def _side_by_side(self, rows: Sequence[Row], contenders: Sequence[Contender], measured: Measured) -> None:
        """Many files at once: the fastest contender that finds faces exactly, and the fastest of all."""
        exact = [row for row in rows if " " not in row.precision]
        for row in {each.key: each for part in (exact, rows) for each in best_rows(part).values()}.values():
            contender = next(each for each in contenders if each.key == row.key)
            assert isinstance(contender, MmxPipeline)
            self._show.say(f"files side by side: {row.key}")
            self.offline[row.key] = extras.files_side_by_side(contender, row, measured, self._source)

    @staticmethod
    def _batched(best: Row, rows: Sequence[Row]) -> list[Row]:
        """mmx's best row, and its best in the precision that OpenVINO's own conversion chose, if that is another."""
        own = next((row for row in rows if row.runner == "openvino-own" and row.set_seconds is not None), None)
        equal = best_rows([row for row in rows if own and row.precision == own.precision]).get(best.system)
        return [best] if equal is None or equal.key == best.key else [best, equal]
