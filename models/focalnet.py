"""FocalNet (Yang et al. 2022), the audio trunk of ``ours``: context is aggregated first, then modulates the query.

Tensors stay channels-last ([rows, height, width, channels]) but for the convolutions. LayerNorm eps 1e-5, GELU (erf).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from mmx.models.config import FocalNetConfig

gelu = nn.functional.gelu


class FocalModulation(nn.Module):
    """proj(q * h(sum_l gate_l * context_l)); contexts from growing depth-wise convolutions, the last one global."""

    def __init__(self, width: int, levels: int, window: int) -> None:
        super().__init__()
        self.width, self.levels = width, levels
        self.f = nn.Linear(width, 2 * width + levels + 1)
        self.h = nn.Conv2d(width, width, 1)
        self.proj = nn.Linear(width, width)
        self.focal_layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, k, padding=k // 2, groups=width, bias=False), nn.GELU())
            for k in range(window, window + 2 * levels, 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[rows, height, width, channels], same out."""
        query, rest = self.f(x).split([self.width, self.width + self.levels + 1], dim=-1)
        # Contiguous, because the channels-first convolution kernels round less than the channels-last ones.
        sizes = [self.width] + [1] * (self.levels + 1)
        context, *gates, last_gate = rest.permute(0, 3, 1, 2).contiguous().split(sizes, dim=1)
        parts = []
        for layer, gate in zip(self.focal_layers, gates, strict=True):
            context = layer(context)
            parts.append(context * gate)
        parts.append(gelu(context.mean((2, 3), keepdim=True)) * last_gate)
        total = functools.reduce(torch.add, parts)
        return self.proj(query * self.h(total).permute(0, 2, 3, 1))


class Mlp(nn.Module):
    """fc2(gelu(fc1(x))) on the last axis."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width], same out."""
        return self.fc2(gelu(self.fc1(x)))


class FocalBlock(nn.Module):
    """x = x + modulation(norm1(x)); x = x + mlp(norm2(x))."""

    def __init__(self, width: int, config: FocalNetConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.modulation = FocalModulation(width, config.focal_levels, config.focal_window)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, config.mlp_ratio * width)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, height, width, channels], same out."""
        x = x + self.modulation(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """A strided convolution whose patches do not overlap, then LayerNorm. Also halves the map between stages."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, channels, height, width] -> [rows, height / patch, width / patch, channels]."""
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class Stage(nn.Module):
    """Blocks at one resolution, and the step down to the next one (none after the last)."""

    def __init__(self, width: int, depth: int, last: bool, config: FocalNetConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(FocalBlock(width, config) for _ in range(depth))
        self.downsample = None if last else PatchEmbed(width, 2 * width, 2)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, height, width, channels], half the size and twice the channels out unless last."""
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x.permute(0, 3, 1, 2))


class FocalNet(nn.Module):
    """[rows, channels, side, side] -> the pooled features [rows, config.features].

    ``head`` is the ImageNet classifier: in the files and in the paper's count, but not in ``forward``.
    """

    def __init__(self, config: FocalNetConfig) -> None:
        super().__init__()
        self.config = config
        count = len(config.depths)
        self.patch_embed = PatchEmbed(config.channels, config.width, config.patch)
        self.layers = nn.ModuleList(
            Stage(config.width << i, depth, i == count - 1, config) for i, depth in enumerate(config.depths)
        )
        self.norm = nn.LayerNorm(config.features)
        self.head = nn.Linear(config.features, config.classes)

    def forward(self, x: Tensor) -> Tensor:
        """float32 [rows, channels, side, side] -> [rows, features]."""
        x = self.patch_embed(x)
        for stage in self.layers:
            x = stage(x)
        return self.norm(x).mean((1, 2))
