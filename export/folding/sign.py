"""A proof that a tensor cannot be negative, from the modules that it went through."""

from __future__ import annotations

from torch import nn

from mmx.models.repvgg import RepVGGBlock
from mmx.models.residual_free import PlainBlock, ReservedBlock, ResidualBlock
from mmx.models.simam import SimAM

ENDS_IN_RELU = (RepVGGBlock, ResidualBlock, ReservedBlock, PlainBlock)
NONNEGATIVE = (nn.ReLU, nn.ReLU6, nn.Sigmoid, *ENDS_IN_RELU)

# Each output is a maximum, a mean with weights >= 0, a copy, or the input times a sigmoid.
KEEPS_SIGN = (
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Identity,
    nn.Dropout,
    nn.Flatten,
    SimAM,
)


def is_sequential(module: nn.Module) -> bool:
    """Whether the module runs its children one after another and does nothing else."""
    return type(module).forward is nn.Sequential.forward


def nonnegative(module: nn.Module, given: bool) -> bool:
    """Whether the module's output is proved to be >= 0.

    Args:
        module: a module this file knows by its exact type (a subclass may compute anything), or a Sequential of them.
        given: whether its input is proved to be >= 0.

    Returns:
        True only with proof; an unknown module proves nothing.
    """
    if is_sequential(module):
        for child in module.children():
            given = nonnegative(child, given)
        return given
    return type(module) in NONNEGATIVE or (type(module) in KEEPS_SIGN and given)
