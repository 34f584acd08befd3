"""Reserve and merge (paper section 3.1.1), against the block with its shortcut."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmx.export.folding.fold import fold
from mmx.models.residual_free import (
    RFAM,
    PlainBlock,
    ReservedBlock,
    ResidualBlock,
    keep,
    merge,
    reserves_input,
)

DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
WIDTHS = pytest.mark.parametrize("widths", [(12, 12), (12, 20)])


def data(dtype, negative):
    x = torch.randn(2, 12, 9, 7, dtype=dtype)
    return x if negative else x.abs()


@DTYPES
@WIDTHS
@pytest.mark.parametrize("negative", [True, False])
@pytest.mark.parametrize("kind", [ResidualBlock, ReservedBlock])
def test_merge_is_exact(kind, negative, widths, dtype, randomise, assert_same):
    """Both training forms; the reserved one with every parameter trained, its reserved half included."""
    block = randomise(kind(*widths), dtype)
    if kind is ReservedBlock:
        block.prelu.weight.data.normal_()
    plain = merge(block, nonnegative=not negative)
    assert isinstance(plain.act, nn.PReLU if negative or kind is ReservedBlock else nn.ReLU)
    assert sum(1 for layer in plain.modules() if isinstance(layer, nn.Conv2d)) == 2
    assert_same(plain, block, data(dtype, negative))


@DTYPES
@WIDTHS
def test_reserve_is_exact(widths, dtype, randomise, assert_same):
    """A residual block, its reserved form, and that one's merged and residual forms all compute the same."""
    block = randomise(ResidualBlock(*widths), dtype)
    reserved = ReservedBlock.reserve(block)
    x = data(dtype, negative=True)
    assert_same(reserved, block, x)
    assert reserves_input(reserved)
    assert_same(merge(reserved, nonnegative=False), block, x)
    back = keep(reserved)
    assert isinstance(back, ResidualBlock)
    assert_same(back, block, x)


def test_untrained_reserved_half_merges_with_relu(randomise, assert_same):
    """As it starts, the reserved half copies the input: on an input that can't be negative one ReLU serves both."""
    reserved = ReservedBlock.reserve(randomise(ResidualBlock(12, 12)))
    plain = merge(reserved, nonnegative=True)
    assert isinstance(plain.act, nn.ReLU)
    assert_same(plain, reserved, data(torch.float32, negative=False))


@pytest.mark.parametrize("part", ["conv1.weight", "bn1.weight", "bn1.bias", "prelu.weight"])
def test_trained_reserved_half_has_no_residual_form(part, randomise):
    reserved = ReservedBlock.reserve(randomise(ResidualBlock(12, 12)))
    with torch.no_grad():
        reserved.get_parameter(part)[-1] += 1e-3
    assert keep(reserved) is None
    assert isinstance(merge(reserved, nonnegative=True).act, nn.PReLU)


def test_relu_depends_on_the_proof(randomise):
    """ReLU in a block whose input is negative gives other numbers: the proof is what makes it exact."""
    block = randomise(ResidualBlock(12, 12))
    x = data(torch.float32, negative=True)
    with torch.no_grad():
        assert (merge(block, nonnegative=True)(x) - block(x)).abs().max() > 0.1


def test_reserved_form_starts_as_identity():
    """In a new reserved block the last channels of the middle are the input, to the bit of sqrt(1 + eps)."""
    block = ReservedBlock(5, 7).eval()
    x = torch.randn(2, 5, 6, 6)
    middle = block.prelu(block.bn1(block.conv1(x)))
    torch.testing.assert_close(middle[:, 7:], x, rtol=3e-7, atol=0)
    assert (middle[:, :7] >= 0).all()


def test_deployed_block_is_left():
    _, (record, _) = fold(RFAM(8, 8, form="deployed"))
    assert record.module == "block" and not record.applied and "already" in record.reason


@pytest.mark.parametrize("residual", ["merge", "keep"])
def test_block_without_statistics_is_left(residual):
    block = ResidualBlock(8, 8)
    block.bn2 = nn.BatchNorm2d(8, track_running_stats=False)
    folded, records = fold(block, residual)
    assert not isinstance(folded, PlainBlock) and "no running statistics" in records[0].reason
