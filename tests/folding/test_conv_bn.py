"""Conv + BatchNorm: exact, and rejected with a reason where the two are not one affine map."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmx.export.folding.fold import fold

CONVOLUTIONS = [
    (lambda: nn.Conv2d(6, 8, 3, padding=1, bias=False), (2, 6, 9, 7)),
    (lambda: nn.Conv2d(6, 8, 5, stride=2, groups=2), (2, 6, 9, 7)),
    (lambda: nn.Conv2d(6, 8, 3, padding=2, dilation=2, padding_mode="reflect"), (2, 6, 9, 7)),
    (lambda: nn.Conv1d(6, 8, 3), (2, 6, 11)),
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("make", "shape"), CONVOLUTIONS)
def test_exact(make, shape, affine, dtype, randomise, assert_same):
    norm = nn.BatchNorm1d if len(shape) == 3 else nn.BatchNorm2d
    pair = randomise(nn.Sequential(make(), norm(8, affine=affine, eps=1e-3)), dtype)
    folded, (record,) = fold(pair)
    assert record.applied and record.reason == "folded into 0"
    assert isinstance(folded[1], nn.Identity)
    assert_same(folded, pair, torch.randn(shape, dtype=dtype))


class Branching(nn.Module):
    """The convolution's output is read beside the BatchNorm."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.conv(x)
        return y + self.bn(y)


class SharedConvolution(Branching):
    def forward(self, x):
        return self.bn(self.conv(self.conv(x)))


class SharedNorm(Branching):
    def forward(self, x):
        return self.bn(self.bn(self.conv(x)))


class NotBehind(Branching):
    """Registered after the convolution, but not fed by it."""

    def forward(self, x):
        return self.conv(self.bn(x))


class TwoNames(Branching):
    def __init__(self):
        super().__init__()
        self.again = self.conv

    def forward(self, x):
        return self.bn(self.again(x))


class Untraceable(Branching):
    def forward(self, x):
        return self.bn(self.conv(x)) if x.sum() > 0 else x


class Between(Branching):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.bn(self.relu(self.conv(x)))


class Hooked(Branching):
    """A hook changes what the convolution returns."""

    def __init__(self):
        super().__init__()
        self.conv.register_forward_hook(lambda module, args, out: out * 2)

    def forward(self, x):
        return self.bn(self.conv(x))


class Tied(Branching):
    def __init__(self):
        super().__init__()
        nn.utils.parametrizations.weight_norm(self.conv)

    def forward(self, x):
        return self.bn(self.conv(x))


class NoStatistics(Branching):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, x):
        return self.bn(self.conv(x))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Branching, "read elsewhere"),
        (SharedConvolution, "conv is called 2 times"),
        (SharedNorm, "it is called 2 times"),
        (NotBehind, "not the output of a convolution"),
        (Untraceable, "cannot be traced"),
        (Between, "comes from a ReLU"),
        (Hooked, "hooks"),
        (Tied, "parametrizations"),
        (NoStatistics, "no running statistics"),
    ],
)
def test_precondition(kind, reason, assert_same):
    """What can't be folded is left exactly as it was, and the record says why."""
    module = kind().eval()
    folded, (record,) = fold(module)
    assert not record.applied and record.module == "bn" and reason in record.reason
    x = torch.rand(2, 4, 5, 5)
    with torch.no_grad():
        assert torch.equal(folded(x), module(x))


def test_a_convolution_with_two_names_is_folded_under_both(randomise, assert_same):
    module = randomise(TwoNames())
    folded, (record,) = fold(module)
    assert record.applied and folded.again is folded.conv
    assert_same(folded, module, torch.randn(2, 4, 5, 5))


def test_every_norm_of_a_module_is_looked_at():
    """Two pairs in one parent, registered in another order than they run in."""

    class Crossed(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn1, self.bn2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
            self.conv2, self.conv1 = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))

    _, records = fold(Crossed())
    assert [(r.module, r.reason) for r in records] == [("bn1", "folded into conv1"), ("bn2", "folded into conv2")]
