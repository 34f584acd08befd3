"""Box arithmetic of MTCNN in float32, in the order in which facenet-pytorch 2.6 rounds it.

A box is x0, y0, x1, y1 in pixels of the frame.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float32]  # [n, 4]
PAIRS_AT_ONCE = 1 << 20  # bounds the memory of the overlap search on frames with very many candidates


def suppress(
    boxes: Boxes, scores: NDArray[np.float32], threshold: float, level: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Greedy non-maximum suppression within each level, as ``torchvision.ops.nms`` does it.

    Returns the kept indices level by level, best score first; equal scores keep their order.
    """
    best_first = np.lexsort((-scores, level))
    kept = _greedy(boxes[best_first], level[best_first], np.float32(threshold), of_smaller=False)
    return best_first[kept]


def suppress_nested(boxes: Boxes, scores: NDArray[np.float32], threshold: float) -> NDArray[np.int64]:
    """facenet-pytorch's last suppression: overlap as a part of the smaller box, on sides counted one pixel longer.

    Returns the kept indices, best score first. Equal scores (1.0 is common) fall as its own ``np.argsort`` lets them.
    """
    best_first = np.argsort(scores)[::-1]
    kept = _greedy(boxes[best_first], np.zeros(len(boxes), np.int64), np.float32(threshold), of_smaller=True)
    return best_first[kept]


def _greedy(boxes: Boxes, level: NDArray[np.int64], threshold: np.float32, of_smaller: bool) -> NDArray[np.int64]:
    """Keep each box (best first) that no kept, better box of its level overlaps by more than the threshold.

    Found in a few vectorised rounds: a box without a better undecided rival is kept, and then all its rivals go.
    """
    better, worse = _overlapping(boxes, level, threshold, of_smaller)
    kept = np.zeros(len(boxes), bool)
    undecided = np.ones(len(boxes), bool)
    while undecided.any():
        winners = undecided.copy()
        winners[worse] = False
        kept |= winners
        undecided &= ~winners
        undecided[worse[winners[better]]] = False
        open_pairs = undecided[better] & undecided[worse]
        better, worse = better[open_pairs], worse[open_pairs]
    return np.flatnonzero(kept)


def _overlapping(
    boxes: Boxes, level: NDArray[np.int64], threshold: np.float32, of_smaller: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs (lower index, higher index) of one level whose overlap exceeds the threshold.

    Only boxes that share a row are compared: sorted by their top, those are neighbours.
    """
    if len(boxes) < 2:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    more = np.float32(1 if of_smaller else 0)
    area = (boxes[:, 2] - boxes[:, 0] + more) * (boxes[:, 3] - boxes[:, 1] + more)
    tops, bottoms = boxes[:, 1].astype(np.float64), boxes[:, 3].astype(np.float64) + more
    stacked = level * (bottoms.max() - tops.min() + 1)  # levels below one another, out of reach
    by_top = np.argsort(tops + stacked, kind="stable")
    reach = np.searchsorted((tops + stacked)[by_top], (bottoms + stacked)[by_top], side="right")
    neighbours = np.maximum(reach - np.arange(1, len(boxes) + 1), 0)
    ends = np.cumsum(neighbours)
    better, worse = [], []
    first = 0
    while first < len(boxes):
        done = ends[first] - neighbours[first]
        last = max(int(np.searchsorted(ends, done + PAIRS_AT_ONCE, side="right")), first + 1)
        counts = neighbours[first:last]
        i = np.repeat(np.arange(first, last), counts)
        j = i + 1 + np.arange(counts.sum()) - np.repeat(ends[first:last] - counts - done, counts)
        i, j = by_top[i], by_top[j]
        sides = np.minimum(boxes[i, 2:], boxes[j, 2:]) - np.maximum(boxes[i, :2], boxes[j, :2]) + more
        shared = np.prod(np.maximum(sides, np.float32(0)), axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):  # empty boxes overlap nothing: NaN is not > threshold
            base = np.minimum(area[i], area[j]) if of_smaller else area[i] + area[j] - shared
            rivals = shared / base > threshold
        better.append(np.minimum(i, j)[rivals])
        worse.append(np.maximum(i, j)[rivals])
        first = last
    return np.concatenate(better), np.concatenate(worse)


def refine(boxes: Boxes, offsets: NDArray[np.float32], more: int) -> Boxes:
    """Move each side by its offset times the box's size, where a side counts ``more`` (0 or 1) pixels longer."""
    size = boxes[:, 2:] - boxes[:, :2] + np.float32(more)
    return boxes + offsets * np.tile(size, 2)


def squared(boxes: Boxes) -> Boxes:
    """The square of the longer side about each box's centre."""
    size = boxes[:, 2:] - boxes[:, :2]
    side = size.max(axis=1, keepdims=True)
    corner = boxes[:, :2] + size * np.float32(0.5) - side * np.float32(0.5)
    return np.concatenate([corner, corner + side], axis=1)


def pixel_rectangles(boxes: Boxes, width: int, height: int) -> NDArray[np.int64]:
    """The pixels that facenet-pytorch cuts out for a box: corners counted from 1, truncated, and kept in the frame."""
    limits = np.array([width, height])
    corners = boxes.astype(np.int64)
    return np.concatenate([np.maximum(corners[:, :2], 1) - 1, np.minimum(corners[:, 2:], limits)], axis=1)
