"""One run of ``mmx bench``: prepare the systems, measure them in rounds, then what needs no contender open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.util import find_spec

from mmx.benchmarks.contenders.peers import OWN_GRAPH, PLAIN_GRAPH
from mmx.benchmarks.contenders.prepare import Prepared, prepare_all
from mmx.benchmarks.measure import extras
from mmx.benchmarks.measure.clock import Clock
from mmx.benchmarks.measure.rounds import Display, Rounds
from mmx.benchmarks.measure.single_stream import MOST
from mmx.benchmarks.options import FULLY_COMPARED, Options
from mmx.benchmarks.profiling.profile import ENGINES
from mmx.benchmarks.results import BASELINE, SCHEMA_VERSION, Report, Row, WorkloadInfo, best_rows
from mmx.benchmarks.workload.clips import clip_folder, make_clip, source_video
from mmx.benchmarks.workload.sources import Source, data_source, synthetic_source
from mmx.benchmarks.workload.utterances import Workload, stratified
from mmx.evaluation.environment import describe, peak_rss_mb
from mmx.models.registry import get_system

LAST_EXPORT = 0.45  # the part of the time after which no other than the essential systems is exported


def run(options: Options, command: str, show: Display) -> Report:
    """Measure, and return everything that was found.

    Raises:
        MmxError: the options do not fit together, an export failed, or eager PyTorch can't run a system.
    """
    clock = Clock(options.minutes)
    environment = describe()
    order = sorted(
        options.systems, key=lambda name: (name not in options.essential, get_system(name).inputs != "media")
    )
    systems = prepare_all(
        order,
        options.published,
        show.say,
        options.preset,
        options.checkpoints,
        lambda name: name not in options.essential and clock.past(LAST_EXPORT),
        _graphs(options),
        options.bundles,
    )
    source = _source(options, systems, show)
    rounds = Rounds(options, systems, source, clock, show)
    for threads in options.threads:
        rounds.measure_all(threads)
    whole = source.workload
    report = Report(
        schema_version=SCHEMA_VERSION,
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        scope=options.scope,
        environment=environment,
        workload=WorkloadInfo(
            options.dataset, whole.source, whole.total, whole.seconds, options.passes, options.preset
        ),
        notes=(*_notes(options, whole, [prepared.system for prepared in systems]), *source.notes),
        rows=tuple(sorted(rounds.rows, key=lambda row: (row.threads, options.systems.index(row.system)))),
        offline=rounds.offline,
        server=rounds.server,
        stages=rounds.stages,
        scores=rounds.scores,
    )
    if options.scope == "model":
        report = _afterwards(report, options, systems, source, show, clock)
    return replace(report, seconds=clock.spent, peak_rss_mb=peak_rss_mb())


def _graphs(options: Options) -> dict[str, list[str]]:
    """The graphs of peers that have to be exported, by system."""
    found = {"plain-onnx": PLAIN_GRAPH} if "plain-onnx" in options.peers else {}
    if "openvino-own" in options.peers and find_spec("openvino"):
        found["openvino-own"] = OWN_GRAPH
    if options.scope == "pipeline":
        found = {}
    return {name: list(found.values()) for name in FULLY_COMPARED if name in options.systems}


def _source(options: Options, systems: Sequence[Prepared], show: Display) -> Source:
    """The samples: synthetic tensors, clips made from a video, or a real data set's tensors."""
    if options.data is not None:
        trained = [each for each in systems if each.checkpoint]
        return data_source(options.data, (trained or systems)[0].bundle, scored=bool(trained))
    source = synthetic_source(options.dataset)
    if options.scope == "model":
        return source
    video = source_video(options.clip)
    folder = clip_folder(video, stratified(source.workload, options.samples or MOST))
    show.say(f"clips are cut from {video} when needed and kept in {folder}")
    return replace(source, make=lambda index: make_clip(video, folder, source.workload.utterances[index]))


def _afterwards(
    report: Report,
    options: Options,
    systems: Sequence[Prepared],
    source: Source,
    show: Display,
    clock: Clock,
) -> Report:
    """What needs no contender open: whole programs, stages, the residual ablation, counts. Stops when time is up."""
    by_name = {prepared.system: prepared for prepared in systems}
    best = {name: row for name, row in best_rows(report.main_rows).items() if name in FULLY_COMPARED}
    left_out = []

    def in_time(what: str) -> bool:
        if clock.left > 0:
            show.say(what)
            return True
        left_out.append(what)
        return False

    if "ours" in options.systems and options.preset == "full" and in_time("residual-free ablation: merge against keep"):
        report = replace(report, residual=extras.residual_ablation())
    if options.data is None and "paper" in options.scenarios and in_time("whole programs, load included"):
        keys = ([BASELINE] if report.row(BASELINE) else []) + [row.key for row in best.values()]
        report = replace(report, whole_program=tuple(extras.whole_programs(keys, systems, options.dataset)))
    if best and in_time("stage split"):
        profiled = {name: row for name, row in best.items() if row.runner in ENGINES}
        stages = {row.key: extras.stages_of(row, by_name[name], source) for name, row in profiled.items()}
        report = replace(report, stages=stages)
    if report.offline and in_time("share of the machine's matrix product"):
        rows = {row.key: row for row in report.main_rows if row.key in report.offline and _has_roof(row)}
        shares = {
            key: extras.machine_shares(row, by_name[row.system], source, report.offline[key].best_batch)
            for key, row in rows.items()
        }
        report = replace(report, machine_shares=shares)
    if options.preset == "full":
        report = replace(report, parameters=extras.count_parameters(options.systems))
    if left_out:
        out = f"left out, as --minutes {options.minutes:g} were over: {', '.join(left_out)}"
        report = replace(report, notes=(*report.notes, out))
    return report


def _has_roof(row: Row) -> bool:
    """Whether the row's layers and the machine's matrix product can be timed in the same arithmetic."""
    return row.runner in ENGINES and row.precision in ("fp32", "bf16")


def _notes(options: Options, whole: Workload, prepared: Sequence[str]) -> tuple[str, ...]:
    """What a reader must know before the figures."""
    found = []
    if options.scope == "pipeline":
        found.append(
            "The workload is synthetic: one talking face, cut to as many and as long clips as the test set has."
        )
    elif whole.source == "synthetic":
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
    if options.samples is None or options.samples < whole.total:
        found.append("Seconds for the set are extrapolated from a stratified part of it.")
    if absent := [name for name in options.systems if name not in prepared]:
        found.append(f"Not exported, as time was short: {', '.join(absent)}; run again, or give more --minutes.")
    if options.published:
        found.append(
            "The paper's seconds are of an RTX 4090, video decoding and face detection included: compare ratios."
        )
    return tuple(found)
