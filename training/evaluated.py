"""An evaluation of a bundle as a variant of it: what completes its model card."""

from __future__ import annotations

import math

from mmx.evaluation.environment import describe
from mmx.evaluation.trust import Trust
from mmx.export.variant_writer import made_now, new_variant
from mmx.runtime.bundle import Bundle
from mmx.runtime.records import EvaluationRecord, ScoredFault, ScoredRow, ScoredSet
from mmx.training.evaluate import Evaluation, Row
from mmx.training.trust import Faulty, OneSet, Trusted


def add_evaluation(bundle: Bundle, found: Evaluation, trusted: Trusted) -> Bundle:
    """Keep an evaluation in the bundle, in place of an older one of the same split; returns the bundle with it.

    Raises:
        UsageError: the bundle cannot be written. BundleReplaced: it was exported again meanwhile.
    """
    record = EvaluationRecord(
        precision="fp32",
        source=bundle.graph_sha256,
        files={},
        recipe={"data": found.data, "split": found.split},
        data=found.data,
        split=found.split,
        samples=found.samples,
        asked=trusted.asked,
        cpu=describe().cpu or "an unknown CPU",
        rows=tuple(_row(each) for each in found.rows if each.card is not None),
        sets=tuple(map(_set, trusted.sets)),
        faults=tuple(_fault(each) for each in trusted.faults if each.severity is not None),
        **made_now(),
    )
    with new_variant(bundle) as folder:
        folder.publish(f"evaluation-{found.split}", record)
    return bundle.refreshed()


def _row(row: Row) -> ScoredRow:
    assert row.card is not None
    f1, accuracy, weighted = (_known(row.card.mean(metric)) for metric in ("f1", "accuracy", "weighted_accuracy"))
    return ScoredRow(row.name, f1, accuracy, weighted, row.milliseconds)


def _set(found: OneSet) -> ScoredSet:
    before, after = found.before, found.after
    shown: Trust = after or before
    return ScoredSet(
        modalities=found.modalities,
        samples=before.samples,
        f1=_known(before.f1),
        calibration_error=_known(before.calibration_error),
        brier=_known(before.brier),
        calibrated_error=_known(after.calibration_error) if after else None,
        calibrated_brier=_known(after.brier) if after else None,
        coverage=_known(shown.coverage),
        error=_known(shown.error),
    )


def _fault(found: Faulty) -> ScoredFault:
    assert found.severity is not None
    shown = found.together
    error, coverage = _known(shown.calibration_error), _known(shown.coverage)
    return ScoredFault(found.fault, found.severity, found.unit, _known(shown.f1), error, coverage)


def _known(share: float) -> float | None:
    return share if math.isfinite(share) else None
