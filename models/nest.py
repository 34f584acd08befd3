"""NesT (Zhang et al. 2021), the audio trunk of V2EM: Transformers inside blocks, merged by convolution and pooling.

Differences from the ImageNet model, as V2EM has them: 4 input channels of 32x32, a 3x3 patch embedding with stride 1,
and the whole normalised map is flattened (no pooling, no head). LayerNorm eps 1e-6, GELU (erf).
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

from mmx.models.config import NestConfig
from mmx.models.focalnet import Mlp
from mmx.models.folding import OVER_TOKENS, Folded, Request, SelfFolding, linear, rows_of

EPS = 1e-6


class BlockAttention(nn.Module):
    """Self-attention inside each block. Heads merge interleaved: channel c of head h goes to c * heads + h."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = float((width // heads) ** -0.5)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, blocks, tokens, width], same out."""
        size = x.shape[-1] // self.heads
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, size)).permute(3, 0, 4, 1, 2, 5)
        q, k, v = qkv[0], qkv[1], qkv[2]  # [rows, heads, blocks, tokens, size]
        mixed = ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(mixed.permute(0, 2, 3, 4, 1).flatten(-2))


class NestBlock(nn.Module):
    """x = x + attn(norm1(x)); x = x + mlp(norm2(x))."""

    def __init__(self, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = BlockAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = Mlp(width, mlp_ratio * width)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, blocks, tokens, width], same out."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ConvPool(nn.Module):
    """Between levels: conv 3x3, LayerNorm over channels, max pool 3x3 stride 2 pad 1."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1)
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, channels, side, side] -> [rows, width, side / 2, side / 2]."""
        return self.pool(self.norm(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


class Level(nn.Module):
    """One level: (pool,) cut the map in grid x grid blocks, add positions, Transformer, put the map together."""

    def __init__(self, below: int, width: int, heads: int, depth: int, grid: int, side: int, mlp_ratio: int) -> None:
        super().__init__()
        self.grid, self.side = grid, side
        self.pos_embed = nn.Parameter(torch.zeros(1, grid * grid, side * side, width))
        self.pool = ConvPool(below, width) if below else nn.Identity()
        self.transformer_encoder = nn.Sequential(*[NestBlock(width, heads, mlp_ratio) for _ in range(depth)])

    def forward(self, x: Tensor) -> Tensor:
        """[rows, channels, ...] -> [rows, width, grid * side, grid * side]."""
        g, s = self.grid, self.side
        x = self.pool(x).permute(0, 2, 3, 1)
        x = x.unflatten(2, (g, s)).unflatten(1, (g, s)).transpose(2, 3)  # [rows, g, g, s, s, width]
        x = self.transformer_encoder(x.flatten(3, 4).flatten(1, 2) + self.pos_embed)
        x = x.unflatten(2, (s, s)).unflatten(1, (g, g)).transpose(2, 3)
        return x.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


class PatchEmbed(nn.Module):
    """3x3 convolution with stride 1: every pixel is a token."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, channels, side, side] -> [rows, width, side, side]."""
        return self.proj(x)


class Nest(SelfFolding):
    """[rows, channels, side, side] -> [rows, widths[-1], side / 2^(levels-1), same].

    ``head`` is the ImageNet classifier: in the files and in the paper's count, but not in ``forward``.
    """

    fold_name = "tokens"
    unused = ("head",)

    def __init__(self, config: NestConfig) -> None:
        super().__init__()
        self.config = config
        last = len(config.widths) - 1
        self.patch_embed = PatchEmbed(config.channels, config.widths[0])
        self.levels = nn.Sequential(
            *[
                Level(
                    below=config.widths[i - 1] if i else 0,
                    width=width,
                    heads=config.heads[i],
                    depth=config.depths[i],
                    grid=1 << (last - i),
                    side=config.side >> last,
                    mlp_ratio=config.mlp_ratio,
                )
                for i, width in enumerate(config.widths)
            ]
        )
        self.norm = nn.LayerNorm(config.widths[-1], eps=EPS)
        self.head = nn.Linear(config.widths[-1], config.classes)

    def forward(self, x: Tensor) -> Tensor:
        """float32 [rows, channels, side, side] -> the normalised last map, channels first."""
        x = self.levels(self.patch_embed(x))
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def folded(self, request: Request) -> Folded:
        """Over tokens."""
        return Folded(TokenNest(self), True, OVER_TOKENS, alike=True)


# The same over rows of tokens (see ``focalnet``). NesT's interleaved merge of heads is an order of the projection's
# columns, and 1/sqrt(d) of attention goes into the queries' weights.


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
