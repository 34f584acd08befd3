"""RepVGG block: three parallel branches while training, one convolution when deployed."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from mmx.models.folding import (
    Folded,
    Request,
    SelfFolding,
    centred,
    dirac,
    fused_tensors,
    scale_and_shift,
    why_not_affine,
    why_not_pair,
)


class ConvBN(nn.Sequential):
    """A bias-free, size-keeping convolution and its BatchNorm, under the names ``conv`` and ``bn``."""

    conv: nn.Conv2d
    bn: nn.BatchNorm2d

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)


class RepVGGBlock(SelfFolding):
    """relu(BN(conv3x3 x) + BN(conv1x1 x) + BN(x)); the last branch only where the width stays.

    The names are those of V2EM's published files: ``rbr_identity``, ``rbr_dense.conv/.bn``, ``rbr_1x1.conv/.bn``,
    and ``rbr_reparam`` in the deployed form (``deployed_form`` makes it).

    Args:
        in_channels, out_channels: widths.
        deploy: build the deployed form, one 3x3 convolution with a bias.

    Shapes: [batch, in_channels, H, W] -> [batch, out_channels, H, W].
    """

    fold_name = "repvgg"
    rbr_reparam: nn.Conv2d | None
    rbr_identity: nn.BatchNorm2d | None
    rbr_dense: ConvBN | None
    rbr_1x1: ConvBN | None

    def __init__(self, in_channels: int, out_channels: int, deploy: bool = False) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        same = in_channels == out_channels
        self.rbr_reparam = nn.Conv2d(in_channels, out_channels, 3, padding=1) if deploy else None
        self.rbr_identity = nn.BatchNorm2d(in_channels) if same and not deploy else None
        self.rbr_dense = None if deploy else ConvBN(in_channels, out_channels, 3)
        self.rbr_1x1 = None if deploy else ConvBN(in_channels, out_channels, 1)

    @property
    def deployed(self) -> bool:
        """Whether this block is the single convolution."""
        return self.rbr_reparam is not None

    def forward(self, x: Tensor) -> Tensor:
        if self.rbr_reparam is not None:
            return functional.relu(self.rbr_reparam(x))
        assert self.rbr_dense is not None and self.rbr_1x1 is not None
        total = self.rbr_dense(x) + self.rbr_1x1(x)
        return functional.relu(total if self.rbr_identity is None else total + self.rbr_identity(x))

    def nonnegative(self, given: bool) -> bool:
        """It ends in a ReLU."""
        return True

    def folded(self, request: Request) -> Folded:
        """The deployed form.

        Algebra. Each branch is a 3x3 convolution in disguise, followed by BatchNorm (folded first):

            1x1 kernel        its 3x3 kernel is zero but for the centre
            identity          the Dirac kernel: 1 in the centre, from each channel to itself

        Convolution is linear in its kernel, so relu(a(x) + b(x) + c(x)) = relu((Ka + Kb + Kc) * x + (ba + bb + bc)).
        With zero padding the 1x1 kernel and the identity read no padding, nor do they with the centre of a padded 3x3.
        Summed in float64 and rounded once.
        """
        if reason := self._why_not():
            return Folded(self, False, reason)
        branches = 2 if self.rbr_identity is None else 3
        return Folded(self.deployed_form(), True, f"{branches} branches became one 3x3 convolution")

    def _why_not(self) -> str:
        """Why the block can't be folded ("" = it can)."""
        if self.rbr_reparam is not None:
            return "it is deployed already: the checkpoint holds rbr_reparam"
        assert self.rbr_dense is not None and self.rbr_1x1 is not None
        identity = "" if self.rbr_identity is None else why_not_affine(self.rbr_identity)
        return (
            why_not_pair(self.rbr_dense.conv, self.rbr_dense.bn, 3)
            or why_not_pair(self.rbr_1x1.conv, self.rbr_1x1.bn, 1)
            or (identity and f"a BatchNorm in it: {identity}")
        )

    def deployed_form(self) -> RepVGGBlock:
        """The deployed form of a training-form block, in its type and on its device; the algebra is at ``folded``."""
        assert self.rbr_dense is not None and self.rbr_1x1 is not None
        kernel, bias = fused_tensors(self.rbr_dense.conv, self.rbr_dense.bn)
        point, point_bias = fused_tensors(self.rbr_1x1.conv, self.rbr_1x1.bn)
        kernel, bias = kernel + centred(point), bias + point_bias
        if self.rbr_identity is not None:
            scale, shift = scale_and_shift(self.rbr_identity)
            kernel = kernel + dirac(self.in_channels).to(kernel.device) * scale[:, None, None, None]
            bias = bias + shift
        like = self.rbr_dense.conv.weight
        deployed = RepVGGBlock(self.in_channels, self.out_channels, deploy=True)
        deployed = deployed.to(like.device, like.dtype).eval()
        assert deployed.rbr_reparam is not None
        deployed.rbr_reparam.load_state_dict({"weight": kernel, "bias": bias})
        return deployed
