"""Where samples come from: the synthetic set, or a data set on disk put through mmx's preprocessing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmx.benchmarks.workload.utterances import Utterance, Workload, make_sample, synthetic
from mmx.datasets.dataset import DataSet
from mmx.datasets.processed import Item
from mmx.datasets.reading import read_utterance
from mmx.datasets.samples import Utterances
from mmx.datasets.table import Clip
from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import UsageError
from mmx.runtime.media.decode import probe
from mmx.runtime.media.text import Tokenizer


@dataclass(frozen=True)
class Source:
    """A set of utterances, a maker of what contenders run by index, and the true labels where they are known.

    ``make``: gives a Sample (or, for the pipeline, a Clip).
    ``targets``: int64 [utterances, labels], whose columns are ``labels``. ``notes``: what was left out.
    """

    workload: Workload
    make: Callable[[int], Any]
    targets: NDArray[np.int64] | None = None
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def synthetic_source(dataset: str) -> Source:
    """The synthetic set."""
    work = synthetic(dataset)
    return Source(work, lambda index: make_sample(work.utterances[index]))


def data_source(data: DataSet, bundle: Bundle, *, scored: bool = True) -> Source:
    """The test split of a data set, preprocessed as ``bundle`` says: faces found, mel made, text tokenised.

    ``scored``: the bundle predicts the data's labels; otherwise it is timed alone.

    Raises:
        UsageError: the bundle lacks the tokenizer or the face nets, or has other labels.
        BadDataError: a file of the set is damaged.
    """
    if bundle.tokenizer_dir is None or bundle.face_nets is None:
        raise UsageError(
            f"{bundle.path} has no tokenizer or no face nets, and --data needs both",
            "give a --checkpoint that was exported with them: put ALBERT's spiece.model beside it",
        )
    if scored and set(bundle.manifest.labels) != set(data.labels):
        raise UsageError(
            f"{bundle.path} predicts {', '.join(bundle.manifest.labels)}; {data.root} has {', '.join(data.labels)}",
            "give a --checkpoint that was trained on this data set, or --map OLD=NEW,... of the data's labels",
        )
    spec = bundle.manifest.preprocessing
    tokenizer = Tokenizer.load(bundle.tokenizer_dir, spec.text)
    test = Utterances(data.items("test"), spec, bundle.face_nets, tokenizer)
    left_out = test.prepare() if data.table else []  # before anything is measured: clips that cannot be read
    items, targets = test.items, test.targets

    def size(index: int, item: Item | Clip) -> Utterance:
        seconds = item.duration()
        tokens = len(tokenizer.encode(item.text)[0])
        pieces = int(np.ceil(seconds * spec.mel.sample_rate / spec.mel.hop / spec.mel.columns))
        if isinstance(item, Item):
            faces = len(item.chosen(spec))
        else:
            faces = int(np.ceil(seconds / spec.video.interval_s)) if probe(item.path).has_video else 0
        return Utterance(index, seconds, faces, pieces, len(item.text.split()), tokens)

    utterances = tuple(size(index, item) for index, item in enumerate(items))
    kind = "clips of one's own" if data.table else "processed data set"
    work = Workload.whole(data.name, kind, utterances)
    return Source(
        work,
        test.__getitem__ if data.table else lambda index: read_utterance(items[index], spec, tokenizer, test.detector),
        targets if scored else None,
        data.labels,
        tuple(f"{data.root} {why}" for why in left_out),
    )
