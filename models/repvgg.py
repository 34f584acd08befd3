"""RepVGG block: three parallel branches while training, one convolution when deployed."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class ConvBN(nn.Sequential):
    """A bias-free, size-keeping convolution and its BatchNorm, under the names ``conv`` and ``bn``."""

    conv: nn.Conv2d
    bn: nn.BatchNorm2d

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)


class RepVGGBlock(nn.Module):
    """relu(BN(conv3x3 x) + BN(conv1x1 x) + BN(x)); the last branch only where the width stays.

    The names are those of V2EM's published files: ``rbr_identity``, ``rbr_dense.conv/.bn``, ``rbr_1x1.conv/.bn``,
    and ``rbr_reparam`` in the deployed form (``export.folding.repvgg`` makes it).

    Args:
        in_channels, out_channels: widths.
        deploy: build the deployed form, one 3x3 convolution with a bias.

    Shapes: [batch, in_channels, H, W] -> [batch, out_channels, H, W].
    """

    rbr_reparam: nn.Conv2d | None
    rbr_identity: nn.BatchNorm2d | None
    rbr_dense: ConvBN | None
    rbr_1x1: ConvBN | None

    def __init__(self, in_channels: int, out_channels: int, deploy: bool = False) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        same = in_channels == out_channels
        self.rbr_reparam = nn.Conv2d(in_channels, out_channels, 3, padding=1) if deploy else None
        self.rbr_identity = nn.BatchNorm2d(in_channels) if same and not deploy else None
        self.rbr_dense = None if deploy else ConvBN(in_channels, out_channels, 3)
        self.rbr_1x1 = None if deploy else ConvBN(in_channels, out_channels, 1)

    @property
    def deployed(self) -> bool:
        """Whether this block is the single convolution."""
        return self.rbr_reparam is not None

    def forward(self, x: Tensor) -> Tensor:
        if self.rbr_reparam is not None:
            return functional.relu(self.rbr_reparam(x))
        assert self.rbr_dense is not None and self.rbr_1x1 is not None
        total = self.rbr_dense(x) + self.rbr_1x1(x)
        return functional.relu(total if self.rbr_identity is None else total + self.rbr_identity(x))
