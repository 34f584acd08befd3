"""What the folding tests share: weights that would show a fold's mistakes, and the error that they allow."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

EXACT = 1e-12  # what float64 must show: the algebra, to the last channel
SPREAD = 4  # standard deviations that the largest of some thousand errors reaches


@pytest.fixture(autouse=True)
def single_threaded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def _randomise(module: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Fill BatchNorms as after training, a third of the scales negative and the first of each zero; eval mode."""
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            sign = torch.where(torch.rand(layer.num_features) < 0.33, -1.0, 1.0)
            layer.running_mean = 0.3 * torch.randn(layer.num_features)
            layer.running_var = 0.5 + torch.rand(layer.num_features)
            if layer.affine:
                layer.weight.data = sign * (0.75 + 0.5 * torch.rand(layer.num_features))
                layer.weight.data[0] = 0.0
                layer.bias.data.normal_(std=0.3)
        elif isinstance(layer, nn.Conv1d | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                layer.bias.data.normal_(std=0.3)
    return module.to(dtype).eval()


def _rounding(module: nn.Module, dtype: torch.dtype = torch.float32) -> float:
    """Standard deviation of a result, relative, through the rounding of the sums of all layers.

    Half an epsilon times the root of the number of terms: errors of random sign add as square roots (Higham and Mary,
    SIAM J. Sci. Comput. 41, 2019). That is for terms added one by one. Every kernel of every CPU adds in blocks
    or with fused products, which is better, so the limit does not depend on the machine.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear)]
    terms = sum(layer.weight[0].numel() for layer in layers)
    return torch.finfo(dtype).eps / 2 * math.sqrt(terms)


def _relative_error(got: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected magnitude."""
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.fixture
def randomise() -> Callable[..., nn.Module]:
    return _randomise


@pytest.fixture
def rounding() -> Callable[..., float]:
    return _rounding


@pytest.fixture
def assert_same() -> Callable[[nn.Module, nn.Module, Tensor], None]:
    """Two modules agree on an input: to 1e-12 in float64, within the rounding of both in float32."""

    def check(folded: nn.Module, module: nn.Module, x: Tensor) -> None:
        with torch.no_grad():
            error = _relative_error(folded(x), module(x))
        allowed = EXACT if x.dtype == torch.float64 else SPREAD * math.hypot(_rounding(folded), _rounding(module))
        assert error <= allowed, (error, allowed)

    return check
