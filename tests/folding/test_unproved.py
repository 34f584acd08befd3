"""What is not proved is not folded: hooks, modules used twice, weights that something else reads, foreign forwards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mmx.export.folding.fold import fold
from mmx.models.albert import Albert
from mmx.models.config import AlbertConfig, FocalNetConfig
from mmx.models.focalnet import FocalNet
from mmx.models.repvgg import RepVGGBlock
from mmx.models.residual_free import PlainBlock, ResidualBlock
from mmx.models.simam import SimAM
from mmx.models.vgg import VGGBlock

FOCAL = FocalNetConfig(width=8, depths=(1, 1))


def double(module, args, output):
    return output * 2


class Owner(nn.Module):
    """Holds one block and calls it, and does something else with what is in it."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class CallsAPart(Owner):
    def forward(self, x):
        return self.block(x) + self.block.conv1(x)


class ReadsAWeight(Owner):
    def forward(self, x):
        return self.block(x) + functional.conv2d(x, self.block.conv1.weight, padding=1)


class ReadsAStatistic(Owner):
    def forward(self, x):
        return self.block(x) + self.block.bn1.running_mean[:, None, None]


class ReadsTwoLevelsUp(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.owner = Owner(block)

    def forward(self, x):
        return self.owner(x) + self.owner.block.bn1(x)


class DependsOnAnArgument(Owner):
    """Its trace with ``skip`` shows one call, the trace without it another."""

    def forward(self, x, skip=None):
        return self.block.bn1(self.block.conv1(x)) if skip is None else self.block(x) + skip


class DependsOnTheInput(Owner):
    def forward(self, x):
        return self.block(x) if x.sum() > 1e9 else self.block.bn1(x)


class Standardised(nn.Conv2d):
    """Weight standardisation: its weight is not what it convolves with."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return functional.conv2d(x, weight, self.bias, padding=1)


class Frozen(nn.BatchNorm2d):
    def forward(self, x):
        return x * self.weight[:, None, None]


def with_part(block: nn.Module, name: str, part: nn.Module) -> nn.Module:
    block.set_submodule(name, part)
    return block


def hooked(module: nn.Module, name: str = "") -> nn.Module:
    module.get_submodule(name).register_forward_hook(double)
    return module


def replaced_forward(module: nn.Module, name: str) -> nn.Module:
    """An instance's own forward, as monkey-patching trainers leave it behind."""
    module.get_submodule(name).forward = lambda x: 3 * x
    return module


UNPROVED = {
    "a part is called by its owner": lambda: CallsAPart(VGGBlock(4, 4)),
    "a part of a residual block is called": lambda: CallsAPart(ResidualBlock(4, 4)),
    "a weight is read by its owner": lambda: ReadsAWeight(VGGBlock(4, 4)),
    "a weight of a residual block is read": lambda: ReadsAWeight(ResidualBlock(4, 4)),
    "a statistic is read by its owner": lambda: ReadsAStatistic(VGGBlock(4, 4)),
    "a part is called from two levels up": lambda: ReadsTwoLevelsUp(VGGBlock(4, 4)),
    "a part of a block is called from two levels up": lambda: ReadsTwoLevelsUp(ResidualBlock(4, 4)),
    "what is called depends on an argument": lambda: DependsOnAnArgument(VGGBlock(4, 4)),
    "what is called depends on the input": lambda: DependsOnTheInput(ResidualBlock(4, 4)),
    "a hook on the block": lambda: nn.Sequential(hooked(ResidualBlock(4, 4))),
    "a hook in the block": lambda: nn.Sequential(hooked(ResidualBlock(4, 4), "conv2")),
    "a hook on a branch": lambda: hooked(RepVGGBlock(4, 4), "rbr_1x1"),
    "a hook on a BatchNorm": lambda: hooked(VGGBlock(4, 4), "bn2"),
    "a hook on the gate": lambda: nn.Sequential(hooked(SimAM())),
    "a hook above": lambda: nn.Sequential(hooked(nn.Sequential(RepVGGBlock(4, 4)))),
    "a forward that was replaced": lambda: replaced_forward(ResidualBlock(4, 4), "conv1"),
    "a convolution of another kind": lambda: with_part(ResidualBlock(4, 4), "conv1", Standardised(4, 4, 3)),
    "a convolution of another kind before a BatchNorm": lambda: with_part(
        VGGBlock(4, 4), "conv1", Standardised(4, 4, 3)
    ),
    "a BatchNorm of another kind": lambda: with_part(RepVGGBlock(4, 4), "rbr_dense.bn", Frozen(4)),
    "a BatchNorm of another kind behind a convolution": lambda: with_part(VGGBlock(4, 4), "bn1", Frozen(4)),
    "a dilated convolution": lambda: with_part(
        ResidualBlock(4, 4), "conv2", nn.Conv2d(4, 4, 3, padding=2, dilation=2, bias=False)
    ),
    "reflected padding": lambda: with_part(
        RepVGGBlock(4, 4), "rbr_dense.conv", nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect", bias=False)
    ),
}


@pytest.mark.parametrize("residual", ["merge", "keep"])
@pytest.mark.parametrize("case", UNPROVED)
@torch.no_grad()
def test_results_stay_the_same_and_the_record_says_why(case, residual, randomise, assert_same):
    """Something is rejected, with a reason, and whatever else was folded changed nothing."""
    module = randomise(UNPROVED[case]())
    folded, records = fold(module, residual)
    assert any(not record.applied and len(record.reason) > 10 for record in records)
    assert_same(folded, module, torch.randn(2, 4, 7, 7))


@torch.no_grad()
def test_one_convolution_in_two_parents(randomise, assert_same):
    """Each parent has a BatchNorm of its own behind it: it can be folded into neither."""
    first, second = VGGBlock(4, 4), VGGBlock(4, 4)
    second.conv1 = first.conv1
    module = randomise(nn.Sequential(first, second))
    folded, records = fold(module)
    assert [r.applied for r in records] == [False, True, False, True]
    assert "conv1 is called 2 times" in records[0].reason
    assert_same(folded, module, torch.randn(2, 4, 5, 5))


@torch.no_grad()
def test_one_block_in_two_places_has_the_proof_of_both(randomise, assert_same):
    """Behind a ReLU its input is >= 0, behind a convolution it is not: one merged block must serve both."""
    shared = nn.Sequential(ResidualBlock(4, 4))
    module = randomise(nn.Sequential(nn.ReLU(), shared, nn.Conv2d(4, 4, 1), shared))
    folded, _ = fold(module, "merge")
    assert isinstance(folded[1][0], PlainBlock) and folded[1][0] is folded[3][0]
    assert isinstance(folded[1][0].act, nn.PReLU)
    assert_same(folded, module, torch.randn(2, 4, 5, 5))


@torch.no_grad()
def test_a_hook_undoes_the_proof_of_a_sign(randomise, assert_same):
    """The ReLU's results cannot be negative, but a hook turns them around."""
    relu = nn.ReLU()
    relu.register_forward_hook(lambda module, args, output: -output)
    module = randomise(nn.Sequential(relu, ResidualBlock(4, 4)))
    folded, _ = fold(module, "merge")
    assert isinstance(folded[1].act, nn.PReLU)
    assert_same(folded, module, torch.randn(2, 4, 5, 5))


class LowRank(nn.Module):
    """An adapter around a linear layer."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer, self.weight = layer, layer.weight
        self.down = nn.Parameter(torch.randn(layer.in_features, layer.out_features))

    def forward(self, x):
        return self.layer(x) + x @ self.down


@torch.no_grad()
def test_an_adapter_in_a_trunk_keeps_it_as_it_is():
    net = FocalNet(FOCAL).eval()
    net.layers[0].blocks[0].modulation.proj = LowRank(net.layers[0].blocks[0].modulation.proj)
    folded, records = fold(net)
    (record,) = (r for r in records if r.fold == "tokens")
    assert not record.applied and "holds a LowRank" in record.reason
    x = torch.randn(1, 4, 32, 32)
    assert torch.equal(folded(x), net(x))


class ReadsPooler(nn.Module):
    def __init__(self):
        super().__init__()
        self.albert = Albert(AlbertConfig(vocabulary=9, embedding=4, width=8, layers=1, heads=2, feed_forward=8))

    def forward(self, ids, mask):
        return self.albert.pooler(self.albert(ids, mask))


@torch.no_grad()
def test_a_head_that_somebody_calls_is_not_dropped():
    module = ReadsPooler().eval()
    folded, records = fold(module)
    (record,) = (r for r in records if r.fold == "unused_head")
    assert not record.applied and record.reason == "it is called"
    ids = torch.tensor([[1, 2, 3]])
    assert torch.allclose(folded(ids, ids > 0), module(ids, ids > 0), atol=1e-6)
