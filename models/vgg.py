"""FE2E's double-convolution block, and the convolution trunk that FE2E, V2EM and ours share."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from mmx.models.config import ConvTrunkConfig
from mmx.models.repvgg import RepVGGBlock
from mmx.models.residual_free import RFAM, BlockForm


class VGGBlock(nn.Module):
    """conv3x3-BN-ReLU twice, convolutions with bias. Names: conv1 bn1 conv2 bn2."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, in_channels, H, W] -> [rows, out_channels, H, W]."""
        return self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()


def conv_trunk(channels: int, config: ConvTrunkConfig) -> nn.Sequential:
    """Stem (conv, BN, ReLU, pool at 0..3), then the plan's blocks and pools in order.

    Shapes: [rows, channels, H, W] -> [rows, config.channels, H / 2^pools, W / 2^pools].
    """
    stem = nn.Conv2d(channels, config.stem, config.stem_kernel, padding=config.stem_kernel // 2, bias=config.stem_bias)
    layers: list[nn.Module] = [stem, nn.BatchNorm2d(config.stem), nn.ReLU(), nn.MaxPool2d(2)]
    width = config.stem
    for entry in config.plan:
        if entry == 0:
            layers.append(nn.MaxPool2d(2))
            continue
        layers.append(_block(width, entry, config))
        width = entry
    return nn.Sequential(*layers)


def _block(width: int, out: int, config: ConvTrunkConfig) -> nn.Module:
    if config.block == "vgg":
        return VGGBlock(width, out)
    if config.block == "repvgg":
        return RepVGGBlock(width, out, deploy=config.form == "deployed")
    return RFAM(width, out, cast(BlockForm, config.form), config.simam)
