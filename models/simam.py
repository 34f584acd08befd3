"""SimAM: 3-D attention without parameters (the paper's section 3.1.2)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from mmx.models.folding import Folded, Request, SelfFolding

SimAMVariant = Literal["reference", "paper"]


class SimAM(SelfFolding):
    """Each value is gated by how far it stands out from its own channel: ``x * sigmoid(y)``.

    With d = x - mean(x) over the H*W values of a channel, n = H*W - 1 and variance = sum(d^2) / n:

        reference:  y = d^2 / (4 (variance + 1e-4)) + 0.5          as the authors of SimAM wrote it
        paper:      y = d^2 / (4 (variance / n + 1e-4)) + 0.5      equation (2), which divides by n once more

    (The paper also prints 1/n in front of the sum of its mean; we take the mean, as its equation (1) does.)
    A 1x1 map has n = 0 and d = 0: n counts as 1, so y = 0.5 and the block scales by sigmoid(0.5).

    Half-precision input is gated in float32 and returned in its own type: d^2 leaves float16's range at |d| = 256.
    The variance is a mean times H*W / n, not a sum, so that a float32 graph stays convertible. The sign of x is kept.

    Args:
        variant: which of the two.

    Shapes: [batch, channels, H, W] -> the same, any floating type.
    """

    fold_name = "simam"
    epsilon = 1e-4

    def __init__(self, variant: SimAMVariant = "reference") -> None:
        super().__init__()
        if variant not in get_args(SimAMVariant):
            raise ValueError(f"SimAM variant {variant!r} is none of {', '.join(get_args(SimAMVariant))}")
        self.variant = variant

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        size = x.shape[-2] * x.shape[-1]
        n = max(size - 1, 1)
        deviation = wide - wide.mean((-2, -1), keepdim=True)
        squared = deviation * deviation
        divisor = n if self.variant == "reference" else n * n
        variance = squared.mean((-2, -1), keepdim=True) * (size / divisor)
        y = squared * (0.25 / (variance + self.epsilon)) + 0.5
        return (wide * torch.sigmoid(y)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"variant={self.variant!r}"

    def nonnegative(self, given: bool) -> bool:
        """A gate is above 0: the sign of x stays."""
        return given

    def folded(self, request: Request) -> Folded:
        """Around one normalisation."""
        return Folded(NormalisedSimAM(self), True, "its statistics became one normalisation", alike=True)


class NormalisedSimAM(nn.Module):
    """``SimAM`` around one normalisation, which every engine has a kernel for; in the precision of its input.

    Algebra. With d = x - mean(x), v = mean(d^2), s = H*W and the divisor n (n^2 in the paper's variant), the gate is

        y = d^2 / (4 (v s / n + eps)) + 0.5 = z^2 n / (4 s) + 0.5,     z = d / sqrt(v + eps n / s)

    and z is x normalised in each channel with an epsilon of eps n / s. Instead of two means, a subtraction and a
    reciprocal over the whole map (in OpenVINO with dynamic shapes: a power function of every value), one pass.
    """

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
