"""Where samples come from: the synthetic set, or a processed data set put through mmx's preprocessing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmx.benchmarks.workload.utterances import Utterance, Workload, make_sample, synthetic
from mmx.datasets.processed import LABELS, Item, read_processed
from mmx.datasets.reading import read_utterance
from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import UsageError
from mmx.runtime.media.faces import FaceDetector
from mmx.runtime.media.text import Tokenizer


@dataclass(frozen=True)
class Source:
    """A set of utterances, a maker of what contenders run by index, and the true labels where they are known.

    ``make``: gives a Sample (or, for the pipeline, a Clip).
    ``targets``: int64 [utterances, labels].
    """

    workload: Workload
    make: Callable[[int], Any]
    targets: NDArray[np.int64] | None = None


def synthetic_source(dataset: str) -> Source:
    """The synthetic set."""
    work = synthetic(dataset)
    return Source(work, lambda index: make_sample(work.utterances[index]))


def processed_source(root: Path, dataset: str, bundle: Bundle) -> Source:
    """The test split of a processed data set, preprocessed as ``bundle`` says: faces found, mel made, text tokenised.

    Raises:
        UsageError: the bundle lacks the tokenizer or the face nets, or has other labels.
        BadDataError: a file of the set is damaged.
    """
    if bundle.tokenizer_dir is None or bundle.face_nets is None:
        raise UsageError(
            f"{bundle.path} has no tokenizer or no face nets, and --data needs both",
            "give a --checkpoint that was exported with them: put ALBERT's spiece.model beside it",
        )
    if bundle.manifest.labels != LABELS[dataset]:
        raise UsageError(
            f"{bundle.path} predicts {', '.join(bundle.manifest.labels)}; {dataset} has {', '.join(LABELS[dataset])}",
            "give a --checkpoint that was trained on this data set",
        )
    spec = bundle.manifest.preprocessing
    items = read_processed(root, dataset)
    tokenizer = Tokenizer.load(bundle.tokenizer_dir, spec.text)
    detector = FaceDetector(bundle.face_nets, spec.faces)

    def size(index: int, item: Item) -> Utterance:
        seconds = item.duration()
        tokens = len(tokenizer.encode(item.text)[0])
        pieces = int(np.ceil(seconds * spec.mel.sample_rate / spec.mel.hop / spec.mel.columns))
        return Utterance(index, seconds, len(item.chosen(spec)), pieces, len(item.text.split()), tokens)

    utterances = tuple(size(index, item) for index, item in enumerate(items))
    work = Workload.whole(dataset, "processed data set", utterances)
    return Source(
        work,
        lambda index: read_utterance(items[index], spec, tokenizer, detector),
        np.array([item.target for item in items], np.int64),
    )
