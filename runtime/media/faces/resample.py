"""The two area resamplings of facenet-pytorch 2.6, exactly.

The detector's own inputs are ``torch.nn.functional.interpolate(mode="area")``, which is ``adaptive_avg_pool2d``: output
row i of n averages the whole rows floor(i*h/n) .. ceil((i+1)*h/n) - 1. Those sums are integers, so an integral image
gives them exactly. The face that goes to the visual tower is resampled by OpenCV's INTER_AREA instead, which weighs
the pixels on a bin's edge by the part they cover (and interpolates linearly where it enlarges).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


class IntegralImage:
    """Sums over any rectangle of a uint8 [h, w, 3] frame, and area resampling made of them.

    The sums are kept modulo 2**32, so frames of any size work as long as one bin holds under 2**24 / 255 pixels
    (beyond that float32, and torch, would round too). A fourth, empty channel makes every entry 16 bytes, which numpy
    gathers several times faster than 12.

    Args:
        frame: RGB.
        part: x0, y0, x1, y1 of the pixels that will be asked for (inside the frame); None: all of them.
    """

    def __init__(self, frame: NDArray[np.uint8], part: tuple[int, int, int, int] | None = None) -> None:
        self.height, self.width = frame.shape[:2]
        self._left, self._top, right, bottom = part or (0, 0, self.width, self.height)
        pixels = frame[self._top : bottom, self._left : right]
        height, width = pixels.shape[:2]
        self._sums = np.zeros((height + 1, width + 1, 4), np.int32)
        np.cumsum(pixels, axis=1, dtype=np.int32, out=self._sums[1:, 1:, :3])
        for y in range(1, height):  # row by row: numpy's own cumsum down the columns is not vectorised
            self._sums[y + 1] += self._sums[y]

    def resize_rows(self, height: int, width: int, start: int, stop: int) -> NDArray[np.float32]:
        """Rows ``start:stop`` of the whole frame resized to height x width: float32 [1, 3, stop - start, width].

        Not for the sums of a part.
        """
        top, bottom = (edge[start:stop] for edge in _bins(np.int64(self.height), height))
        left, right = _bins(np.int64(self.width), width)
        rows = self._sums.take(bottom, axis=0)
        rows -= self._sums.take(top, axis=0)
        sums = rows.take(right, axis=1)
        sums -= rows.take(left, axis=1)
        return _means(sums[None], (bottom - top)[None], (right - left)[None])

    def crops(self, rectangles: NDArray[np.int64], size: int) -> NDArray[np.float32]:
        """Crop rectangles [n, 4] to float32 [n, 3, size, size]. They are x0, y0, x1, y1: inside the part, not empty."""
        x0, y0, x1, y1 = (rectangles - [self._left, self._top] * 2).T[:, :, None]
        top, bottom = _bins(y1 - y0, size)
        left, right = _bins(x1 - x0, size)
        entries, row = self._sums.reshape(-1, 4), self._sums.shape[1]
        above, below = ((top + y0) * row)[:, :, None], ((bottom + y0) * row)[:, :, None]
        before, after = (left + x0)[:, None, :], (right + x0)[:, None, :]
        sums = entries.take(below + after, axis=0)
        sums -= entries.take(above + after, axis=0)
        sums -= entries.take(below + before, axis=0)
        sums += entries.take(above + before, axis=0)
        return _means(sums, bottom - top, right - left)


def _means(sums: NDArray[np.int32], heights: NDArray[np.int64], widths: NDArray[np.int64]) -> NDArray[np.float32]:
    """Sums [n, rows, columns, 4] of bins with heights [n, rows] and widths [n, columns] -> [n, 3, rows, columns]."""
    means = sums[..., :3].transpose(0, 3, 1, 2).astype(np.float32, order="C")
    means /= heights.astype(np.float32)[:, None, :, None]
    means /= widths.astype(np.float32)[:, None, None, :]  # two divisions, in this order, as torch rounds them
    return means


def _bins(length: NDArray[np.int64] | np.int64, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and one past the last index of each of ``count`` bins of adaptive average pooling over ``length``."""
    k = np.arange(count)
    return k * length // count, -(-(k + 1) * length // count)


def resize_opencv_area(pixels: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """``cv2.resize(float32 pixels, (size, size), interpolation=INTER_AREA)``: [h, w, 3] -> float32 [size, size, 3].

    As OpenCV does it, an axis that grows makes both axes linear.
    """
    height, width = pixels.shape[:2]
    if height % size == 0 and width % size == 0:
        cells = pixels.reshape(size, height // size, size, width // size, 3)
        return cells.sum(axis=(1, 3), dtype=np.float32) * np.float32(size * size / (height * width))
    taps = _area_taps if min(height, width) >= size else _linear_taps
    columns = np.ascontiguousarray(pixels.swapaxes(0, 1), np.float32)
    narrow = _weighted_sum(columns, *taps(width, size)).swapaxes(0, 1)
    return _weighted_sum(np.ascontiguousarray(narrow), *taps(height, size))


def _weighted_sum(
    source: NDArray[np.float32], index: NDArray[np.int64], weight: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Sum over taps of weight * source[index] along the first axis, added up in float32 in OpenCV's order."""
    total = np.zeros((index.shape[1], *source.shape[1:]), np.float32)
    for rows, factors in zip(index, weight, strict=True):
        total += source[rows] * factors[:, None, None]
    return total


def _area_taps(length: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Source index and weight [taps, size] of OpenCV's shrinking INTER_AREA; unused taps weigh 0."""
    scale = 1.0 / (size / length)
    start = np.arange(size) * scale
    stop = start + scale
    cell = np.minimum(scale, length - start)
    last = np.minimum(np.floor(stop), length - 1)
    first = np.minimum(np.ceil(start), last)
    index = first[None, :] - 1 + np.arange(math.ceil(scale) + 2)[:, None]
    weight = np.where((index >= first) & (index < last), 1.0 / cell, 0.0)
    head, tail = first - start, stop - last
    weight = np.where((index == first - 1) & (head > 1e-3), head / cell, weight)
    weight = np.where((index == last) & (tail > 1e-3), np.minimum(np.minimum(tail, 1.0), cell) / cell, weight)
    return np.clip(index, 0, length - 1).astype(np.int64), weight.astype(np.float32)


def _linear_taps(length: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Source index and weight [2, size] of the linear interpolation that INTER_AREA becomes where it enlarges."""
    inverse = size / length
    k = np.arange(size)
    first = np.floor(k * (1.0 / inverse)).astype(np.int64)
    part = ((k + 1) - (first + 1) * inverse).astype(np.float32)
    part = np.where((part <= 0) | (first >= length - 1), np.float32(0), part - np.floor(part))
    first = np.minimum(first, length - 1)
    return np.stack([first, np.minimum(first + 1, length - 1)]), np.stack([np.float32(1) - part, part])
