"""The proof that a tensor can't be negative: complete for our trunks, and never given where it does not hold."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmx.export.folding.fold import fold
from mmx.export.folding.sign import KEEPS_SIGN, NONNEGATIVE, nonnegative
from mmx.models.repvgg import RepVGGBlock
from mmx.models.residual_free import RFAM, PlainBlock, ReservedBlock, ResidualBlock
from mmx.models.simam import SimAM

OWN = (RepVGGBlock, ResidualBlock, ReservedBlock, PlainBlock)  # what their classes say of themselves


@pytest.mark.parametrize("kind", [*NONNEGATIVE, *OWN, *KEEPS_SIGN, SimAM])
def test_every_rule_holds(kind):
    """Each module that the proof knows does to random data what the proof says."""
    channels = {"in_channels": 4, "out_channels": 4}
    arguments = {nn.MaxPool2d: {"kernel_size": 3, "padding": 1}, nn.AvgPool2d: {"kernel_size": 3, "padding": 1}}
    needs_size = {nn.AdaptiveMaxPool2d: {"output_size": 2}, nn.AdaptiveAvgPool2d: {"output_size": 2}}
    known = arguments | needs_size | {nn.Dropout: {}, SimAM: {}}
    module = kind(**(channels if kind in OWN else known.get(kind, {}))).eval()
    x = torch.randn(8, 4, 5, 5)
    assert nonnegative(module, given=False) == (kind in NONNEGATIVE + OWN)
    assert (module(x if kind in NONNEGATIVE + OWN else x.abs()) >= 0).all()


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.BatchNorm2d, nn.LeakyReLU, nn.GELU, nn.PReLU, nn.Tanh])
def test_what_is_unknown_proves_nothing(kind):
    module = kind(4, 4, 1) if kind is nn.Conv2d else kind(4) if kind is nn.BatchNorm2d else kind()
    assert not nonnegative(module, given=True)


def test_a_subclass_proves_nothing():
    class Shifted(nn.ReLU):
        def forward(self, x):
            return super().forward(x) - 1

    class ShiftedBlock(ResidualBlock):
        def forward(self, x):
            return super().forward(x) - 1

    assert not nonnegative(Shifted(), given=True)
    assert not nonnegative(ShiftedBlock(4, 4), given=True)


class Skipping(nn.Sequential):
    """A Sequential that does not run its children in order."""

    def forward(self, x):
        return self[1](x)


class Beside(nn.Module):
    def __init__(self):
        super().__init__()
        self.relu, self.block = nn.ReLU(), ResidualBlock(4, 4)

    def forward(self, x):
        return self.block(x - self.relu(x))


@pytest.mark.parametrize(
    ("module", "act"),
    [
        (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.MaxPool2d(2), ResidualBlock(4, 4)), nn.ReLU),
        (
            lambda: nn.Sequential(nn.ReLU(), nn.Sequential(nn.Identity(), RFAM(4, 4)), RFAM(4, 4)),
            nn.ReLU,
        ),
        (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.MaxPool2d(2), ResidualBlock(4, 4)), nn.PReLU),
        (lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4), ResidualBlock(4, 4)), nn.PReLU),
        (lambda: ResidualBlock(4, 4), nn.PReLU),
        (lambda: Skipping(nn.ReLU(), ResidualBlock(4, 4)), nn.PReLU),
        (Beside, nn.PReLU),
    ],
)
def test_activation_of_the_merged_block(module, act, randomise, assert_same):
    """ReLU where a block's input can't be negative, PReLU where it can or where that is not known."""
    tree = randomise(module())
    folded, _ = fold(tree, "merge")
    merged = [block for block in folded.modules() if isinstance(block, PlainBlock)]
    assert merged and all(type(block.act) is act for block in merged)
    assert_same(folded, tree, torch.randn(2, 4, 8, 8))
