"""How a block folds itself: what it is asked, what it answers, and the algebra that folds share.

A block with a plainer form of itself is a ``SelfFolding`` module: its class has the forward, the fold with its algebra,
the checks, and what is known of its output's sign. ``export.folding.fold`` asks each in turn and knows none by name.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

Residual = Literal["merge", "keep", "auto"]
OVER_TOKENS = "over [rows, tokens, channels], with a product for each part of a split and for each patch convolution"
Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
"""Folded by their exact type: a subclass may compute anything."""


@dataclass(frozen=True)
class Request:
    """What a block is asked.

    Attributes:
        residual: what becomes of residual-free blocks in training form (see ``export.folding.fold.fold``).
        nonnegative: whether the block's input is proved to be >= 0 wherever it is called.
    """

    residual: Residual = "auto"
    nonnegative: bool = False


@dataclass(frozen=True)
class Folded:
    """What a block answers.

    Attributes:
        module: what takes its place; the block itself where it stays.
        applied: whether it counts as folded. reason: what it became, or why it was left alone.
        alike: all blocks of its class fold for the same reason: one line of the report speaks for a trunk's.
    """

    module: nn.Module
    applied: bool
    reason: str
    alike: bool = False


def first_token_alone(module: nn.Module) -> Folded:
    """For an encoder whose owner reads the first token alone: ``module`` takes its place."""
    return Folded(module, True, "the last layer computes [CLS] alone: nothing reads the other tokens", alike=True)


class SelfFolding(nn.Module):
    """A module that has a plainer form of itself.

    A subclass that has a forward of its own must have a ``folded`` and a ``nonnegative`` of its own as well, or it is
    left alone: what it inherits was said of another computation.

    Attributes:
        fold_name: the fold's name in the report.
    """

    fold_name: ClassVar[str]

    def folded(self, request: Request) -> Folded:
        """The plainer form, which computes the same in eval mode; the block itself is left as it is."""
        raise NotImplementedError

    def nonnegative(self, given: bool) -> bool:
        """Whether the output is proved to be >= 0; ``given``: whether the input is."""
        return False


def why_not_affine(bn: nn.Module) -> str:
    """Why ``bn`` is not one affine map for each channel in eval mode ("" = it is)."""
    if type(bn) not in NORMS:
        return f"it is a {type(bn).__name__}, not a plain BatchNorm"
    if bn.running_mean is None or bn.running_var is None:
        return "it keeps no running statistics: it depends on the batch"
    return ""


def why_not_pair(conv: nn.Module, bn: nn.Module, kernel: int) -> str:
    """Why a block's ``conv`` and ``bn`` are no size-keeping ``kernel`` x ``kernel`` convolution and its BatchNorm."""
    if reason := why_not_affine(bn):
        return f"a BatchNorm in it: {reason}"
    if type(conv) is not nn.Conv2d:
        return f"it holds a {type(conv).__name__} where a Conv2d was"
    found = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode)
    if found != ((kernel, kernel), (1, 1), (kernel // 2, kernel // 2), (1, 1), 1, "zeros"):
        return f"it holds a convolution that is no plain, size-keeping {kernel}x{kernel} one"
    return ""


def scale_and_shift(bn: nn.Module) -> tuple[Tensor, Tensor]:
    """The affine map that ``bn`` is in eval mode, as float64 [channels]: BN(x) = scale * x + shift."""
    assert isinstance(bn, _BatchNorm) and bn.running_mean is not None and bn.running_var is not None
    scale = torch.rsqrt(bn.running_var.double() + bn.eps)
    if bn.affine:
        scale = scale * bn.weight.detach().double()
    shift = -bn.running_mean.double() * scale
    return scale, shift + bn.bias.detach().double() if bn.affine else shift


def fused_tensors(conv: Convolution, bn: nn.Module) -> tuple[Tensor, Tensor]:
    """The float64 kernel and bias of ``conv`` followed by ``bn`` in eval mode.

    BatchNorm is affine in each channel: with s = weight / sqrt(var + eps),

        BN(W * x + b) = s (W * x + b - mean) + bias = (s W) * x + (s (b - mean) + bias)

    Exact for every s, negative and zero included: nothing is divided by the BatchNorm's weight.
    """
    kernel = conv.weight.detach().double()
    scale, shift = scale_and_shift(bn)
    if conv.bias is not None:
        shift = shift + conv.bias.detach().double() * scale
    return kernel * scale.reshape(-1, *[1] * (kernel.ndim - 1)), shift


def fused(conv: Convolution, bn: nn.Module) -> Convolution:
    """A new convolution that computes ``bn(conv(x))`` in eval mode, rounded once to the type of ``conv``."""
    kernel, bias = fused_tensors(conv, bn)
    folded = copy.deepcopy(conv)
    folded.weight = nn.Parameter(kernel.to(conv.weight.dtype))
    folded.bias = nn.Parameter(bias.to(conv.weight.dtype))
    return folded


def dirac(channels: int) -> Tensor:
    """The float64 3x3 kernel [channels, channels, 3, 3] that copies its input."""
    kernel = torch.zeros(channels, channels, 3, 3, dtype=torch.float64)
    nn.init.dirac_(kernel)
    return kernel


def centred(kernel: Tensor) -> Tensor:
    """A 1x1 kernel [out, in, 1, 1] as the 3x3 kernel that computes the same."""
    return functional.pad(kernel, (1, 1, 1, 1))


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer of this weight [out, in] and bias [out]."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta", dtype=weight.dtype)
    made.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().clone())
    return made


def rows_of(layer: nn.Linear, start: int, end: int) -> nn.Linear:
    """The linear layer that gives outputs ``start`` to ``end`` of ``layer``."""
    return linear(layer.weight[start:end], None if layer.bias is None else layer.bias[start:end])
