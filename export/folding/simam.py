"""Rewrite SimAM around one normalisation, which every engine has a kernel for.

Algebra. With d = x - mean(x), v = mean(d^2), s = H*W and the divisor n (or n^2, in the paper's variant), the gate is

    y = d^2 / (4 (v s / n + eps)) + 0.5 = z^2 n / (4 s) + 0.5,     z = d / sqrt(v + eps n / s)

and z is x normalised in each channel with an epsilon of eps n / s. Instead of two means, a subtraction and a
reciprocal over the whole map (in OpenVINO with dynamic shapes: a power function of every value), one pass.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmx.models.simam import SimAM


class NormalisedSimAM(nn.Module):
    """``SimAM`` for deployment, in the precision of its input."""

    def __init__(self, old: SimAM) -> None:
        super().__init__()
        self.variant, self.epsilon = old.variant, old.epsilon

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, H, W], same out."""
        size = x.shape[-2] * x.shape[-1]
        if size == 1:
            return x * torch.sigmoid(x.new_tensor(0.5))
        n = size - 1
        divisor = n if self.variant == "reference" else n * n
        z = nn.functional.instance_norm(x, eps=self.epsilon * divisor / size)
        return x * torch.sigmoid(z * z * (divisor / (4 * size)) + 0.5)
