"""Reserve and merge: turn a block with a shortcut into two plain convolutions (the paper's section 3.1.1).

Algebra. A residual block, its BatchNorms folded (``conv_bn``), is y = relu(W2 * relu(W1 * x + b1) + b2 + S * x + bs)
with S the Dirac kernel, or the folded 1x1 shortcut in the centre of a 3x3 kernel where the width changes. Then

    reserve   conv1' = [W1; Dirac], b1' = [b1; 0]    the middle is [W1 * x + b1; x]
              act'   = slope 0 on the first, 1 on the reserved channels: [relu(W1 * x + b1); x]
              (one ReLU does both where x cannot be negative: relu(x) = x)
    merge     conv2' = [W2, S], b2' = b2 + bs        conv2' * [h; x] = W2 * h + S * x

so y = relu(conv2' * act'(conv1' * x + b1') + b2'). BatchNorm is folded before merging: a Dirac kernel behind bn2 would
have to be divided by bn2's scale, which may be zero.

A block in reserved form is already reserved: its trained conv1, bn1 and slopes are folded as they are and only merged.
Where training left its reserved half an exact copy of the input, it can also go back to the residual form (``keep``).

Precondition: BatchNorms with running statistics. ReLU needs the proof of ``sign``; else the middle is a PReLU.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmx.export.folding.conv_bn import fused_tensors
from mmx.export.folding.repvgg import centred, dirac
from mmx.models.residual_free import PlainBlock, ReservedBlock, ResidualBlock

Residual = Literal["merge", "keep", "auto"]
Block = ResidualBlock | ReservedBlock


def why_not(block: Block) -> str:
    """Why the block can't be folded ("" = it can)."""
    if any(isinstance(m, _BatchNorm) and m.running_var is None for m in block.modules()):
        return "a BatchNorm in it keeps no running statistics: it depends on the batch"
    return ""


def merge(block: Block, nonnegative: bool) -> PlainBlock:
    """The deployed form of a residual or reserved block, in its type and on its device.

    Args:
        block: a training-form block.
        nonnegative: whether the block's input is proved to be >= 0.
    """
    like, own = block.conv1.weight, block.out_channels
    kernel1, bias1 = fused_tensors(block.conv1, block.bn1)
    if isinstance(block, ResidualBlock):
        kernel1 = torch.cat([kernel1, dirac(block.in_channels).to(like.device)])
        bias1 = torch.cat([bias1, bias1.new_zeros(block.in_channels)])
        slopes = torch.cat([bias1.new_zeros(own), bias1.new_ones(block.in_channels)])
        relu = nonnegative
    else:
        slopes = block.prelu.weight.detach()
        relu = not slopes[:own].any() and (not slopes[own:].any() or (nonnegative and reserves_input(block)))
    kernel2, bias2 = fused_tensors(block.conv2, block.bn2)
    short, short_bias = _shortcut_kernel(block)
    plain = PlainBlock(block.in_channels, own, prelu=not relu).to(like.device, like.dtype).eval()
    plain.conv1.load_state_dict({"weight": kernel1, "bias": bias1})
    plain.conv2.load_state_dict({"weight": torch.cat([kernel2, short], dim=1), "bias": bias2 + short_bias})
    if not relu:
        plain.act.load_state_dict({"weight": slopes})
    return plain


def keep(block: Block) -> ResidualBlock | None:
    """The block in residual form with a ReLU in the middle, its BatchNorms still there for ``conv_bn`` to fold.

    Returns:
        The block itself if it has that form; None for a reserved block whose reserved half or slopes were trained away
        from a copy of the input: it has no residual form.
    """
    if isinstance(block, ResidualBlock):
        return block
    if block.prelu.weight[: block.out_channels].any() or not reserves_input(block):
        return None
    own = block.out_channels
    residual = ResidualBlock(block.in_channels, own).to(block.conv1.weight.device, block.conv1.weight.dtype)
    residual.conv1.load_state_dict({"weight": block.conv1.weight[:own]})
    residual.bn1.load_state_dict({name: t[:own] if t.ndim else t for name, t in block.bn1.state_dict().items()})
    residual.bn1.eps = block.bn1.eps
    residual.conv2, residual.bn2, residual.shortcut = block.conv2, block.bn2, block.shortcut
    return residual.eval()


def reserves_input(block: ReservedBlock) -> bool:
    """Whether the reserved half still copies the input, to the rounding of its BatchNorm weight sqrt(var + eps)."""
    kernel, bias = (t[block.out_channels :] for t in fused_tensors(block.conv1, block.bn1))
    rounding = 4 * torch.finfo(block.conv1.weight.dtype).eps
    assert block.bn1.running_mean is not None
    mean = block.bn1.running_mean[block.out_channels :].double().abs()
    copies = (kernel - dirac(block.in_channels).to(kernel.device)).abs().amax() <= rounding
    unmoved = (bias.abs() <= rounding * mean).all()
    return bool(copies and unmoved and (block.prelu.weight[block.out_channels :] == 1).all())


def _shortcut_kernel(block: Block) -> tuple[Tensor, Tensor]:
    """The shortcut as a float64 3x3 kernel [out, in, 3, 3] and its bias [out]."""
    if isinstance(block.shortcut, nn.Identity):
        kernel = dirac(block.in_channels).to(block.conv1.weight.device)
        return kernel, kernel.new_zeros(block.out_channels)
    kernel, bias = fused_tensors(block.shortcut.conv, block.shortcut.bn)
    return centred(kernel), bias
