"""The paper's residual-free attention module (section 3.1): three forms of one block, each followed by SimAM.

``ResidualBlock`` trains with a shortcut. ``ReservedBlock`` trains with the input kept as extra channels of its first
convolution (the paper's "reserving"). ``PlainBlock`` is what both become when deployed (its "merging"): two
convolutions and nothing beside them. ``export.folding.residual_free`` turns the first two into the third, exactly.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmx.models.repvgg import ConvBN
from mmx.models.simam import SimAM, SimAMVariant

BlockForm = Literal["residual", "reserved", "deployed"]


def _conv3(in_channels: int, out_channels: int, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=bias)


def _shortcut(in_channels: int, out_channels: int) -> nn.Identity | ConvBN:
    """Identity where the width stays, else a 1x1 convolution with BatchNorm."""
    return nn.Identity() if in_channels == out_channels else ConvBN(in_channels, out_channels, 1)


class ResidualBlock(nn.Module):
    """relu(BN(conv3x3 relu(BN(conv3x3 x))) + shortcut(x)).

    Names: ``conv1 bn1 conv2 bn2`` and, where the width changes, ``shortcut.conv shortcut.bn``; no convolution bias.

    Shapes: [batch, in_channels, H, W] -> [batch, out_channels, H, W].
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.conv1 = _conv3(in_channels, out_channels, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = _conv3(out_channels, out_channels, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = _shortcut(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(hidden)) + self.shortcut(x))


class ReservedBlock(nn.Module):
    """The same block with its input reserved: conv1 = [conv1; Dirac], so the shortcut starts after the activation.

    conv1, bn1 and prelu have ``out_channels`` channels of the block proper, then ``in_channels`` that start as an exact
    copy of the input: Dirac kernels, BN weight sqrt(var + eps) and bias mean, PReLU slope 1. The first channels' slopes
    start at 0, which is ReLU. All of them are trainable: a trained reserved half is no longer a copy of the input.

    Names: ``conv1 bn1 prelu conv2 bn2`` and, where the width changes, ``shortcut.conv shortcut.bn``.

    Shapes: [batch, in_channels, H, W] -> [batch, out_channels, H, W].
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        wide = out_channels + in_channels
        self.conv1 = _conv3(in_channels, wide, bias=False)
        self.bn1 = nn.BatchNorm2d(wide)
        self.prelu = nn.PReLU(wide)
        self.conv2 = _conv3(out_channels, out_channels, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = _shortcut(in_channels, out_channels)
        with torch.no_grad():
            nn.init.dirac_(self.conv1.weight[out_channels:])
            self._reset_reserved_norm()
            self.prelu.weight.zero_()
            self.prelu.weight[out_channels:] = 1.0

    def _reset_reserved_norm(self) -> None:
        """Make bn1 the identity on the reserved channels, in its own precision (section 3.1.1)."""
        assert self.bn1.running_var is not None and self.bn1.running_mean is not None
        kept = slice(self.out_channels, None)
        self.bn1.weight[kept] = torch.sqrt(self.bn1.running_var[kept] + self.bn1.eps)
        self.bn1.bias[kept] = self.bn1.running_mean[kept]

    @classmethod
    def reserve(cls, block: ResidualBlock) -> ReservedBlock:
        """The reserved form of a residual block; in eval mode it computes the same."""
        reserved = cls(block.in_channels, block.out_channels).to(block.conv1.weight.device, block.conv1.weight.dtype)
        own = block.out_channels
        with torch.no_grad():
            reserved.conv1.weight[:own] = block.conv1.weight
            for name, tensor in block.bn1.state_dict().items():
                target = reserved.bn1.state_dict()[name]
                (target[:own] if target.ndim else target).copy_(tensor)
            reserved.bn1.eps = block.bn1.eps
            reserved._reset_reserved_norm()
        reserved.conv2.load_state_dict(block.conv2.state_dict())
        reserved.bn2.load_state_dict(block.bn2.state_dict())
        reserved.bn2.eps = block.bn2.eps
        reserved.shortcut.load_state_dict(block.shortcut.state_dict())
        return reserved.train(block.training)

    def forward(self, x: Tensor) -> Tensor:
        hidden, kept = self.prelu(self.bn1(self.conv1(x))).split((self.out_channels, self.in_channels), 1)
        return functional.relu(self.bn2(self.conv2(hidden)) + self.shortcut(kept))


class PlainBlock(nn.Module):
    """The deployed form: relu(conv3x3 act(conv3x3 x)), convolutions with bias, no shortcut.

    Args:
        in_channels, out_channels: widths; the middle has their sum, the input being reserved there.
        prelu: whether ``act`` is a PReLU (slope 1 on reserved channels: the input may be negative) or a ReLU.

    Names: ``conv1 conv2`` and, with PReLU, ``act.weight``.

    Shapes: [batch, in_channels, H, W] -> [batch, out_channels, H, W].
    """

    def __init__(self, in_channels: int, out_channels: int, prelu: bool = False) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        wide = out_channels + in_channels
        self.conv1 = _conv3(in_channels, wide, bias=True)
        self.act = nn.PReLU(wide) if prelu else nn.ReLU()
        self.conv2 = _conv3(wide, out_channels, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.conv2(self.act(self.conv1(x))))


class RFAM(nn.Sequential):
    """A residual-free block followed by SimAM, under the names ``block`` and ``attention`` (the paper's figure 2).

    Args:
        in_channels, out_channels: widths.
        form: residual | reserved (both training forms) | deployed (with ReLU).
        simam: variant of the attention.

    Shapes: [batch, in_channels, H, W] -> [batch, out_channels, H, W].
    """

    def __init__(
        self, in_channels: int, out_channels: int, form: BlockForm = "residual", simam: SimAMVariant = "reference"
    ) -> None:
        super().__init__()
        kinds = {"residual": ResidualBlock, "reserved": ReservedBlock, "deployed": PlainBlock}
        if form not in kinds:
            raise ValueError(f"block form {form!r} is none of {', '.join(get_args(BlockForm))}")
        self.block: nn.Module = kinds[form](in_channels, out_channels)
        self.attention = SimAM(simam)
