"""What the systems on precomputed features share: ragged sequences, padded to the longest of the batch."""

from __future__ import annotations

import torch
from torch import Tensor


def trim(x: Tensor, length: Tensor, original_padding: bool) -> tuple[Tensor, Tensor]:
    """Make sure that nothing past a sample's length can reach its result.

    Args:
        x: [batch, length, features]. length: int64 [batch].
        original_padding: take the padding for data, as the public code does where it forgets the lengths.

    Returns:
        x with zeros past each length, and int64 lengths of at least 1: an empty sequence is one row of zeros.
    """
    if original_padding:
        return x, torch.full_like(length, x.shape[1])
    return torch.where(inside(length, x)[..., None], x, torch.zeros((), dtype=x.dtype)), length.clamp(min=1)


def inside(length: Tensor, x: Tensor) -> Tensor:
    """bool [batch, x.shape[1]]: which rows of x are before their sample's length."""
    return torch.arange(x.shape[1], device=x.device) < length[:, None]


def last_row(x: Tensor, length: Tensor) -> Tensor:
    """[batch, length, features] -> each sample's last row, [batch, features]."""
    index = (length - 1)[:, None, None].expand(-1, 1, x.shape[2])
    return x.gather(1, index).squeeze(1)
