"""The second half of ``mmx eval``: what probabilities are worth, by set of modalities, and under faults."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmx.datasets.corrupted import Corrupted
from mmx.datasets.corruptions import KINDS, Corruption
from mmx.datasets.dataset import DataSet
from mmx.datasets.samples import Utterances
from mmx.evaluation.trust import Floats, ModalityLogits, Trust, measure, probabilities_of, subsets
from mmx.models.checkpoint import Checkpoint
from mmx.runtime.bundle import Bundle
from mmx.runtime.packing import split as split_samples
from mmx.runtime.probabilities import Certainty, Fits, subset_name
from mmx.training.evaluate import BundleRunner, TorchRunner, labels_of, utterances_for
from mmx.training.synthetic.posterior import Posteriors, divergence
from mmx.training.synthetic.sentences import EMOTIONS

STATED_ERROR = 0.1
PLAIN_CONFIDENCE = 0.5

Runner = TorchRunner | BundleRunner
Tick = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Faulty:
    """One fault at one severity, or none (``severity`` None).

    Attributes:
        fault: its name, "" for none. unit: of the severity. modality: that it harms.
        left: share of the utterances that still have that modality.
        alone: of that modality alone, where it is left. together: of all that each utterance has.
    """

    fault: str
    severity: float | None
    unit: str
    modality: str
    left: float
    alone: Trust
    together: Trust


@dataclass(frozen=True)
class OneSet:
    """A set of modalities: ``before`` is with the network's own probabilities, ``after`` with calibrated ones (None:
    it has none). ``divergence``: the same two of the mean Kullback-Leibler distance of a label's probability from the
    exact one, in nats; None where that is not known (it is of a set that mmx synth made).
    """

    modalities: str
    before: Trust
    after: Trust | None
    divergence: tuple[float, float | None] | None = None


@dataclass(frozen=True)
class Trusted:
    """``run_by``: what gave the logits. ``asked``: what a prediction must reach to be given, in words."""

    run_by: str
    asked: str
    sets: tuple[OneSet, ...]
    faults: tuple[Faulty, ...]


def measure_trust(
    checkpoint: Checkpoint | None,
    bundle: Bundle | None,
    data: DataSet,
    *,
    split: str = "test",
    corruptions: Sequence[Corruption] = (),
    max_error: float = STATED_ERROR,
    samples: int | None = None,
    cache: Path | None = None,
    compat: str | None = None,
    seed: int = 0,
    tick: Tick | None = None,
) -> Trusted:
    """Score one way to run the system for every set of modalities, and under each fault.

    Args:
        checkpoint, bundle: of the same weights; one may be None. The bundle's FP32 graph is run, if there is one.
        max_error: the stated error whose coverage is measured. Where no confidence is known for it (no calibrated
            probabilities), coverage is that of a confidence of ``PLAIN_CONFIDENCE``.
        samples: only the split's first ones. compat: see ``utterances_for``. seed: of the faults.

    Raises:
        UsageError, BadDataError: see ``utterances_for``.
    """
    what = bundle or checkpoint
    assert what is not None
    clean = utterances_for(what, data, split, samples=samples, cache=cache, compat=compat)
    clean.prepare()
    clean.prepare(None if tick is None else lambda done, total: tick("preparing", done, total))
    thresholds = what.manifest.thresholds if isinstance(what, Bundle) else what.thresholds
    fits = bundle.calibration if bundle else {}
    certainty = Certainty(max_error=max_error) if fits else Certainty(min_confidence=PLAIN_CONFIDENCE)
    asked = f"an error of {max_error:.0%}" if fits else f"a confidence of {PLAIN_CONFIDENCE:.0%}"
    plain = Certainty(min_confidence=PLAIN_CONFIDENCE)
    runner: Runner
    if bundle:
        runner = BundleRunner(bundle, "onnxruntime", "fp32", threads=1)
    else:
        assert checkpoint is not None
        runner = TorchRunner(checkpoint)
    try:
        logits = modality_logits(runner, clean, tick)
        exact = exact_posteriors(data, clean, labels_of(what))
        sets = []
        for chosen in subsets(tuple(runner.weights)):
            part = logits.only(chosen)
            if len(part.targets):
                name = subset_name(chosen, tuple(runner.weights))
                before = measure(part, runner.weights, thresholds, plain)
                after = measure(part, runner.weights, thresholds, certainty, fits) if name in fits else None
                distance = None
                if exact is not None:
                    there = np.all([logits.present[modality] for modality in chosen], axis=0)
                    truth = exact(chosen)[there]
                    calibrated = probabilities_of(part, runner.weights, fits)
                    distance = (
                        divergence(truth, probabilities_of(part, runner.weights)),
                        divergence(truth, calibrated) if after else None,
                    )
                sets.append(OneSet(name, before, after, distance))
        faults = measure_faults(runner, clean, logits, corruptions, thresholds, certainty, fits, seed=seed, tick=tick)
    finally:
        runner.close()
    return Trusted(runner.key, asked, tuple(sets), faults)


def exact_posteriors(
    data: DataSet, clean: Utterances, labels: Sequence[str]
) -> Callable[[Sequence[str]], Floats] | None:
    """The exact posterior [utterances, labels] of a set of modalities, for data that mmx synth made; else None."""
    if data.name != "synthetic" or set(labels) != set(EMOTIONS):
        return None
    emotions = [labels[int(row.argmax())] for row in clean.targets]
    found = Posteriors(data.root, [item.name for item in clean.items], emotions)
    return lambda modalities: found.of(modalities, labels)


def measure_faults(
    runner: Runner,
    clean: Utterances,
    without: ModalityLogits,
    corruptions: Sequence[Corruption],
    thresholds: Sequence[float],
    certainty: Certainty,
    fits: Fits,
    *,
    seed: int = 0,
    tick: Tick | None = None,
) -> tuple[Faulty, ...]:
    """For each modality that a fault harms, first without any, then each fault in the order given.

    Args:
        without: the logits without any fault.

    A fault of a modality that the system does not have is left out.
    """

    def row(logits: ModalityLogits, modality: str, fault: Corruption | None) -> Faulty:
        return Faulty(
            fault=fault.name if fault else "",
            severity=fault.severity if fault else None,
            unit=KINDS[fault.name].unit if fault else "",
            modality=modality,
            left=float(logits.present[modality].mean()),
            alone=measure(logits.only([modality]), runner.weights, thresholds, certainty, fits),
            together=measure(logits, runner.weights, thresholds, certainty, fits),
        )

    rows = []
    for modality in runner.weights:
        faults = [each for each in corruptions if each.modality == modality]
        rows += [row(without, modality, None)] if faults else []
        for fault in faults:
            rows.append(row(modality_logits(runner, Corrupted(clean, fault, seed), tick, str(fault)), modality, fault))
    return tuple(rows)


def modality_logits(
    runner: Runner, data: Utterances | Corrupted, tick: Tick | None = None, what: str = "scoring"
) -> ModalityLogits:
    """The logits of each modality on a data set."""
    rows: dict[str, list[np.ndarray]] = {modality: [] for modality in runner.weights}
    present: dict[str, list[bool]] = {modality: [] for modality in runner.weights}
    done = 0
    for group in split_samples(data[i] for i in range(len(data))):
        for modality, found in runner.parts(group).items():
            rows[modality].append(found)
            present[modality] += [modality in sample.modalities for sample in group]
        done += len(group)
        if tick:
            tick(what, done, len(data))
    return ModalityLogits(
        {modality: np.concatenate(parts) for modality, parts in rows.items()},
        {modality: np.array(each) for modality, each in present.items()},
        data.targets,
    )
