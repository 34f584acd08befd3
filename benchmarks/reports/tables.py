"""A report as tables, the paper's first. The terminal, Markdown and HTML all print these."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mmx.benchmarks.paper import ABLATION, ACCURACY_NAME, COMPARISON, PARAMETERS, TITLES, published
from mmx.benchmarks.results import BASELINE, EAGER, NO_TIME, OK, PEERS, UNAVAILABLE, Report, Row

NONE = "-"
ON_FEATURES = ("lf-lstm", "lf-trans", "mult")
QUICKER_FACES = (
    "A quicker search for faces may find other boxes: what that changes is shown, and held to no limit (docs/faces.md)."
)
TABLES = {  # the comparison and the ablation in the paper
    "iemocap": ("Table 1: the systems", "Table 3: the ablation"),
    "mosei": ("Table 2: the systems", "Table 4: the ablation"),
}


@dataclass(frozen=True)
class Table:
    """A title, a header, rows of cells, and notes below."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def tables(report: Report) -> list[Table]:
    """Every table that the report has something for."""
    comparison, ablation = TABLES.get(report.workload.dataset, ("The systems", "The ablation"))
    systems = {row.system for row in report.rows}
    wanted: Iterator[Table | None] = iter(
        (
            _systems(report, comparison, COMPARISON),
            _systems(report, ablation, ABLATION) if systems & set(ABLATION[1:3]) else None,
            _parameters(report) if report.parameters else None,
            _residual(report) if report.residual else None,
            *(_contenders(report, threads) for threads in dict.fromkeys(row.threads for row in report.rows)),
            _whole_programs(report) if report.whole_program else None,
            _offline(report) if report.offline else None,
            _server(report) if report.server else None,
            _stages(report) if report.stages else None,
        )
    )
    return [table for table in wanted if table is not None]


def _systems(report: Report, title: str, systems: tuple[str, ...]) -> Table:
    dataset = report.workload.dataset
    accuracy = ACCURACY_NAME.get(dataset, "Acc")
    about = "~" if report.extrapolated else ""
    base = published(dataset, "v2em")
    rows = []
    run = {row.system for row in report.rows}
    for name in systems if report.scope == "model" and base else [each for each in systems if each in run]:
        paper, score = published(dataset, name), report.scores.get(name)
        eager, exact, best = report.row(f"{name}/{EAGER}/fp32"), report.best(name, "fp32"), report.best(name)
        kind = "weighted_accuracy" if dataset == "mosei" else "accuracy"
        rows.append(
            (
                TITLES[name],
                f"{paper.accuracy:.2f} / {paper.f1:.2f}" if paper else NONE,
                f"{score[kind]:.2f} / {score['f1']:.2f}" if score else NONE,
                f"{paper.seconds:.2f}" if paper and paper.seconds else NONE,
                f"{base.seconds / paper.seconds:.2f}x" if base and base.seconds and paper and paper.seconds else NONE,
                about + seconds(eager.set_seconds) if eager else NONE,
                f"{about}{seconds(exact.set_seconds)} ({exact.runner})" if exact else NONE,
                str(exact.vs_baseline) if exact and exact.vs_baseline else NONE,
                f"{about}{seconds(best.set_seconds)} ({best.runner} {best.precision})" if best else NONE,
                str(best.vs_baseline) if best and best.vs_baseline else NONE,
            )
        )
    threads = report.main_rows[0].threads
    notes = [
        f"Seconds for the set of {report.workload.total}; here: {report.scope} scope, {threads} thread(s)"
        + (f", extrapolated (~) from {report.used} samples." if report.extrapolated else "."),
        f"Upstream-style: PyTorch eager, text padded to 100. Speed-ups: {TITLES['v2em']} so over this, both here, "
        "with the 95 % interval.",
    ]
    if any(report.row(f"{name}/{EAGER}/fp32") for name in ON_FEATURES if name in systems):
        notes.append(
            "LF-LSTM, LF-TRANS and MulT: on features that were extracted beforehand, which is not in their time; as "
            "many rows as words, faces and mel pieces (an assumption)."
        )
    if report.scores:
        notes.append(f"{accuracy} and F1 here: mmx's fastest contender on the whole set, at the bundle's thresholds.")
    else:
        notes.append(f"{accuracy} and F1 here need --data and a trained --checkpoint.")
    header = (
        "model",
        f"paper: {accuracy} / F1",
        f"here: {accuracy} / F1",
        "paper: s",
        "paper: vs V2EM",
        "here: upstream-style s",
        "here: mmx fp32 s",
        "vs V2EM upstream-style",
        "here: mmx best s",
        "vs V2EM upstream-style",
    )
    shown = [place for place, name in enumerate(header) if base or not name.startswith("paper:")]
    return Table(
        title,
        tuple(header[place] for place in shown),
        tuple(tuple(row[place] for place in shown) for row in rows),
        tuple(notes),
    )


def _parameters(report: Report) -> Table:
    counted = report.parameters
    systems = [name for name in PARAMETERS if name in counted]
    rows = tuple(
        (
            part,
            *(
                cell
                for name in systems
                for cell in (
                    f"{PARAMETERS[name][part]:.2f}M",
                    f"{counted[name][part] / 1e6:.2f}M ({counted[name][part]:,})",
                )
            ),
        )
        for part in ("visual", "audio", "text")
    )
    header = ("trunk", *(cell for name in systems for cell in (f"paper: {TITLES[name]}", f"here: {TITLES[name]}")))
    return Table("Table 5: parameters", header, rows, ("Training form, unused heads included, as the paper counts.",))


def _residual(report: Report) -> Table:
    rows = tuple((engine, str(ratio)) for engine, ratio in report.residual.items())
    return Table(
        "Residual-free ablation: merging the shortcut away against keeping it",
        ("engine", "time of merge / time of keep"),
        rows,
        (
            "Visual trunk of ours, 1 to 24 faces, one thread. Above 1x merging is slower.",
            "mmx export --residual auto takes the form that was faster where it was measured.",
        ),
    )


def _contenders(report: Report, threads: int) -> Table:
    about = "~" if report.extrapolated else ""
    mine = [row for row in report.rows if row.threads == threads]
    rows = tuple(_contender(row, about) for row in mine if row.status not in (UNAVAILABLE, NO_TIME))
    short = [row.key for row in mine if row.status == NO_TIME and row.runner in PEERS]
    lacking = dict.fromkeys((row.runner, row.precision, row.reason) for row in mine if row.status == UNAVAILABLE)
    return Table(
        f"Every contender, one sample at a time, {threads} thread(s)",
        (
            "system",
            "run by",
            "precision",
            "samples",
            "mean ms",
            "p50",
            "p90",
            "p99",
            "set s",
            "x real time",
            "vs V2EM upstream-style",
            "vs itself upstream-style",
            "in the set's order: vs V2EM",
            "vs itself",
            "first visit ms",
            "load s",
            "parity",
        ),
        rows,
        (
            f"Interleaved: a first visit of each sample, then {report.workload.passes} timed run(s), in alternating "
            "order. Nothing is clipped.",
            "In the set's order: each utterance once, so that a shape costs a first visit when it first comes.",
            "Parity: max|logits - PyTorch| / max|PyTorch|, and for less than fp32 the largest change of a probability.",
            *((QUICKER_FACES,) if report.scope == "pipeline" else ()),
            *(f"Not available: {runner} {precision}: {reason}." for runner, precision, reason in lacking),
            *((f"Not run, as --minutes were running short: {', '.join(short)}.",) if short else ()),
        ),
    )


def _contender(row: Row, about: str) -> tuple[str, ...]:
    name = (row.system, row.runner, row.precision)
    if row.status != OK or row.latency is None:
        return (*name, *[NONE] * 13, f"{row.status}: {row.reason}")
    latency = row.latency
    parity = "reference" if row.runner == EAGER else f"{row.error:.0e}"
    if row.precision != "fp32":
        parity += f", {row.shift:.3f}"
    return (
        *name,
        str(len(row.points)),
        *(f"{ms:.1f}" for ms in (latency.mean, latency.p50, latency.p90, latency.p99)),
        about + seconds(row.set_seconds),
        f"{row.realtime:.1f}" if row.realtime else NONE,
        str(row.vs_baseline) if row.vs_baseline else NONE,
        str(row.vs_own) if row.vs_own else NONE,
        str(row.in_order_vs_baseline) if row.in_order_vs_baseline else NONE,
        str(row.in_order_vs_own) if row.in_order_vs_own else NONE,
        f"{row.first_sight_ms:.1f}" if row.first_sight_ms else NONE,
        f"{row.load_s:.1f}" if row.load_s is not None else NONE,
        parity,
    )


def _whole_programs(report: Report) -> Table:
    base = next((each for each in report.whole_program if each.key == BASELINE), None)
    rows = tuple(
        (
            each.key,
            str(each.threads),
            f"{each.start_s:.1f}",
            f"~{seconds(each.set_seconds)}",
            f"{base.set_seconds / each.set_seconds:.1f}x" if base else NONE,
            f"{each.peak_rss_mb:.0f}" if each.peak_rss_mb else NONE,
        )
        for each in report.whole_program
    )
    return Table(
        "The paper's way: the whole program from start to exit, all cores",
        ("program", "threads", "start s", "whole set s", "vs V2EM upstream-style", "peak RSS MB"),
        rows,
        (
            "Start: interpreter, imports and load; upstream's also makes its seeded weights. The set is extrapolated.",
            "Each program ran a few samples, so every shape was new to its engine; in the whole set shapes come back.",
        ),
    )


def _offline(report: Report) -> Table:
    rows = []
    for key, found in report.offline.items():
        versus = (found.vs_baseline, found.vs_own, found.vs_plain, found.vs_own_conversion)
        rates = ", ".join(f"{size}: {rate:.2f}" for size, rate in found.samples_per_second.items())
        best = f"{found.samples_per_second[found.best_batch]:.2f}"
        rows.append((key, best, str(found.best_batch), rates, *(str(ratio) if ratio else NONE for ratio in versus)))
    header = (
        "contender",
        "samples/s",
        "best batch",
        "samples/s by batch",
        "vs V2EM upstream-style",
        "vs itself upstream-style",
        "vs plain ONNX",
        "vs OpenVINO's own, same batches",
    )
    if report.scope == "pipeline":
        shown = ("contender", "files/s", "files", "one at a time, side by side: files/s", *header[4:6])
        threads = report.main_rows[0].threads
        note = (
            f"mmx's Pipeline with --workers {threads} on as many cores, in turns with the same contender one file at a "
            "time; upstream's way takes one file at a time: its ratio so, times what going side by side gains."
        )
        return Table("Offline: all files at hand", shown, tuple(row[:6] for row in rows), (note,))
    notes = (
        "Samples in order of size, text padded to the longest of the batch; batch sizes in turns, forth and back.",
        "Upstream-style and plain ONNX take one sample at a time, text padded to 100: their ratio one at a time, times "
        "what batching gains. OpenVINO's own conversion gets the largest batches in the same turns, and its precision "
        "is the contender's.",
    )
    return Table("Offline: all samples at hand", header, tuple(rows), notes)


def _server(report: Report) -> Table:
    rows = tuple(
        (
            key,
            f"{found.rate:.2f}" if found.rate else "not shown",
            f"{found.bound_ms:.0f}",
            f"{found.late} of {found.arrivals}" if found.arrivals else NONE,
            f"{found.p99_ms:.0f}" if found.rate else NONE,
            f"{found.simulated_rate:.2f}",
        )
        for key, found in report.server.items()
    )
    return Table(
        "Server: samples that arrive by chance",
        ("contender", "samples/s held", "bound ms", "late", "p99 ms", "samples/s simulated"),
        rows,
        (
            "Poisson arrivals at one worker without batching. Held: a play in real time in which so few answers were "
            "late that at most 1 % are, with 95 % confidence. Simulated: a queue with the measured times, not played.",
            *(
                f"{key}: the next play would have taken {found.needed_s:.0f} s; --minutes 0 sets no limit."
                for key, found in report.server.items()
                if found.needed_s
            ),
        ),
    )


def _stages(report: Report) -> Table:
    parts = list(dict.fromkeys(part for stages in report.stages.values() for part in stages))
    towers = list(dict.fromkeys(part for shares in report.machine_shares.values() for part in shares))
    rows = tuple(
        (
            key,
            *(f"{stages.get(part, 0):.1f}" for part in parts),
            *(_share(report.machine_shares.get(key, {}).get(part)) for part in towers),
        )
        for key, stages in report.stages.items()
    )
    header = ("contender", *(f"{part} ms" for part in parts), *(f"{part} of the machine" for part in towers))
    if report.scope == "pipeline":
        return Table("Where the time goes", header, rows, ("Milliseconds: the mean of all runs, one file at a time.",))
    notes = (
        "Milliseconds: an utterance of average length, as the engine's own profiler counts them.",
        "Of the machine: arithmetic a second in that tower, in batches as above, over that of the engine's own 2048 x "
        "2048 matrix product in the same precision.",
    )
    return Table("Where the time goes", header, rows, notes if towers else notes[:1])


def _share(value: float | None) -> str:
    return NONE if value is None else f"{value:.0%}"


def seconds(value: float | None) -> str:
    """Seconds with as many digits as mean something."""
    if value is None:
        return NONE
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
