"""Compute the last layer of a Transformer for its first token alone, where nothing reads the others.

ALBERT's and the sequence encoders' results are their [CLS] state. The last layer needs keys and values of all tokens,
but queries, projection and feed-forward of one. Exact: each token's row is computed as before, or not at all.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from mmx.models.albert import AlbertEncoder, AlbertLayer, LayerGroup
from mmx.models.attention import attend
from mmx.models.encoder import EncoderLayer, Layers


class FirstTokenAlbert(nn.Module):
    """``AlbertEncoder`` whose last layer gives the first token alone; the same modules under the same names."""

    def __init__(self, encoder: AlbertEncoder) -> None:
        super().__init__()
        self.repeats = encoder.repeats
        self.embedding_hidden_mapping_in = encoder.embedding_hidden_mapping_in
        self.albert_layer_groups = encoder.albert_layer_groups

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x: [batch, tokens, embedding] -> [batch, 1, width]."""
        x = self.embedding_hidden_mapping_in(x)
        groups = cast(list[LayerGroup], list(self.albert_layer_groups))
        layers = [cast(AlbertLayer, layer) for group in groups for layer in group.albert_layers] * self.repeats
        for layer in layers[:-1]:
            x = layer(x, bias)
        return _albert_layer(layers[-1], x, bias)


class FirstTokenLayers(nn.Module):
    """``Layers`` whose last layer gives the first token alone; the same modules under the same names."""

    def __init__(self, encoder: Layers) -> None:
        super().__init__()
        self.layers = encoder.layers

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x: [batch, length, width] -> [batch, 1, width]."""
        *before, last = cast(list[EncoderLayer], list(self.layers))
        for layer in before:
            x = layer(x, bias)
        return _encoder_layer(last, x, bias)


def _albert_layer(layer: AlbertLayer, x: Tensor, bias: Tensor) -> Tensor:
    attention, first = layer.attention, x[:, :1]
    mixed = attend(attention.query(first), attention.key(x), attention.value(x), attention.heads, bias)
    state = attention.LayerNorm(first + attention.dense(mixed))
    hidden = nn.functional.gelu(layer.ffn(state), approximate="tanh")
    result: Tensor = layer.full_layer_layer_norm(state + layer.ffn_output(hidden))
    return result


def _encoder_layer(layer: EncoderLayer, x: Tensor, bias: Tensor) -> Tensor:
    first = x[:, :1]
    state = layer.norm1(first + layer.self_attn(first, x, bias))
    result: Tensor = layer.norm2(state + layer.linear2(layer.linear1(state).relu()))
    return result
