"""One run of ``mmx bench``: prepare the systems, open the contenders, interleave them, then the other scenarios."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

from mmx.benchmarks import extras
from mmx.benchmarks.clips import clip_folder, make_clip, source_video
from mmx.benchmarks.contenders import BundleContender, open_contenders, precisions
from mmx.benchmarks.environment import describe, peak_rss_mb
from mmx.benchmarks.options import FULLY_COMPARED, Options
from mmx.benchmarks.peers import open_peer
from mmx.benchmarks.pipeline import pipeline_makers, pipeline_stages
from mmx.benchmarks.prepare import Prepared, prepare_all
from mmx.benchmarks.report import EAGER, PEERS, SCHEMA_VERSION, Report, Row, WorkloadInfo, best_rows
from mmx.benchmarks.single_stream import BASELINE, MOST, Measured, Opened, measure
from mmx.benchmarks.sources import Source, processed_source, synthetic_source
from mmx.benchmarks.timing import Contender
from mmx.benchmarks.upstream import upstream_module
from mmx.benchmarks.workloads import Workload, stratified

PREPARING_SHARE = 0.45  # of the time; what is not exported and open by then is left out, but for the essential
INTERLEAVED_SHARE = 0.7  # of the time left once everything is open; the other scenarios share the rest
UNLIMITED_S = 1e9


class Display(Protocol):
    """Where progress goes."""

    def say(self, message: str) -> None: ...

    def progress(self, what: str, done: int, total: int) -> None: ...


def run(options: Options, command: str, show: Display) -> Report:
    """Measure, and return everything that was found.

    Raises:
        MmxError: the options do not fit together, an export failed, or eager PyTorch can't run a system.
    """
    began = time.perf_counter()
    deadline = began + (options.minutes * 60 or UNLIMITED_S)
    environment = describe()
    preparing_ends = began + PREPARING_SHARE * (deadline - began)

    def leave_out(key: str) -> bool:
        """Past its share of the time, preparation goes on for what the comparison can't do without."""
        system, _, runner = key.partition("/")
        needed = system in options.essential and runner.split("/")[0] not in PEERS[1:]
        return not needed and time.perf_counter() > preparing_ends

    order = sorted(options.systems, key=lambda name: name not in options.essential)
    systems = prepare_all(order, options.dataset, show.say, options.preset, options.checkpoints, leave_out)
    source = _source(options, systems, show)
    rows: list[Row] = []
    found: dict[str, Any] = {}
    part = source.workload
    for number, threads in enumerate(options.threads):
        left = (deadline - time.perf_counter()) / (len(options.threads) - number)
        opened, refused = open_contenders(_makers(options, systems, threads), threads, show.say, leave_out)
        try:
            measured = measure(
                opened,
                source.workload,
                source.make,
                threads=threads,
                samples=options.samples,
                passes=options.passes,
                seconds=INTERLEAVED_SHARE * left,
                progress=partial(show.progress, f"measuring on {threads} thread(s)"),
            )
            rows += _in_order(measured.rows + refused, options)
            if number == 0:
                part = measured.workload
                if options.scope == "pipeline":
                    found = {"stages": pipeline_stages([each.contender for each in opened], measured.rows)}
                else:
                    found = _while_open(options, opened, measured, source, systems, show)
        finally:
            for each in opened:
                each.contender.close()
    report = Report(
        schema_version=SCHEMA_VERSION,
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        scope=options.scope,
        environment=environment,
        workload=WorkloadInfo(
            options.dataset, part.source, part.total, len(part.utterances), source.workload.seconds, options.passes
        ),
        notes=_notes(options, part, [prepared.system for prepared in systems]),
        rows=tuple(rows),
        **found,
    )
    if options.scope == "model":
        report = _afterwards(report, options, systems, source, show, deadline)
    return replace(report, seconds=time.perf_counter() - began, peak_rss_mb=peak_rss_mb())


def _source(options: Options, systems: Sequence[Prepared], show: Display) -> Source:
    """The samples: synthetic tensors, clips made from a video, or a real data set's tensors."""
    if options.data is not None:
        return processed_source(options.data, options.dataset, systems[0].bundle)
    source = synthetic_source(options.dataset)
    if options.scope == "model":
        return source
    video = source_video(options.clip)
    folder = clip_folder(video, stratified(source.workload, options.samples or MOST))
    show.say(f"clips are cut from {video} when needed and kept in {folder}")
    return replace(source, make=lambda index: make_clip(video, folder, source.workload.utterances[index]))


def _makers(
    options: Options, systems: Sequence[Prepared], threads: int
) -> Iterator[tuple[str, Callable[[], Contender]]]:
    """Every contender's key and how to open it, a system at a time: eager PyTorch, the other peers, mmx."""
    if options.scope == "pipeline":
        yield from pipeline_makers(systems, options.backends, threads)
        return
    for prepared in systems:
        name = prepared.system
        module = upstream_module(name, prepared.preset, prepared.checkpoint)
        peers = [peer for peer in options.peers if peer != EAGER] if name in FULLY_COMPARED else []
        for peer in (EAGER, *peers):
            yield f"{name}/{peer}/fp32", partial(open_peer, peer, name, module, threads, prepared.folder)
        for backend in options.backends:
            for precision in precisions(prepared.bundle, backend):
                make = partial(BundleContender, name, prepared.bundle, backend, precision, threads)
                yield f"{name}/{backend}/{precision}", make


def _in_order(rows: Sequence[Row], options: Options) -> list[Row]:
    """By system as asked for, those that could not run last."""
    return sorted(rows, key=lambda row: (options.systems.index(row.system), row.latency is None))


def _while_open(
    options: Options,
    opened: Sequence[Opened],
    measured: Measured,
    source: Source,
    systems: Sequence[Prepared],
    show: Display,
) -> dict[str, Any]:
    """What uses the contenders as they are: offline and server for the best of mmx, scores on real data."""
    found: dict[str, dict[str, Any]] = {"offline": {}, "server": {}, "scores": {}}
    contenders = {each.contender.key: each.contender for each in opened}
    samples = [source.make(u.index) for u in measured.workload.utterances]
    for name, row in best_rows(measured.rows).items():
        contender = contenders[row.key]
        if name in FULLY_COMPARED and "offline" in options.scenarios:
            show.say(f"offline: {row.key}")
            each = float(measured.timings[row.key].seconds.mean())
            found["offline"][row.key] = extras.offline_of(contender, samples, each)
        if name in FULLY_COMPARED and "server" in options.scenarios:
            show.say(f"server: {row.key}")
            found["server"][row.key] = extras.server_of(contender, samples, measured, options.bound_ms)
        if source.truths is not None and name in options.checkpoints:
            prepared = next(each for each in systems if each.system == name)
            total = len(source.workload.utterances)
            tell = partial(show.progress, f"scoring {name}", total=total)
            found["scores"][name] = extras.scores_of(contender, prepared, source, tell)
    return found


def _afterwards(
    report: Report,
    options: Options,
    systems: Sequence[Prepared],
    source: Source,
    show: Display,
    deadline: float,
) -> Report:
    """What needs no contender open: whole programs, stages, the residual ablation, counts. Stops when time is up."""
    by_name = {prepared.system: prepared for prepared in systems}
    best = {name: row for name, row in best_rows(report.main_rows).items() if name in FULLY_COMPARED}
    left_out = []

    def in_time(what: str) -> bool:
        if time.perf_counter() < deadline:
            show.say(what)
            return True
        left_out.append(what)
        return False

    if best and in_time("stage split"):
        stages = {row.key: extras.stages_of(row, by_name[name], source) for name, row in best.items()}
        report = replace(report, stages=stages)
    if options.data is None and "paper" in options.scenarios and in_time("whole programs, load included"):
        keys = ([BASELINE] if report.row(BASELINE) else []) + [row.key for row in best.values()]
        report = replace(report, whole_program=tuple(extras.whole_programs(keys, systems, options.dataset)))
    if "ours" in options.systems and options.preset == "full" and in_time("residual-free ablation: merge against keep"):
        report = replace(report, residual=extras.residual_ablation())
    if options.preset == "full":
        report = replace(report, parameters=extras.count_parameters(options.systems))
    if left_out:
        out = f"left out, as --minutes {options.minutes:g} were over: {', '.join(left_out)}"
        report = replace(report, notes=(*report.notes, out))
    return report


def _notes(options: Options, part: Workload, prepared: Sequence[str]) -> tuple[str, ...]:
    """What a reader must know before the figures."""
    found = []
    if options.scope == "pipeline":
        found.append(
            "The workload is synthetic: one talking face, cut to as many and as long clips as the test set has."
        )
    elif part.source == "synthetic":
        found.append(
            "The workload is synthetic: as many and as long utterances as the test set has, filled with noise."
        )
    if seeded := [name for name in options.systems if name not in options.checkpoints]:
        found.append(
            f"The weights of {', '.join(seeded)} are seeded noise: speed does not depend on them; scores would, so "
            "there are none."
        )
    if options.preset != "full":
        found.append(f"The systems are the {options.preset} preset, not the published sizes.")
    if part.is_subset:
        found.append("Seconds for the set are extrapolated from a stratified part of it.")
    if absent := [name for name in options.systems if name not in prepared]:
        found.append(f"Not exported, as time was short: {', '.join(absent)}; run again, or give more --minutes.")
    found.append("The paper's seconds are of an RTX 4090, video decoding and face detection included: compare ratios.")
    return tuple(found)
