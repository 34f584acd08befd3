"""Fold a RepVGG block's three branches into one 3x3 convolution.

Algebra. Each branch is a 3x3 convolution in disguise, followed by BatchNorm (folded first, see ``conv_bn``):

    1x1 kernel        its 3x3 kernel is zero but for the centre
    identity          the Dirac kernel: 1 in the centre, from each channel to itself

Convolution is linear in its kernel, so relu(a(x) + b(x) + c(x)) = relu((Ka + Kb + Kc) * x + (ba + bb + bc)). With zero
padding the 1x1 kernel and the identity read no padding, nor do they with the centre of a padded 3x3. Summed in float64
and rounded once.

Precondition: the training form, and BatchNorms with running statistics.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from mmx.export.folding.conv_bn import fused_tensors, scale_and_shift
from mmx.models.repvgg import RepVGGBlock


def dirac(channels: int) -> Tensor:
    """The float64 3x3 kernel [channels, channels, 3, 3] that copies its input."""
    kernel = torch.zeros(channels, channels, 3, 3, dtype=torch.float64)
    nn.init.dirac_(kernel)
    return kernel


def centred(kernel: Tensor) -> Tensor:
    """A 1x1 kernel [out, in, 1, 1] as the 3x3 kernel that computes the same."""
    return functional.pad(kernel, (1, 1, 1, 1))


def why_not(block: RepVGGBlock) -> str:
    """Why the block can't be folded ("" = it can)."""
    if block.deployed:
        return "it is deployed already: the checkpoint holds rbr_reparam"
    if any(isinstance(m, _BatchNorm) and m.running_var is None for m in block.modules()):
        return "a BatchNorm in it keeps no running statistics: it depends on the batch"
    return ""


def fold_repvgg(block: RepVGGBlock) -> RepVGGBlock:
    """The deployed form of a training-form block, in its type and on its device."""
    assert block.rbr_dense is not None and block.rbr_1x1 is not None
    kernel, bias = fused_tensors(block.rbr_dense.conv, block.rbr_dense.bn)
    point, point_bias = fused_tensors(block.rbr_1x1.conv, block.rbr_1x1.bn)
    kernel, bias = kernel + centred(point), bias + point_bias
    if block.rbr_identity is not None:
        scale, shift = scale_and_shift(block.rbr_identity)
        kernel = kernel + dirac(block.in_channels).to(kernel.device) * scale[:, None, None, None]
        bias = bias + shift
    like = block.rbr_dense.conv.weight
    deployed = RepVGGBlock(block.in_channels, block.out_channels, deploy=True)
    deployed = deployed.to(like.device, like.dtype).eval()
    assert deployed.rbr_reparam is not None
    deployed.rbr_reparam.load_state_dict({"weight": kernel, "bias": bias})
    return deployed
