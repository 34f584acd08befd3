"""Modules rewritten for engines compute what they did: float64 shows the algebra, float32 the rounding."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmx.export.folding.fold import fold
from mmx.models.albert import Albert
from mmx.models.config import AlbertConfig, EncoderConfig, FocalNetConfig, NestConfig
from mmx.models.encoder import SequenceEncoder
from mmx.models.focalnet import FocalNet
from mmx.models.folding import SelfFolding
from mmx.models.nest import Nest
from mmx.models.simam import SimAM

ALBERT = AlbertConfig(vocabulary=50, embedding=16, width=32, layers=3, heads=4, feed_forward=64)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6}


class Text(nn.Module):
    """ALBERT on two sentences, one of them padded."""

    def __init__(self) -> None:
        super().__init__()
        self.albert = Albert(ALBERT)

    def forward(self, x):
        mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
        return self.albert((x[:, :5].abs() * 40).long() % 50, mask)


class Sequence(nn.Module):
    """The sequence encoder on two sequences, one of them padded."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = SequenceEncoder(EncoderConfig(width=16, heads=2, feed_forward=32, layers=2))

    def forward(self, x):
        return self.encoder(x, torch.tensor([[True, True, True], [True, False, False]]))


CASES = {
    "albert": (Text, (2, 7)),
    "encoder": (Sequence, (2, 3, 16)),
    "focalnet": (lambda: FocalNet(FocalNetConfig(width=8, depths=(1, 2, 2, 1))), (3, 4, 32, 32)),
    "focalnet of two planes": (
        lambda: FocalNet(FocalNetConfig(channels=2, side=64, width=8, depths=(1, 1, 1))),
        (2, 2, 64, 32),
    ),
    "focalnet of one plane": (
        lambda: FocalNet(FocalNetConfig(channels=1, side=128, width=8, patch=2, depths=(1, 1))),
        (2, 1, 128, 32),
    ),
    "focalnet down to one row": (
        lambda: FocalNet(FocalNetConfig(channels=4, width=8, patch=8, depths=(1, 1, 1))),
        (2, 4, 32, 32),
    ),
    "nest": (lambda: Nest(NestConfig(widths=(8, 12, 16), heads=(2, 3, 4), depths=(1, 1, 2), hidden=8)), (2, 4, 32, 32)),
    "simam": (SimAM, (2, 3, 6, 5)),
    "simam of the paper": (lambda: SimAM("paper"), (2, 3, 4, 4)),
    "simam of one pixel": (SimAM, (2, 3, 1, 1)),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_same_results(name, dtype):
    make, shape = CASES[name]
    module = make().to(dtype).eval()
    for parameter in module.parameters():  # every weight and bias counts
        parameter.normal_(std=0.5)
    x = torch.randn(shape, dtype=dtype) * 3 + 1
    expected = module(x)
    rewritten, records = fold(module)
    assert [record.applied for record in records if record.fold in ("first_token", "tokens", "simam")] == [True]
    assert not any(isinstance(each, SelfFolding) for each in rewritten.modules())
    error = float((rewritten(x) - expected).abs().max() / expected.abs().max())
    assert error < TOLERANCE[dtype]


@torch.no_grad()
def test_simam_of_a_map_without_contrast_and_of_a_loud_one():
    """The epsilon is where it was: a nearly constant map would show another, and a loud one must not overflow."""
    x = torch.cat([1 + 1e-3 * torch.randn(1, 2, 8, 8), 1e4 * torch.randn(1, 2, 8, 8)])
    expected = SimAM()(x.double())
    found = fold(SimAM())[0](x)
    assert torch.allclose(found.double(), expected, rtol=1e-4)


@torch.no_grad()
def test_last_layer_reads_the_first_token_alone():
    encoder = fold(Sequence().eval())[0].encoder
    assert encoder.encoder(torch.randn(2, 4, 16), torch.zeros(2, 1, 1, 4)).shape == (2, 1, 16)
