"""ALBERT (Lan et al. 2019) as V2EM and FE2E use it, under Hugging Face's names: token ids -> the [CLS] state.

One layer's weights serve all layers. gelu_new, LayerNorm eps 1e-12, additive key mask, length of the batch (dynamic).
The pooler is in the files and in the paper's count, but nothing reads it.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from mmx.models.attention import attend, padding_bias
from mmx.models.config import AlbertConfig
from mmx.models.folding import Folded, Request, SelfFolding, first_token_alone

EPS = 1e-12


class Embeddings(nn.Module):
    """Word, position and token-type (always 0) embeddings, summed and normalised."""

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocabulary, config.embedding)
        self.position_embeddings = nn.Embedding(config.positions, config.embedding)
        self.token_type_embeddings = nn.Embedding(2, config.embedding)
        self.LayerNorm = nn.LayerNorm(config.embedding, eps=EPS)

    def forward(self, input_ids: Tensor) -> Tensor:
        """int64 [batch, tokens] -> [batch, tokens, embedding]."""
        places = self.position_embeddings.weight[: input_ids.shape[1]] + self.token_type_embeddings.weight[0]
        return self.LayerNorm(self.word_embeddings(input_ids) + places)


class SelfAttention(nn.Module):
    """LayerNorm(x + dense(attention(x)))."""

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)
        self.dense = nn.Linear(config.width, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, eps=EPS)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x: [batch, tokens, width]; bias: [batch, 1, 1, tokens]."""
        mixed = attend(self.query(x), self.key(x), self.value(x), self.heads, bias)
        return self.LayerNorm(x + self.dense(mixed))


class AlbertLayer(nn.Module):
    """Attention, then LayerNorm(x + ffn_output(gelu(ffn(x))))."""

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        self.full_layer_layer_norm = nn.LayerNorm(config.width, eps=EPS)
        self.attention = SelfAttention(config)
        self.ffn = nn.Linear(config.width, config.feed_forward)
        self.ffn_output = nn.Linear(config.feed_forward, config.width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x: [batch, tokens, width]; bias: [batch, 1, 1, tokens]."""
        x = self.attention(x, bias)
        hidden = nn.functional.gelu(self.ffn(x), approximate="tanh")
        return self.full_layer_layer_norm(x + self.ffn_output(hidden))


class LayerGroup(nn.Module):
    """ALBERT's one group of one layer; here for its names."""

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        self.albert_layers = nn.ModuleList([AlbertLayer(config)])

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x: [batch, tokens, width]; bias: [batch, 1, 1, tokens]."""
        for layer in self.albert_layers:
            x = layer(x, bias)
        return x


class AlbertEncoder(SelfFolding):
    """Embedding width -> hidden width, then the same layer ``layers`` times."""

    fold_name = "first_token"

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        self.repeats = config.layers
        self.embedding_hidden_mapping_in = nn.Linear(config.embedding, config.width)
        self.albert_layer_groups = nn.ModuleList([LayerGroup(config)])

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x: [batch, tokens, embedding] -> [batch, tokens, width]."""
        x = self.embedding_hidden_mapping_in(x)
        for _ in range(self.repeats):
            for group in self.albert_layer_groups:
                x = group(x, bias)
        return x

    def folded(self, request: Request) -> Folded:
        """With a last layer that computes the first token alone, the only one that its owner reads."""
        return first_token_alone(FirstTokenAlbert(self))


class FirstTokenAlbert(nn.Module):
    """``AlbertEncoder`` whose last layer gives the first token alone; the same modules under the same names.

    It needs keys and values of all tokens, but queries, projection and feed-forward of one. Exact: each token's row is
    computed as before, or not at all.
    """

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


def _albert_layer(layer: AlbertLayer, x: Tensor, bias: Tensor) -> Tensor:
    attention, first = layer.attention, x[:, :1]
    mixed = attend(attention.query(first), attention.key(x), attention.value(x), attention.heads, bias)
    state = attention.LayerNorm(first + attention.dense(mixed))
    hidden = nn.functional.gelu(layer.ffn(state), approximate="tanh")
    result: Tensor = layer.full_layer_layer_norm(state + layer.ffn_output(hidden))
    return result


class Albert(nn.Module):
    """``AlbertModel`` without its unused outputs."""

    unused = ("pooler",)

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = AlbertEncoder(config)
        self.pooler = nn.Linear(config.width, config.width)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Both int64 [batch, tokens] (mask: 1 = real). Returns the last state of [CLS], [batch, width]."""
        x = self.embeddings(input_ids)
        return self.encoder(x, padding_bias(attention_mask, x.dtype))[:, 0]


class TextTower(nn.Module):
    """Holds ``albert``, so that names read ``T.albert...`` as in the public files."""

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        self.albert = Albert(config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Both int64 [batch, tokens]. Returns [batch, width]."""
        state: torch.Tensor = self.albert(input_ids, attention_mask)
        return state
