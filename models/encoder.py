"""The sequence encoder of V2EM and FE2E: CLS in front, post-norm Transformer layers, no positions.

Names and arithmetic of ``nn.TransformerEncoder`` (post-norm, ReLU, LayerNorm eps 1e-5). Without positions the order of
the sequence does not matter.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from mmx.models.attention import MultiHeadAttention, padding_bias
from mmx.models.config import EncoderConfig
from mmx.models.folding import Folded, Request, SelfFolding, first_token_alone


class EncoderLayer(nn.Module):
    """x = norm1(x + attention(x)); x = norm2(x + linear2(relu(linear1(x))))."""

    def __init__(self, width: int, heads: int, feed_forward: int) -> None:
        super().__init__()
        self.self_attn = MultiHeadAttention(width, heads)
        self.linear1 = nn.Linear(width, feed_forward)
        self.linear2 = nn.Linear(feed_forward, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x: [batch, length, width]; bias: [batch, 1, 1, length]."""
        x = self.norm1(x + self.self_attn(x, x, bias))
        return self.norm2(x + self.linear2(self.linear1(x).relu()))


class Layers(SelfFolding):
    """Holds ``layers``, so that names read ``encoder.layers.0...`` as in the public files."""

    fold_name = "first_token"

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        sizes = (config.width, config.heads, config.feed_forward)
        self.layers = nn.ModuleList(EncoderLayer(*sizes) for _ in range(config.layers))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x: [batch, length, width]; bias: [batch, 1, 1, length]."""
        for layer in self.layers:
            x = layer(x, bias)
        return x

    def folded(self, request: Request) -> Folded:
        """With a last layer that computes the first token alone, the only one that its owner reads."""
        return first_token_alone(FirstTokenLayers(self))


class FirstTokenLayers(nn.Module):
    """``Layers`` whose last layer gives the first token alone; the same modules under the same names.

    It needs keys and values of all tokens, but queries, projection and feed-forward of one. Exact: each token's row is
    computed as before, or not at all.
    """

    def __init__(self, encoder: Layers) -> None:
        super().__init__()
        self.layers = encoder.layers

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x: [batch, length, width] -> [batch, 1, width]."""
        *before, last = cast(list[EncoderLayer], list(self.layers))
        for layer in before:
            x = layer(x, bias)
        return _encoder_layer(last, x, bias)


def _encoder_layer(layer: EncoderLayer, x: Tensor, bias: Tensor) -> Tensor:
    first = x[:, :1]
    state = layer.norm1(first + layer.self_attn(first, x, bias))
    result: Tensor = layer.norm2(state + layer.linear2(layer.linear1(state).relu()))
    return result


class SequenceEncoder(nn.Module):
    """A sequence of features -> one vector, at the CLS position."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.encoder = Layers(config)
        self.cls_emb = nn.Embedding(1, config.width)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """x: [batch, length, width]; real: bool [batch, length], false = padding. Returns [batch, width]."""
        cls = self.cls_emb.weight[None].expand(x.shape[0], 1, x.shape[2])
        bias = padding_bias(nn.functional.pad(real.to(x.dtype), (1, 0), value=1.0), x.dtype)
        return self.encoder(torch.cat([cls, x], dim=1), bias)[:, 0]

    def gather(self, features: Tensor, index: Tensor) -> Tensor:
        """Encode ragged features: each row of ``index`` picks the rows of ``features`` that belong to one sample.

        Args:
            features: [rows, width], rows of all samples together.
            index: int64 [batch, slots], a row number, or -1 for padding.

        Returns:
            [batch, width]. A sample whose index is all -1 gets the encoding of CLS alone.
        """
        table = nn.functional.pad(features, (0, 0, 1, 0))  # a zero row in front, which -1 + 1 picks
        return self(nn.functional.embedding(index + 1, table), index >= 0)
