"""Samples -> the graph's inputs: text padded to the longest, faces and mel pieces ragged (concatenated, with an index).

Nothing is computed for a face or a piece that is not there; only the text ids and the two index tables are padded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.errors import UsageError
from mmx.runtime.manifest import Manifest, TensorSpec, TextSpec
from mmx.runtime.types import Batch, FeatureSample, Sample

MODALITY_INPUTS = {
    "text": ("input_ids", "attention_mask"),
    "visual": ("faces", "face_index"),
    "audio": ("pieces", "piece_index"),
}
INPUTS = tuple(name for names in MODALITY_INPUTS.values() for name in names)
FACE_SHAPE = (3, 48, 48)
PIECE_SHAPE = (128, 32)


def pack(samples: Sequence[Sample], text: TextSpec | None = None, inputs: Collection[str] = INPUTS) -> Batch:
    """Pack samples, in their order, into the inputs of the graph contract.

    A sample without text gets ``[CLS] [SEP]``, one without faces (pieces) a row of -1; if nobody in the batch has any,
    the tower gets one row of zeros. Which modalities count is the fusion's business, not the graph's.

    Args:
        samples: at least one.
        text: special ids; the defaults are ALBERT's.
        inputs: the names that the bundle's graph has; the others are left out.

    Returns:
        ``input_ids``, ``attention_mask`` int64 [batch, tokens]; ``faces`` float32 [faces, 3, 48, 48];
        ``pieces`` float32 [pieces, 128, 32]; ``face_index``, ``piece_index`` int64 [batch, slots], -1 = padding.

    Raises:
        UsageError: no samples, an array of the wrong shape or dtype, or an input that is not in the contract.
    """
    if not samples:
        raise UsageError("there are no samples to pack")
    if unknown := sorted(set(inputs) - set(INPUTS)):
        raise UsageError(
            f"the graph's input {unknown[0]!r} is not one that media files fill",
            "systems on extracted features (lf-lstm, lf-trans, mult) are run with mmx bench",
        )
    packed: dict[str, NDArray] = {}
    if "input_ids" in inputs:
        packed["input_ids"], packed["attention_mask"] = _pad_text(samples, text or TextSpec())
    if "faces" in inputs:
        packed["faces"], packed["face_index"] = _concatenate("faces", [s.faces for s in samples], FACE_SHAPE)
    if "pieces" in inputs:
        packed["pieces"], packed["piece_index"] = _concatenate("pieces", [s.pieces for s in samples], PIECE_SHAPE)
    return Batch(packed, len(samples))


def inputs_for(manifest: Manifest, samples: Sequence[Sample]) -> dict[str, NDArray]:
    """The inputs of a bundle's graph for these samples, in their order, by name: of media, or of extracted features.

    Raises:
        UsageError: the samples do not fit the graph.
    """
    graph = manifest.graphs["fp32"]
    if sizes := feature_sizes(graph.inputs):
        return pack_features(samples, sizes)
    return pack(samples, manifest.preprocessing.text, graph.input_names).inputs


def feature_sizes(inputs: Iterable[TensorSpec]) -> dict[str, int]:
    """Features a row that a graph takes, by modality; empty for a graph that takes media."""
    return {each.name: int(each.axes[-1]) for each in inputs if each.name in MODALITY_INPUTS}


def pack_features(samples: Sequence[Sample], sizes: Mapping[str, int]) -> dict[str, NDArray]:
    """The graph's inputs: each modality float32 [batch, longest, size], zeros past the end, and its int64 lengths.

    Features beyond a system's own sizes are left off.
    """
    rows_of = [sample.features if isinstance(sample, FeatureSample) else {} for sample in samples]
    packed: dict[str, NDArray] = {}
    for name, size in sizes.items():
        for number, features in enumerate(rows_of):
            found = features.get(name)
            if found is None or found.ndim != 2 or found.shape[1] < size:
                shape = "missing" if found is None else f"of shape {list(found.shape)}"
                raise UsageError(f"sample {number}: its features of {name} are {shape}, not [rows, {size}]")
        each = [features[name][:, :size] for features in rows_of]
        lengths = np.array([len(rows) for rows in each], np.int64)
        padded = np.zeros((len(each), max(1, lengths.max()), size), np.float32)
        for number, rows in enumerate(each):
            padded[number, : len(rows)] = rows
        packed[name], packed[f"{name}_len"] = padded, lengths
    return packed


Item = TypeVar("Item")


def split(
    items: Iterable[Item],
    max_rows: int = 256,
    max_size: int = 32,
    sample_of: Callable[[Item], Sample] = lambda item: item,  # type: ignore[assignment,return-value]
) -> Iterator[list[Item]]:
    """Cut items, in their order, into batches: at most ``max_size`` samples with at most ``max_rows`` rows.

    Rows are what bounds memory: faces, pieces and padded tokens / 32. A sample that is over the budget alone
    gets a batch of its own. Sorted by ``length`` beforehand, they need the least padding.

    Args:
        sample_of: the sample of an item, where it is not one itself.
    """
    batch: list[Item] = []
    for item in items:
        if batch and (len(batch) == max_size or rows([sample_of(each) for each in [*batch, item]]) > max_rows):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def length(sample: Sample) -> tuple[int, int]:
    """What to sort by: text is padded to the batch's longest, faces and pieces hardly cost padding."""
    return 0 if sample.token_ids is None else len(sample.token_ids), len(sample.faces) + len(sample.pieces)


def rows(samples: Sequence[Sample]) -> int:
    """Tower rows that a batch of these samples takes: faces + pieces + tokens (padded to the longest) / 32."""
    longest = max(2 if s.token_ids is None else len(s.token_ids) for s in samples)
    return sum(len(s.faces) + len(s.pieces) for s in samples) + longest * len(samples) // 32


def _pad_text(samples: Sequence[Sample], spec: TextSpec) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    placeholder = np.array([spec.cls_id, spec.sep_id], np.int64)
    ids = [placeholder if s.token_ids is None else s.token_ids for s in samples]
    for number, row in enumerate(ids):
        if row.ndim != 1 or not len(row) or row.dtype != np.int64:
            found = f"{row.dtype} {list(row.shape)}"
            raise UsageError(f"sample {number}: token_ids are {found}, not int64 [tokens]", "None says: no text")
    lengths = np.array([len(row) for row in ids])
    real = np.arange(lengths.max()) < lengths[:, None]
    padded = np.full(real.shape, spec.pad_id, np.int64)
    padded[real] = np.concatenate(ids)
    return padded, real.astype(np.int64)


def _concatenate(
    name: str, arrays: Sequence[NDArray[np.float32]], shape: tuple[int, ...]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """All rows one after another, and for each sample the numbers of its rows, padded with -1 to the longest."""
    for number, array in enumerate(arrays):
        if array.shape[1:] != shape or array.ndim != len(shape) + 1 or array.dtype != np.float32:
            wanted = f"float32 [{name}, {', '.join(map(str, shape))}]"
            raise UsageError(f"sample {number}: {name} are {array.dtype} {list(array.shape)}, not {wanted}")
    counts = np.array([len(array) for array in arrays])
    slot = np.arange(max(counts.max(), 1))
    first = np.cumsum(counts) - counts
    index = np.where(slot < counts[:, None], first[:, None] + slot, -1).astype(np.int64)
    stacked = np.concatenate(arrays) if counts.any() else np.zeros((1, *shape), np.float32)
    return stacked, index
