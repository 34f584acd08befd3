"""From a frame and a box to the float32 [3, 48, 48] crop of the visual tower."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.errors import BadDataError
from mmx.runtime.manifest import FaceSpec
from mmx.runtime.media.faces.resample import IntegralImage, resize_opencv_area

RESAMPLINGS = ("opencv", "torch")


def face_crop(frame: NDArray[np.uint8], box: NDArray[np.float32], spec: FaceSpec) -> NDArray[np.float32] | None:
    """The box with its margin, resampled; None if it lies outside the frame.

    The margin counts pixels of the crop, half of it on each side, as in facenet-pytorch's ``extract_face``.
    """
    height, width = frame.shape[:2]
    half = spec.margin * (box[2:] - box[:2]) / (spec.size - spec.margin) / 2
    x0, y0 = (int(max(corner, 0)) for corner in box[:2] - half)
    x1, y1 = (int(min(corner, limit)) for corner, limit in zip(box[2:] + half, (width, height), strict=True))
    return _resized(frame[y0:y1, x0:x1], spec) if x0 < x1 and y0 < y1 else None


def center_crop(frame: NDArray[np.uint8], spec: FaceSpec) -> NDArray[np.float32]:
    """The largest centred square of the frame, resampled."""
    height, width = frame.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return _resized(frame[top : top + side, left : left + side], spec)


def upstream_crop(frame: NDArray[np.uint8], spec: FaceSpec) -> NDArray[np.float32]:
    """What FE2E and V2EM feed for a frame without a face: an unscaled square, placed by the frame's height alone.

    Its top is at t = (height - size) // 2 and its left at t - size // 2, so it is centred in no common frame format.

    Raises:
        BadDataError: the square does not fit in the frame (upstream fails there, too).
    """
    height, width = frame.shape[:2]
    top = (height - spec.size) // 2
    left = top - spec.size // 2
    if left < 0 or left + spec.size > width:
        raise BadDataError(
            f"upstream's fallback crop does not fit in a frame of {width} x {height}", "use the default compat"
        )
    return _planes(frame[top : top + spec.size, left : left + spec.size])


def _resized(pixels: NDArray[np.uint8], spec: FaceSpec) -> NDArray[np.float32]:
    if spec.resample == "opencv":
        return _planes(resize_opencv_area(pixels, spec.size))
    height, width = pixels.shape[:2]
    return IntegralImage(pixels).crops(np.array([[0, 0, width, height]]), spec.size)[0]


def _planes(pixels: NDArray) -> NDArray[np.float32]:
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32)
