"""Whether a contender gives the reference's answers, without which no speed of it is shown."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmx.evaluation.scores import MAX_SHIFT, largest_shift

FP32_TOLERANCE = 1e-3  # of max|logits - reference| / max|reference|


def parity(logits: NDArray[np.float32], reference: NDArray[np.float32]) -> tuple[float, float]:
    """(max|logits - reference| / max|reference|, largest change of a probability); infinite unless all is finite."""
    if not (np.isfinite(logits).all() and np.isfinite(reference).all()):
        return float("inf"), float("inf")
    error = float(np.abs(logits - reference).max() / max(np.abs(reference).max(), 1e-30))
    return error, largest_shift(logits, reference)


def agrees(precision: str, error: float, shift: float) -> bool:
    """Whether a contender of this precision gives the reference's answers.

    One that searches for faces in a quicker way (``bf16 track faces``) may find others: it need only answer in numbers.
    """
    if " " in precision:
        return bool(np.isfinite(shift))
    return error <= FP32_TOLERANCE if precision == "fp32" else shift <= MAX_SHIFT
