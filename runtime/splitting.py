"""One packed batch -> smaller ones, for an engine that takes no larger. Results do not depend on how it is cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

Inputs = dict[str, NDArray]

# The index table of each ragged input (the graph contract): its rows say which rows belong to a sample.
RAGGED = {"faces": "face_index", "pieces": "piece_index"}
TEXT = ("input_ids", "attention_mask")


def batch_size(inputs: Inputs) -> int:
    """Samples in a packed batch."""
    return next(len(array) for name, array in inputs.items() if name not in RAGGED)


def in_parts(inputs: Inputs, fits: Callable[[Inputs], bool], run: Callable[[Inputs], Inputs]) -> Inputs:
    """The outputs of ``run`` for a batch; one that does not fit is cut in halves until its parts do.

    A single sample that does not fit is run all the same: ``run`` says why it can't.
    """
    if batch_size(inputs) == 1 or fits(inputs):
        return run(inputs)
    first, second = (in_parts(half, fits, run) for half in halves(inputs))
    return {name: np.concatenate([first[name], second[name]]) for name in first}


def halves(inputs: Inputs) -> tuple[Inputs, Inputs]:
    """The first and the second half of a batch of two or more samples, each without what only the other needs."""
    middle = batch_size(inputs) // 2
    return part(inputs, 0, middle), part(inputs, middle, batch_size(inputs))


def part(inputs: Inputs, start: int, stop: int) -> Inputs:
    """Samples ``start`` to ``stop``: only their rows of the ragged inputs, padded only to their own longest.

    A tower that none of them has anything for gets one row, as the graph contract asks.
    """
    return _taken(inputs, slice(start, stop))


def equally_long(inputs: Inputs) -> Iterator[tuple[NDArray[np.int64], Inputs]]:
    """The samples of a batch of feature sequences in groups whose lengths are equal, so that none has padding.

    Yields:
        Their places in the batch, int64 [samples], and their inputs.
    """
    lengths = np.stack([array for name, array in inputs.items() if name.endswith("_len")], axis=1)
    for wanted in np.unique(lengths, axis=0):
        places = np.flatnonzero((lengths == wanted).all(axis=1))
        yield places, _taken(inputs, places)


def _taken(inputs: Inputs, rows: slice | NDArray[np.int64]) -> Inputs:
    tables = set(RAGGED.values())
    cut = {name: array[rows] for name, array in inputs.items() if name not in RAGGED}
    for name, table in RAGGED.items():
        if name in inputs:
            index = cut[table]
            used = np.unique(index[index >= 0])
            slots = max(1, int((index >= 0).sum(axis=1).max()))
            position = np.searchsorted(used, index)
            cut[table] = np.where(index >= 0, position, -1)[:, :slots].astype(index.dtype)
            cut[name] = inputs[name][used] if len(used) else inputs[name][:1]
    if all(name in cut for name in TEXT):
        longest = max(1, int(cut["attention_mask"].sum(axis=1).max()))
        cut |= {name: cut[name][:, :longest] for name in TEXT}
    for name, array in cut.items():
        if f"{name}_len" in cut and name not in tables:  # feature-based systems
            cut[name] = array[:, : max(1, int(cut[f"{name}_len"].max()))]
    return {name: np.ascontiguousarray(cut[name]) for name in inputs}
