"""What ``mmx eval`` prints and draws of probabilities and faults."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmx.benchmarks.reports.charts import Line
    from mmx.evaluation.trust import Trust
    from mmx.training.trust import Faulty, Trusted

    Panels = tuple[list[list[Line]], list[str], list[str], str]

CHARTS = (".svg", ".png", ".pdf")


def render_sets(found: Trusted) -> str:
    """A table of what probabilities are worth for each set of modalities."""
    from mmx.view.terminal import text_table

    def change(metric: str, before: Trust, after: Trust | None) -> str:
        first = _percent(getattr(before, metric))
        return first if after is None else f"{first} -> {_percent(getattr(after, metric))}"

    rows = []
    for each in found.sets:
        shown = each.after or each.before
        rows.append(
            (
                each.modalities,
                str(shown.samples),
                _percent(shown.f1),
                change("calibration_error", each.before, each.after),
                change("brier", each.before, each.after),
                *((_percent(shown.coverage), _percent(shown.error)) if each.after or not _calibrated(found) else "--"),
                *([_distances(*each.divergence)] if each.divergence else []),
            )
        )
    exact = bool(found.sets and found.sets[0].divergence)
    header = ["probabilities of", "samples", "F1", "ECE", "Brier", "given", "wrong", *(["KL"] if exact else [])]
    lines = [text_table(header, rows)]
    if _calibrated(found):
        lines.append("ECE and Brier score: as the network has them -> calibrated.")
    else:
        lines.append("The probabilities are not calibrated: mmx calibrate BUNDLE --probabilities --data DIR.")
    lines.append(
        f"All in percent. given: share of predictions with labels at {found.asked}; wrong: of those, the share whose "
        "most probable label is not the sample's."
    )
    if exact:
        lines.append("KL: mean distance from the exact probability of each label, in thousandths of a nat.")
    return "\n".join(lines)


def render_faults(found: Trusted) -> str:
    """A table of every fault at every severity, by the modality that it harms."""
    from mmx.view.terminal import text_table

    rows = []
    for each in found.faults:
        severity = "" if each.severity is None else f"{each.severity:g} {each.unit}"
        rows.append(
            (
                each.modality,
                each.fault or "none",
                severity,
                _percent(each.left),
                *_cells(each.alone),
                *_cells(each.together),
            )
        )
    header = ["harmed", "fault", "severity", "left", *("F1", "ECE", "given", "wrong") * 2]
    return "\n".join(
        [
            text_table(header, rows),
            "First of the harmed modality alone, where it is left; then of all modalities together. All in percent.",
            "left: share of the utterances that still have the modality; for given and wrong see above.",
        ]
    )


def draw(found: Trusted, path: Path) -> None:
    """Write a chart: the faults, where there are any, else the reliability diagrams.

    Raises:
        EnvironmentMissing: matplotlib is not installed. UsageError: the place cannot be written.
    """
    from mmx.runtime.errors import missing_extra

    try:
        from mmx.benchmarks.reports.charts import STYLE, panels
    except ModuleNotFoundError as e:
        raise missing_extra("matplotlib, which draws charts,", "bench") from e
    import matplotlib

    from mmx.runtime.files import whole_file

    figure = panels(*(_fault_panels(found) if found.faults else _reliability_panels(found)))
    with whole_file(path) as part, matplotlib.rc_context(STYLE):
        figure.savefig(part, format=path.suffix[1:].lower())


def _fault_panels(found: Trusted) -> Panels:
    """Score, calibration error and coverage against severity, a panel for each fault."""
    from mmx.benchmarks.reports.charts import Line

    by_name: dict[str, list[Faulty]] = {}
    for each in found.faults:
        if each.fault:
            by_name.setdefault(each.fault, []).append(each)
    shown = (("alone", "f1", "F1 alone"), ("together", "f1", "F1"), ("together", "calibration_error", "ECE"))
    series = [
        [
            Line(label, tuple((each.severity or 0.0, getattr(getattr(each, which), metric)) for each in faults), place)
            for place, (which, metric, label) in enumerate((*shown, ("together", "coverage", "given")))
        ]
        for faults in by_name.values()
    ]
    return series, list(by_name), [faults[0].unit for faults in by_name.values()], "share"


def _reliability_panels(found: Trusted) -> Panels:
    """Probability against the share that has the label, a panel for each set of modalities."""
    from mmx.benchmarks.reports.charts import Line

    series = []
    for each in found.sets:
        lines = [Line("exact", ((0.0, 0.0), (1.0, 1.0)), 0)]
        for name, trust, colour in (("as the network has it", each.before, 1), ("calibrated", each.after, 2)):
            if trust and trust.diagram:
                lines.append(Line(name, tuple((b.probability, b.share) for b in trust.diagram), colour))
        series.append(lines)
    return series, [each.modalities for each in found.sets], ["probability"] * len(series), "share with the label"


def _cells(trust: Trust) -> tuple[str, ...]:
    return tuple(_percent(x) for x in (trust.f1, trust.calibration_error, trust.coverage, trust.error))


def _percent(share: float) -> str:
    return f"{100 * share:.1f}" if share == share else "-"


def _distances(before: float, after: float | None) -> str:
    return f"{1000 * before:.0f}" + ("" if after is None else f" -> {1000 * after:.0f}")


def _calibrated(found: Trusted) -> bool:
    return any(each.after for each in found.sets)
