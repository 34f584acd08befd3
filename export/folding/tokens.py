"""Rewrite FocalNet and NesT over rows of tokens, [rows, tokens, channels]: the shape that engines have kernels for.

The same sums, in the same order but for the convolutions that become matrix products:

- LayerNorm, GELU and biases of four- and five-dimensional tensors run apart in OpenVINO; of three-dimensional ones they
  are one kernel, or part of the product before them.
- One linear layer whose result is cut in pieces becomes one layer for each piece: nothing is copied to cut it.
- A convolution whose stride is its size, and one of 1x1, is a product with the same weights in another order.
- NesT's interleaved merge of heads is an order of the projection's columns.
- 1/sqrt(d) of attention goes into the queries' weights.
"""

from __future__ import annotations

import copy
from typing import cast

from torch import Tensor, nn

from mmx.models.focalnet import FocalBlock, FocalModulation, FocalNet, PatchEmbed, Stage
from mmx.models.nest import BlockAttention, ConvPool, Level, Nest, NestBlock

gelu = nn.functional.gelu


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer of this weight [out, in] and bias [out]."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta", dtype=weight.dtype)
    made.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().clone())
    return made


def rows_of(layer: nn.Linear, start: int, end: int) -> nn.Linear:
    """The linear layer that gives outputs ``start`` to ``end`` of ``layer``."""
    return linear(layer.weight[start:end], None if layer.bias is None else layer.bias[start:end])


class Modulation(nn.Module):
    """``FocalModulation`` of a map of ``side`` x ``side``."""

    def __init__(self, old: FocalModulation, side: int) -> None:
        super().__init__()
        width = old.width
        self.side = side
        self.query, self.context = rows_of(old.f, 0, width), rows_of(old.f, width, 2 * width)
        self.gates = rows_of(old.f, 2 * width, 2 * width + old.levels + 1)
        self.focal_layers = copy.deepcopy(old.focal_layers)
        self.h = linear(old.h.weight.flatten(1), old.h.bias)
        self.proj = copy.deepcopy(old.proj)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, side * side, channels], same out."""
        gates = self.gates(x)
        context = self.context(x).unflatten(1, (self.side, self.side)).permute(0, 3, 1, 2)
        total, tokens = None, x
        for level, layer in enumerate(self.focal_layers):
            context = layer(context)
            tokens = context.permute(0, 2, 3, 1).flatten(1, 2)
            part = tokens * gates[..., level : level + 1]
            total = part if total is None else total + part
        last = gelu(tokens.mean(1, keepdim=True)) * gates[..., -1:]
        total = last if total is None else total + last
        return self.proj(self.query(x) * self.h(total))


class TokenFocalBlock(nn.Module):
    """``FocalBlock`` of a map of ``side`` x ``side``."""

    def __init__(self, old: FocalBlock, side: int) -> None:
        super().__init__()
        self.norm1, self.modulation = copy.deepcopy(old.norm1), Modulation(old.modulation, side)
        self.norm2, self.mlp = copy.deepcopy(old.norm2), copy.deepcopy(old.mlp)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, side * side, channels], same out."""
        x = x + self.modulation(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Patches(nn.Module):
    """``PatchEmbed`` of a channels-last map: patches that do not overlap, as rows of one product, then LayerNorm."""

    def __init__(self, old: PatchEmbed, side: int) -> None:
        super().__init__()
        self.size, self.grid = old.proj.kernel_size[0], side // old.proj.kernel_size[0]
        self.proj = linear(old.proj.weight.permute(0, 2, 3, 1).flatten(1), old.proj.bias)
        self.norm = copy.deepcopy(old.norm)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, side * side, channels] -> [rows, (side / size)^2, width]."""
        if self.grid == 1:
            return self.norm(self.proj(x.flatten(1)[:, None]))
        x = x.unflatten(1, (self.grid, self.size, self.grid, self.size)).transpose(2, 3)
        return self.norm(self.proj(x.flatten(3, 5).flatten(1, 2)))


class TokenStage(nn.Module):
    """``Stage`` of a map of ``side`` x ``side``."""

    def __init__(self, old: Stage, side: int) -> None:
        super().__init__()
        blocks = cast(list[FocalBlock], list(old.blocks))
        self.blocks = nn.Sequential(*[TokenFocalBlock(block, side) for block in blocks])
        self.downsample = nn.Identity() if old.downsample is None else Patches(old.downsample, side)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, side * side, channels], a quarter of the tokens and twice the channels out unless last."""
        return self.downsample(self.blocks(x))


class TokenFocalNet(nn.Module):
    """``FocalNet`` over tokens, without its head."""

    def __init__(self, old: FocalNet) -> None:
        super().__init__()
        side = old.config.side // old.config.patch
        stages = cast(list[Stage], list(old.layers))
        self.patch_embed = Patches(old.patch_embed, old.config.side)
        self.layers = nn.Sequential(*[TokenStage(stage, side >> i) for i, stage in enumerate(stages)])
        self.norm = copy.deepcopy(old.norm)

    def forward(self, x: Tensor) -> Tensor:
        """float32 [rows, channels, side, side] -> [rows, features]."""
        x = self.patch_embed(x.permute(0, 2, 3, 1).flatten(1, 2))
        return self.norm(self.layers(x)).mean(1)


class Attention(nn.Module):
    """``BlockAttention`` with a layer each for queries (scaled), keys and values."""

    def __init__(self, old: BlockAttention) -> None:
        super().__init__()
        width, heads = old.proj.in_features, old.heads
        self.heads, self.size = heads, width // heads
        self.query, self.key, self.value = (rows_of(old.qkv, i * width, (i + 1) * width) for i in range(3))
        for tensor in self.query.parameters():
            tensor.data = (tensor.double() * old.scale).to(tensor.dtype)
        columns = old.proj.weight.unflatten(1, (self.size, heads)).transpose(1, 2).flatten(1)
        self.proj = linear(columns, old.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, tokens, width], same out."""
        split = (self.heads, self.size)
        q = self.query(x).unflatten(-1, split).transpose(1, 2)
        k = self.key(x).unflatten(-1, split).permute(0, 2, 3, 1)
        v = self.value(x).unflatten(-1, split).transpose(1, 2)
        return self.proj(((q @ k).softmax(-1) @ v).transpose(1, 2).flatten(-2))


class TokenNestBlock(nn.Module):
    """``NestBlock`` over tokens."""

    def __init__(self, old: NestBlock) -> None:
        super().__init__()
        self.norm1, self.attn = copy.deepcopy(old.norm1), Attention(old.attn)
        self.norm2, self.mlp = copy.deepcopy(old.norm2), copy.deepcopy(old.mlp)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, tokens, width], same out."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Pool(nn.Module):
    """``ConvPool`` with its LayerNorm over tokens."""

    def __init__(self, old: ConvPool) -> None:
        super().__init__()
        self.conv, self.norm, self.pool = (copy.deepcopy(m) for m in (old.conv, old.norm, old.pool))

    def forward(self, x: Tensor) -> Tensor:
        """[rows, channels, side, side] -> [rows, width, side / 2, side / 2]."""
        x = self.conv(x)
        side = x.shape[-2:]
        tokens = self.norm(x.permute(0, 2, 3, 1).flatten(1, 2))
        return self.pool(tokens.unflatten(1, side).permute(0, 3, 1, 2))


class TokenLevel(nn.Module):
    """``Level`` with the blocks of all rows as rows of their own, [rows * grid * grid, side * side, width]."""

    def __init__(self, old: Level) -> None:
        super().__init__()
        self.grid, self.side = old.grid, old.side
        self.pool = Pool(old.pool) if isinstance(old.pool, ConvPool) else nn.Identity()
        self.pos_embed = nn.Parameter(old.pos_embed.detach().clone())
        blocks = cast(list[NestBlock], list(old.transformer_encoder))
        self.transformer_encoder = nn.Sequential(*[TokenNestBlock(block) for block in blocks])

    def forward(self, x: Tensor) -> Tensor:
        """[rows, channels, ...] -> [rows, width, grid * side, grid * side]."""
        g, s = self.grid, self.side
        x = self.pool(x).permute(0, 2, 3, 1)
        if g == 1:
            x = self.transformer_encoder(x.flatten(1, 2) + self.pos_embed[0])
            return x.unflatten(1, (s, s)).permute(0, 3, 1, 2)
        x = x.unflatten(2, (g, s)).unflatten(1, (g, s)).transpose(2, 3)  # [rows, g, g, s, s, width]
        x = self.transformer_encoder((x.flatten(3, 4).flatten(1, 2) + self.pos_embed).flatten(0, 1))
        x = x.unflatten(0, (-1, g, g)).unflatten(3, (s, s)).transpose(2, 3)
        return x.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


class TokenNest(nn.Module):
    """``Nest`` over tokens, without its head."""

    def __init__(self, old: Nest) -> None:
        super().__init__()
        self.patch_embed, self.norm = copy.deepcopy(old.patch_embed), copy.deepcopy(old.norm)
        self.levels = nn.Sequential(*[TokenLevel(cast(Level, level)) for level in old.levels])

    def forward(self, x: Tensor) -> Tensor:
        """float32 [rows, channels, side, side] -> the normalised last map, channels first."""
        x = self.levels(self.patch_embed(x))
        side = x.shape[-2:]
        return self.norm(x.permute(0, 2, 3, 1).flatten(1, 2)).transpose(1, 2).unflatten(2, side)
