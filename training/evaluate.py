"""``mmx eval``: one table of scores and speed for a checkpoint, its graph, and every precision and engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from mmx.datasets.dataset import DataSet
from mmx.datasets.labels import merge, merged_logits, merged_thresholds
from mmx.datasets.samples import Utterances
from mmx.evaluation.scores import Scorecard, choose_thresholds, flips, scorecard, undecided
from mmx.evaluation.timing import Contender, interleave, warm_up
from mmx.export.assets import find_tokenizer
from mmx.export.face_nets import face_nets
from mmx.models.checkpoint import Checkpoint, load_checkpoint
from mmx.models.multimodal import MultimodalSystem
from mmx.runtime.backends import NAMES
from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import BadDataError, EnvironmentMissing, UsageError
from mmx.runtime.fusion import fuse_batch
from mmx.runtime.manifest import Preprocessing
from mmx.runtime.media.text import Tokenizer
from mmx.runtime.network import Network
from mmx.runtime.packing import split as split_samples
from mmx.runtime.precisions import precisions
from mmx.runtime.types import MODALITIES, Sample
from mmx.training.trainer import tensors

Logits = NDArray[np.float32]
SPEED_SAMPLES, SPEED_PASSES = 24, 4


@dataclass(frozen=True)
class Row:
    """One way to run the system.

    Attributes:
        name: such as ``PyTorch`` or ``onnxruntime int8``. problem: why it did not run here ("" if it did).
        card: its scores. megabytes: of its weights and graph on disk.
        error: largest difference of a fused logit from the first row's. flips: labels that differ from the first row's.
        milliseconds: median of one utterance at a time, single-threaded, interleaved;
            None where speed was not asked for.
    """

    name: str
    problem: str = ""
    card: Scorecard | None = None
    megabytes: float = 0.0
    error: float = 0.0
    flips: int = 0
    milliseconds: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """The table: rows in order, the first of which is what the others are compared with; ``notes``: for the user."""

    data: str
    split: str
    samples: int
    thresholds: tuple[float, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


class TorchRunner:
    """A checkpoint in PyTorch, in FP32; without the modalities that the bundle beside it was exported without."""

    key = "PyTorch"

    def __init__(self, checkpoint: Checkpoint, modalities: Sequence[str] = MODALITIES) -> None:
        self._module = cast(MultimodalSystem, checkpoint.module)
        if set(modalities) != set(self._module.modalities):
            self._module.keep(modalities)
        weights = self._module.weighted_fusion.weight[0].tolist()
        self.weights: dict[str, float] = dict(zip(self._module.modalities, weights, strict=True))

    def parts(self, samples: Sequence[Sample]) -> dict[str, Logits]:
        """Logits [samples, labels] by modality."""
        with torch.no_grad():
            outputs = self._module(**tensors(samples, torch.device("cpu")))[1:]
        return {name: output.numpy() for name, output in zip(self.weights, outputs, strict=True)}

    def run(self, samples: Sequence[Sample]) -> Logits:
        """Fused logits [samples, labels]."""
        return fuse_batch(self.parts(samples), samples, self.weights)

    def close(self) -> None:
        """Nothing to give back."""


class BundleRunner:
    """A bundle's graph in an engine."""

    def __init__(self, bundle: Bundle, backend: str, precision: str, threads: int | None) -> None:
        self.key = f"{backend} {precision}"
        self._network = Network.open(bundle, backend, precision, threads=threads)
        self.weights = bundle.manifest.fusion_weights

    def parts(self, samples: Sequence[Sample]) -> dict[str, Logits]:
        """Logits [samples, labels] by modality."""
        outputs = self._network.logits(samples)
        return {name: outputs[f"logits_{name}"] for name in self.weights}

    def run(self, samples: Sequence[Sample]) -> Logits:
        """Fused logits [samples, labels]."""
        return self._network.fused(samples)

    def close(self) -> None:
        """Give the engine's memory back."""
        self._network.close()


def utterances_for(
    what: Bundle | Checkpoint,
    data: DataSet,
    split: str,
    *,
    samples: int | None = None,
    cache: Path | None = None,
    check_labels: bool = True,
    compat: str | None = None,
    labels: Sequence[str] | None = None,
) -> Utterances:
    """A split as a bundle's or a checkpoint's preprocessing makes samples of it; the first ``samples`` of it.

    Its targets come in the order of ``labels`` (None: the bundle's); with ``check_labels`` off they may be of others.
    ``compat``: default or upstream, instead of what the bundle or the checkpoint says.

    Raises:
        UsageError: the labels are not those of the data, or there is no tokenizer. BadDataError: damaged data.
    """
    wanted = labels_of(what) if labels is None else labels
    same = set(wanted) == set(data.labels)
    if check_labels and not same:
        raise UsageError(
            f"{what.path} predicts {', '.join(wanted)}, {data.root} holds {', '.join(data.labels)}",
            "use a checkpoint of this data set, or --map OLD=NEW,... of either side's labels",
        )
    if isinstance(what, Bundle):
        spec, folder, nets = what.manifest.preprocessing, what.tokenizer_dir, what.face_nets or face_nets()
        reads = "text" in what.manifest.modalities
    else:
        found = find_tokenizer(what.path)
        spec, folder, nets, reads = Preprocessing(compat=what.compat), found and found.parent, face_nets(), True
    spec = replace(spec, compat=compat or spec.compat)
    if folder is None and reads:
        raise UsageError(f"{what.path} comes without a tokenizer", "put ALBERT's spiece.model beside the checkpoint")
    tokenizer = None if folder is None else Tokenizer.load(folder, spec.text)
    made = Utterances(data.items(split)[:samples], spec, nets, tokenizer, cache=cache)
    if same:
        made.targets = made.targets[:, [data.labels.index(label) for label in wanted]]
    return made


def labels_of(what: Bundle | Checkpoint) -> tuple[str, ...]:
    """What a bundle or a checkpoint predicts, in order."""
    return what.manifest.labels if isinstance(what, Bundle) else what.labels


def open_both(path: Path) -> tuple[Checkpoint | None, Bundle | None]:
    """A checkpoint and its bundle from the path of either: ``ckpt.pt`` and ``ckpt.mmx`` beside each other.

    The other one is None where it is not there, or is not of the same weights.
    """
    if path.is_dir():
        bundle = Bundle.open(path)
        beside = path.with_suffix(".pt")
        checkpoint = load_checkpoint(beside) if beside.is_file() else None
        same = checkpoint is not None and checkpoint.sha256 == checkpoint_of(bundle)
        return checkpoint if same else None, bundle
    checkpoint = load_checkpoint(path)
    beside = path.with_suffix(".mmx")
    other = Bundle.open(beside) if beside.is_dir() else None
    return checkpoint, other if other is not None and checkpoint_of(other) == checkpoint.sha256 else None


def checkpoint_of(bundle: Bundle) -> str:
    """SHA-256 of the checkpoint that a bundle was made of; "" where it does not say."""
    made_of = bundle.manifest.provenance.get("checkpoint", {})
    return str(made_of.get("sha256", "")) if isinstance(made_of, dict) else ""


def evaluate(
    checkpoint: Checkpoint | None,
    bundle: Bundle | None,
    data: DataSet,
    *,
    split: str = "test",
    backends: Sequence[str] = NAMES,
    choose: bool = False,
    speed: bool = True,
    samples: int | None = None,
    cache: Path | None = None,
    compat: str | None = None,
    mapping: Mapping[str, str] | None = None,
    tick: Callable[[str, int, int], None] | None = None,
) -> Evaluation:
    """Score every way to run the system on one split, and time it: single-threaded, interleaved.

    Args:
        checkpoint, bundle: of the same weights; one may be None.
        choose: choose thresholds on the validation split (with the first row) instead of taking the stored ones.
        speed: also time some of the utterances, one at a time. samples: only the split's first ones.
        compat: see ``utterances_for``.
        mapping: of what is predicted: labels to rename, merge or drop, so that they are those of the data.
    """
    what = bundle or checkpoint
    if what is None:
        raise UsageError("there is nothing to evaluate", "mmx eval CKPT|BUNDLE --data DIR")
    labels, groups = merge(labels_of(what), mapping or {}, str(what.path))
    test = utterances_for(what, data, split, samples=samples, cache=cache, compat=compat, labels=labels)
    notes = test.prepare(None if tick is None else lambda done, total: tick("preparing", done, total))
    runners, problems = open_runners(checkpoint, bundle, backends)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if not runners:
            raise EnvironmentMissing("nothing of it runs here", "; ".join(problems.values()))
        own = what.manifest.thresholds if isinstance(what, Bundle) else what.thresholds
        thresholds = merged_thresholds(own, groups)
        if choose:
            valid = utterances_for(what, data, "valid", cache=cache, compat=compat, labels=labels)
            notes += valid.prepare()
            answers = np.concatenate([runners[0].run([valid[i]]) for i in range(len(valid))])
            thresholds = choose_thresholds(merged_logits(answers, own, groups), valid.targets)
            notes += filter(None, [undecided(valid.targets, labels)])
        logits = {key: merged_logits(found, own, groups) for key, found in _score(runners, test, tick).items()}
        times = _time(runners, spread(test, SPEED_SAMPLES), tick) if speed else {}
    finally:
        torch.set_num_threads(before)
        for runner in runners:
            runner.close()
    first = logits[runners[0].key]
    rows = [
        Row(
            name=key,
            card=scorecard(found, test.targets, thresholds, labels),
            megabytes=_megabytes(key, checkpoint, bundle),
            error=float(np.abs(found - first).max()),
            flips=flips(found, first, thresholds),
            milliseconds=times.get(key),
        )
        if found is first or np.isfinite(found).all()
        else Row(key, "its logits are not finite")
        for key, found in logits.items()
    ]
    rows += [Row(name, problem) for name, problem in problems.items()]
    return Evaluation(data.name, split, len(test), tuple(thresholds), tuple(rows), tuple(notes))


def _score(
    runners: Sequence[Contender], test: Utterances, tick: Callable[[str, int, int], None] | None
) -> dict[str, Logits]:
    """The logits of all utterances by runner, in batches."""
    found: dict[str, list[Logits]] = {runner.key: [] for runner in runners}
    done = 0
    for group in split_samples(test[i] for i in range(len(test))):
        for runner in runners:
            found[runner.key].append(runner.run(group))
        done += len(group)
        if tick:
            tick("scoring", done, len(test))
    return {key: np.concatenate(parts) for key, parts in found.items()}


def _time(
    runners: Sequence[Contender], samples: Sequence[Sample], tick: Callable[[str, int, int], None] | None
) -> dict[str, float]:
    """Median milliseconds of one utterance, by runner."""
    for runner in runners:
        warm_up(runner, samples[0])
    makers: list[Callable[[], Sample]] = [lambda s=sample: s for sample in samples]  # type: ignore[misc]
    say = None if tick is None else lambda done: tick("timing", done, len(samples))
    timed = interleave(runners, makers, SPEED_PASSES, say)
    return {key: float(np.median(result.seconds)) * 1000 for key, result in timed.items()}


def spread(utterances: Utterances, count: int) -> list[Sample]:
    """At most ``count`` samples, evenly from the shortest to the longest (by faces and mel pieces)."""
    order = sorted(range(len(utterances)), key=lambda i: len(utterances[i].faces) + len(utterances[i].pieces))
    places = np.unique(np.linspace(0, len(order) - 1, count).round().astype(int))
    return [utterances[order[place]] for place in places]


def _megabytes(key: str, checkpoint: Checkpoint | None, bundle: Bundle | None) -> float:
    """Size of the file that a row runs; OpenVINO's bf16 runs the FP32 graph."""
    if key == TorchRunner.key and checkpoint is not None:
        return checkpoint.path.stat().st_size / 1e6
    assert bundle is not None
    precision = key.split()[-1]
    return bundle.graph(precision if precision in bundle.precisions else "fp32").path.stat().st_size / 1e6


def open_runners(
    checkpoint: Checkpoint | None, bundle: Bundle | None, backends: Sequence[str], threads: int | None = 1
) -> tuple[list[Contender], dict[str, str]]:
    """Every way to run the system here, and by name why the others do not."""
    modalities = MODALITIES if bundle is None else bundle.manifest.modalities
    runners: list[Contender] = [] if checkpoint is None else [TorchRunner(checkpoint, modalities)]
    problems: dict[str, str] = {}
    if bundle is None:
        return runners, problems
    for backend in backends:
        found = {}
        for precision in dict.fromkeys(precisions(bundle, backend)):
            try:
                runners.append(BundleRunner(bundle, backend, precision, threads))
            except (EnvironmentMissing, BadDataError, UsageError) as e:
                found[f"{backend} {precision}"] = e.message
        none_runs = not any(runner.key.startswith(f"{backend} ") for runner in runners)
        problems |= {backend: next(iter(found.values()))} if none_runs else found
    return runners, problems
