"""A block that mmx does not know folds itself: all that it takes is in its class, here in the file of its test."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mmx.export.folding.fold import fold
from mmx.models.folding import Folded, Request, SelfFolding, fused_tensors, why_not_pair
from mmx.models.residual_free import PlainBlock, ResidualBlock


class Doubled(SelfFolding):
    """relu(BN(conv3x3 x) + x), as a model of somebody's own might have it.

    Algebra: the identity is a Dirac kernel, so it is one convolution.
    """

    fold_name = "doubled"

    def __init__(self, width: int, bn: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn = bn or nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)) + x)

    def nonnegative(self, given: bool) -> bool:
        return True

    def folded(self, request: Request) -> Folded:
        if reason := why_not_pair(self.conv, self.bn, 3):
            return Folded(self, False, reason)
        kernel, bias = fused_tensors(self.conv, self.bn)
        centre = torch.eye(len(bias), dtype=kernel.dtype)
        kernel[:, :, 1, 1] += centre
        conv = nn.Conv2d(len(bias), len(bias), 3, padding=1, dtype=self.conv.weight.dtype)
        conv.load_state_dict({"weight": kernel, "bias": bias})
        return Folded(nn.Sequential(conv, nn.ReLU()), True, "the identity went into the kernel")


class Shifted(Doubled):
    """Inherits a fold that is not true of its own forward."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) - 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_it_folds_and_is_reported(dtype, randomise, assert_same):
    module = randomise(nn.Sequential(nn.Conv2d(3, 6, 1), Doubled(6), nn.Sequential(Doubled(6))), dtype)
    folded, records = fold(module)
    assert [(r.fold, r.module, r.applied) for r in records] == [("doubled", "1", True), ("doubled", "2.0", True)]
    assert sum(isinstance(m, nn.Conv2d) for m in folded.modules()) == 3
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert_same(folded, module, torch.randn(2, 3, 7, 5, dtype=dtype))


def test_what_it_says_of_its_sign_serves_the_block_behind_it(randomise, assert_same):
    module = randomise(nn.Sequential(Doubled(4), ResidualBlock(4, 4)))
    folded, records = fold(module, "merge")
    assert isinstance(folded[1], PlainBlock) and isinstance(folded[1].act, nn.ReLU)
    assert "cannot be negative" in records[1].reason
    behind_a_subclass = randomise(nn.Sequential(Shifted(4), ResidualBlock(4, 4)))
    folded, _ = fold(behind_a_subclass, "merge")
    assert isinstance(folded[1].act, nn.PReLU)
    assert_same(folded, behind_a_subclass, torch.randn(2, 4, 5, 5))


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (lambda: Doubled(4, nn.BatchNorm2d(4, track_running_stats=False)), "no running statistics"),
        (lambda: Shifted(4), "Shifted has a forward of its own and no fold of its own"),
    ],
)
def test_its_own_check_is_printed(module, reason):
    block = module().eval()
    folded, records = fold(block)
    assert records[0].fold == "doubled" and not records[0].applied and reason in records[0].reason
    x = torch.randn(2, 4, 5, 5)
    with torch.no_grad():
        assert torch.allclose(folded(x), block(x), rtol=1e-5, atol=1e-6)
