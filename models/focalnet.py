"""FocalNet (Yang et al. 2022), the audio trunk of ``ours``: context is aggregated first, then modulates the query.

Tensors stay channels-last ([rows, height, width, channels]) but for the convolutions. LayerNorm eps 1e-5, GELU (erf).
"""

from __future__ import annotations

import copy
import functools
from typing import cast

import torch
from torch import Tensor, nn

from mmx.models.config import FocalNetConfig
from mmx.models.folding import OVER_TOKENS, Folded, Request, SelfFolding, linear, rows_of

gelu = nn.functional.gelu
Shape = tuple[int, int]
"""Height and width of a map."""


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


class FocalNet(SelfFolding):
    """[rows, channels, *config.shape] -> the pooled features [rows, config.features].

    ``head`` is the ImageNet classifier: in the files and in the paper's count, but not in ``forward``.
    """

    fold_name = "tokens"
    unused = ("head",)

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
        """float32 [rows, channels, *config.shape] -> [rows, features]."""
        x = self.patch_embed(x)
        for stage in self.layers:
            x = stage(x)
        return self.norm(x).mean((1, 2))

    def folded(self, request: Request) -> Folded:
        """Over tokens."""
        return Folded(TokenFocalNet(self), True, OVER_TOKENS, alike=True)


# The same over rows of tokens, [rows, tokens, channels]: the shape that engines have kernels for. The same sums, in the
# same order but for the convolutions that become matrix products:
# - LayerNorm, GELU and biases of four- and five-dimensional tensors run apart in OpenVINO; of three-dimensional ones
#   they are one kernel, or part of the product before them.
# - One linear layer whose result is cut in pieces becomes one layer for each piece: nothing is copied to cut it.
# - A convolution whose stride is its size, and one of 1x1, is a product with the same weights in another order.


class Modulation(nn.Module):
    """``FocalModulation`` of a map of ``shape``."""

    def __init__(self, old: FocalModulation, shape: Shape) -> None:
        super().__init__()
        width = old.width
        self.shape = shape
        self.query, self.context = rows_of(old.f, 0, width), rows_of(old.f, width, 2 * width)
        self.gates = rows_of(old.f, 2 * width, 2 * width + old.levels + 1)
        self.focal_layers = copy.deepcopy(old.focal_layers)
        self.h = linear(old.h.weight.flatten(1), old.h.bias)
        self.proj = copy.deepcopy(old.proj)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, height * width, channels], same out."""
        gates = self.gates(x)
        context = self.context(x).unflatten(1, self.shape).permute(0, 3, 1, 2)
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
    """``FocalBlock`` of a map of ``shape``."""

    def __init__(self, old: FocalBlock, shape: Shape) -> None:
        super().__init__()
        self.norm1, self.modulation = copy.deepcopy(old.norm1), Modulation(old.modulation, shape)
        self.norm2, self.mlp = copy.deepcopy(old.norm2), copy.deepcopy(old.mlp)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, height * width, channels], same out."""
        x = x + self.modulation(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Patches(nn.Module):
    """``PatchEmbed`` of a channels-last map: patches that do not overlap, as rows of one product, then LayerNorm."""

    def __init__(self, old: PatchEmbed, shape: Shape) -> None:
        super().__init__()
        self.size = old.proj.kernel_size[0]
        self.grid = shape[0] // self.size, shape[1] // self.size
        self.proj = linear(old.proj.weight.permute(0, 2, 3, 1).flatten(1), old.proj.bias)
        self.norm = copy.deepcopy(old.norm)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, height * width, channels] -> [rows, height / size * width / size, width of the layer]."""
        if self.grid == (1, 1):
            return self.norm(self.proj(x.flatten(1)[:, None]))
        x = x.unflatten(1, (self.grid[0], self.size, self.grid[1], self.size)).transpose(2, 3)
        return self.norm(self.proj(x.flatten(3, 5).flatten(1, 2)))


class TokenStage(nn.Module):
    """``Stage`` of a map of ``shape``."""

    def __init__(self, old: Stage, shape: Shape) -> None:
        super().__init__()
        blocks = cast(list[FocalBlock], list(old.blocks))
        self.blocks = nn.Sequential(*[TokenFocalBlock(block, shape) for block in blocks])
        self.downsample = nn.Identity() if old.downsample is None else Patches(old.downsample, shape)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, height * width, channels], a quarter of the tokens and twice the channels out unless last."""
        return self.downsample(self.blocks(x))


class TokenFocalNet(nn.Module):
    """``FocalNet`` over tokens, without its head."""

    def __init__(self, old: FocalNet) -> None:
        super().__init__()
        height, width = old.config.shape
        patch = old.config.patch
        stages = cast(list[Stage], list(old.layers))
        self.patch_embed = Patches(old.patch_embed, (height, width))
        self.layers = nn.Sequential(
            *[TokenStage(stage, (height // patch >> i, width // patch >> i)) for i, stage in enumerate(stages)]
        )
        self.norm = copy.deepcopy(old.norm)

    def forward(self, x: Tensor) -> Tensor:
        """float32 [rows, channels, *config.shape] -> [rows, features]."""
        x = self.patch_embed(x.permute(0, 2, 3, 1).flatten(1, 2))
        return self.norm(self.layers(x)).mean(1)
