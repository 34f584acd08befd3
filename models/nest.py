"""NesT (Zhang et al. 2021), the audio trunk of V2EM: Transformers inside blocks, merged by convolution and pooling.

Differences from the ImageNet model, as V2EM has them: 4 input channels of 32x32, a 3x3 patch embedding with stride 1,
and the whole normalised map is flattened (no pooling, no head). LayerNorm eps 1e-6, GELU (erf).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmx.models.config import NestConfig
from mmx.models.focalnet import Mlp

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


class Nest(nn.Module):
    """[rows, channels, side, side] -> [rows, widths[-1], side / 2^(levels-1), same].

    ``head`` is the ImageNet classifier: in the files and in the paper's count, but not in ``forward``.
    """

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
