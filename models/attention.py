"""Multi-head attention that exports with every dimension symbolic, under ``nn.MultiheadAttention``'s names."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

MASKED = -3e4
"""What is added to the score of a padding key: finite, so that it survives FP16, and zero after the softmax."""


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention, softmax(Q K^T / sqrt(d) + bias) V, with the heads merged again.

    Args:
        query: [batch, targets, width]. key, value: [batch, sources, width].
        bias: added to the scores; broadcasts to [batch, heads, targets, sources].

    Returns:
        [batch, targets, width].
    """
    size = query.shape[-1] // heads
    q = query.unflatten(-1, (heads, size)).transpose(1, 2) * (1.0 / math.sqrt(size))
    k = key.unflatten(-1, (heads, size)).permute(0, 2, 3, 1)
    v = value.unflatten(-1, (heads, size)).transpose(1, 2)
    scores = q @ k
    if bias is not None:
        scores = scores + bias
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(-2)


def padding_bias(real: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask from a bool or 0/1 tensor [batch, sources] (true = real): [batch, 1, 1, sources]."""
    return ((1 - real.to(dtype)) * MASKED)[:, None, None, :]


class MultiHeadAttention(nn.Module):
    """``nn.MultiheadAttention`` (batch first) without its fast path. Names: in_proj_weight, in_proj_bias, out_proj."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, query: Tensor, source: Tensor, bias: Tensor | None = None) -> Tensor:
        """[batch, targets, width] attends to ``source`` [batch, sources, width]; ``bias`` as in ``attend``."""
        linear = nn.functional.linear
        if query is source:
            q, k, v = linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        else:
            width = query.shape[-1]
            q = linear(query, self.in_proj_weight[:width], self.in_proj_bias[:width])
            k, v = linear(source, self.in_proj_weight[width:], self.in_proj_bias[width:]).chunk(2, dim=-1)
        return self.out_proj(attend(q, k, v, self.heads, bias))
