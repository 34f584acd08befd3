"""Whether a contender gives the reference's answers, without which no speed of it is shown."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FP32_TOLERANCE = 1e-3  # of max|logits - reference| / max|reference|
SHIFT_TOLERANCE = 0.05  # of a probability, where less than fp32 was asked for


def parity(logits: NDArray[np.float32], reference: NDArray[np.float32]) -> tuple[float, float]:
    """(max|logits - reference| / max|reference|, largest change of a probability); infinite unless all is finite."""
    if not (np.isfinite(logits).all() and np.isfinite(reference).all()):
        return float("inf"), float("inf")
    error = float(np.abs(logits - reference).max() / max(np.abs(reference).max(), 1e-30))
    return error, float(np.abs(_sigmoid(logits) - _sigmoid(reference)).max())


def agrees(precision: str, error: float, shift: float) -> bool:
    """Whether a contender of this precision gives the reference's answers.

    One that searches for faces in a quicker way (``bf16 track faces``) may find others: it need only answer in numbers.
    """
    if " " in precision:
        return bool(np.isfinite(shift))
    return error <= FP32_TOLERANCE if precision == "fp32" else shift <= SHIFT_TOLERANCE


def _sigmoid(x: NDArray[np.float32]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-x.astype(np.float64)))
