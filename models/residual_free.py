"""The paper's residual-free attention module (section 3.1): three forms of one block, each followed by SimAM.

``ResidualBlock`` trains with a shortcut. ``ReservedBlock`` trains with the input kept as extra channels of its first
convolution (the paper's "reserving"). ``PlainBlock`` is what both become when deployed (its "merging"): two
convolutions and nothing beside them. ``merge`` turns the first two into the third, exactly.

Algebra. A residual block, its BatchNorms folded, is y = relu(W2 * relu(W1 * x + b1) + b2 + S * x + bs)
with S the Dirac kernel, or the folded 1x1 shortcut in the centre of a 3x3 kernel where the width changes. Then

    reserve   conv1' = [W1; Dirac], b1' = [b1; 0]    the middle is [W1 * x + b1; x]
              act'   = slope 0 on the first, 1 on the reserved channels: [relu(W1 * x + b1); x]
              (one ReLU does both where x cannot be negative: relu(x) = x)
    merge     conv2' = [W2, S], b2' = b2 + bs        conv2' * [h; x] = W2 * h + S * x

so y = relu(conv2' * act'(conv1' * x + b1') + b2'). BatchNorm is folded before merging: a Dirac kernel behind bn2 would
have to be divided by bn2's scale, which may be zero.

A block in reserved form is already reserved: its trained conv1, bn1 and slopes are folded as they are and only merged.
Where training left its reserved half an exact copy of the input, it can also go back to the residual form (``keep``).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmx.models.folding import Folded, Request, SelfFolding, centred, dirac, fused_tensors, why_not_pair
from mmx.models.repvgg import ConvBN
from mmx.models.simam import SimAM, SimAMVariant

BlockForm = Literal["residual", "reserved", "deployed"]

AUTO: Literal["merge", "keep"] = "keep"
"""What ``auto`` picks: the faster form in studies/results/residual.json (a test holds the two together)."""

AUTO_REASON = "auto: merging made the trunk 1.5 times slower in ONNX Runtime (python studies/residual.py)"


def _conv3(in_channels: int, out_channels: int, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=bias)


def _shortcut(in_channels: int, out_channels: int) -> nn.Identity | ConvBN:
    """Identity where the width stays, else a 1x1 convolution with BatchNorm."""
    return nn.Identity() if in_channels == out_channels else ConvBN(in_channels, out_channels, 1)


class ResidualBlock(SelfFolding):
    """relu(BN(conv3x3 relu(BN(conv3x3 x))) + shortcut(x)).

    Names: ``conv1 bn1 conv2 bn2`` and, where the width changes, ``shortcut.conv shortcut.bn``; no convolution bias.

    Shapes: [batch, in_channels, H, W] -> [batch, out_channels, H, W].
    """

    fold_name = "residual_free"

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.conv1 = _conv3(in_channels, out_channels, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = _conv3(out_channels, out_channels, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = _shortcut(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(hidden)) + self.shortcut(x))

    def nonnegative(self, given: bool) -> bool:
        """It ends in a ReLU."""
        return True

    def folded(self, request: Request) -> Folded:
        """Merged into two convolutions, or kept with its shortcut; the algebra is at the top of this file."""
        return _folded(self, request)


class ReservedBlock(SelfFolding):
    """The same block with its input reserved: conv1 = [conv1; Dirac], so the shortcut starts after the activation.

    conv1, bn1 and prelu have ``out_channels`` channels of the block proper, then ``in_channels`` that start as an exact
    copy of the input: Dirac kernels, BN weight sqrt(var + eps) and bias mean, PReLU slope 1. The first channels' slopes
    start at 0, which is ReLU. All of them are trainable: a trained reserved half is no longer a copy of the input.

    Names: ``conv1 bn1 prelu conv2 bn2`` and, where the width changes, ``shortcut.conv shortcut.bn``.

    Shapes: [batch, in_channels, H, W] -> [batch, out_channels, H, W].
    """

    fold_name = "residual_free"

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        wide = out_channels + in_channels
        self.conv1 = _conv3(in_channels, wide, bias=False)
        self.bn1 = nn.BatchNorm2d(wide)
        self.prelu = nn.PReLU(wide)
        self.conv2 = _conv3(out_channels, out_channels, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = _shortcut(in_channels, out_channels)
        with torch.no_grad():
            nn.init.dirac_(self.conv1.weight[out_channels:])
            self._reset_reserved_norm()
            self.prelu.weight.zero_()
            self.prelu.weight[out_channels:] = 1.0

    def _reset_reserved_norm(self) -> None:
        """Make bn1 the identity on the reserved channels, in its own precision (section 3.1.1)."""
        assert self.bn1.running_var is not None and self.bn1.running_mean is not None
        kept = slice(self.out_channels, None)
        self.bn1.weight[kept] = torch.sqrt(self.bn1.running_var[kept] + self.bn1.eps)
        self.bn1.bias[kept] = self.bn1.running_mean[kept]

    @classmethod
    def reserve(cls, block: ResidualBlock) -> ReservedBlock:
        """The reserved form of a residual block; in eval mode it computes the same."""
        reserved = cls(block.in_channels, block.out_channels).to(block.conv1.weight.device, block.conv1.weight.dtype)
        own = block.out_channels
        with torch.no_grad():
            reserved.conv1.weight[:own] = block.conv1.weight
            for name, tensor in block.bn1.state_dict().items():
                target = reserved.bn1.state_dict()[name]
                (target[:own] if target.ndim else target).copy_(tensor)
            reserved.bn1.eps = block.bn1.eps
            reserved._reset_reserved_norm()
        reserved.conv2.load_state_dict(block.conv2.state_dict())
        reserved.bn2.load_state_dict(block.bn2.state_dict())
        reserved.bn2.eps = block.bn2.eps
        reserved.shortcut.load_state_dict(block.shortcut.state_dict())
        return reserved.train(block.training)

    def forward(self, x: Tensor) -> Tensor:
        hidden, kept = self.prelu(self.bn1(self.conv1(x))).split((self.out_channels, self.in_channels), 1)
        return functional.relu(self.bn2(self.conv2(hidden)) + self.shortcut(kept))

    def nonnegative(self, given: bool) -> bool:
        """It ends in a ReLU."""
        return True

    def folded(self, request: Request) -> Folded:
        """Merged into two convolutions, or kept with its shortcut; the algebra is at the top of this file."""
        return _folded(self, request)


class PlainBlock(SelfFolding):
    """The deployed form: relu(conv3x3 act(conv3x3 x)), convolutions with bias, no shortcut.

    Args:
        in_channels, out_channels: widths; the middle has their sum, the input being reserved there.
        prelu: whether ``act`` is a PReLU (slope 1 on reserved channels: the input may be negative) or a ReLU.

    Names: ``conv1 conv2`` and, with PReLU, ``act.weight``.

    Shapes: [batch, in_channels, H, W] -> [batch, out_channels, H, W].
    """

    fold_name = "residual_free"

    def __init__(self, in_channels: int, out_channels: int, prelu: bool = False) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        wide = out_channels + in_channels
        self.conv1 = _conv3(in_channels, wide, bias=True)
        self.act = nn.PReLU(wide) if prelu else nn.ReLU()
        self.conv2 = _conv3(wide, out_channels, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.conv2(self.act(self.conv1(x))))

    def nonnegative(self, given: bool) -> bool:
        """It ends in a ReLU."""
        return True

    def folded(self, request: Request) -> Folded:
        """Itself."""
        return Folded(self, False, "it is merged already: the deployed form")


class RFAM(nn.Sequential):
    """A residual-free block followed by SimAM, under the names ``block`` and ``attention`` (the paper's figure 2).

    Args:
        in_channels, out_channels: widths.
        form: residual | reserved (both training forms) | deployed (with ReLU).
        simam: variant of the attention.

    Shapes: [batch, in_channels, H, W] -> [batch, out_channels, H, W].
    """

    def __init__(
        self, in_channels: int, out_channels: int, form: BlockForm = "residual", simam: SimAMVariant = "reference"
    ) -> None:
        super().__init__()
        kinds = {"residual": ResidualBlock, "reserved": ReservedBlock, "deployed": PlainBlock}
        if form not in kinds:
            raise ValueError(f"block form {form!r} is none of {', '.join(get_args(BlockForm))}")
        self.block: nn.Module = kinds[form](in_channels, out_channels)
        self.attention = SimAM(simam)


def _folded(block: ResidualBlock | ReservedBlock, request: Request) -> Folded:
    if reason := _why_not(block):
        return Folded(block, False, reason)
    auto, because = request.residual == "auto", "asked for"
    if (AUTO if auto else request.residual) == "keep":
        kept = keep(block)
        if kept is not None:
            return Folded(kept, False, "shortcut kept: " + (AUTO_REASON if auto else because))
        because = "it has no residual form: its reserved half was trained"
    elif auto:
        because = AUTO_REASON
    merged = merge(block, request.nonnegative)
    if isinstance(merged.act, nn.ReLU):
        between = "ReLU between, as its input cannot be negative"
    else:
        trained = "its slopes were trained" if request.nonnegative else "its input may be negative"
        between = f"PReLU between, as {trained}"
    return Folded(merged, True, f"merged into two convolutions ({because}); {between}")


def _why_not(block: ResidualBlock | ReservedBlock) -> str:
    """Why the block can't be folded ("" = it can)."""
    short = "" if isinstance(block.shortcut, nn.Identity) else why_not_pair(block.shortcut.conv, block.shortcut.bn, 1)
    return why_not_pair(block.conv1, block.bn1, 3) or why_not_pair(block.conv2, block.bn2, 3) or short


def merge(block: ResidualBlock | ReservedBlock, nonnegative: bool) -> PlainBlock:
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


def keep(block: ResidualBlock | ReservedBlock) -> ResidualBlock | None:
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


def _shortcut_kernel(block: ResidualBlock | ReservedBlock) -> tuple[Tensor, Tensor]:
    """The shortcut as a float64 3x3 kernel [out, in, 3, 3] and its bias [out]."""
    if isinstance(block.shortcut, nn.Identity):
        kernel = dirac(block.in_channels).to(block.conv1.weight.device)
        return kernel, kernel.new_zeros(block.out_channels)
    kernel, bias = fused_tensors(block.shortcut.conv, block.shortcut.bn)
    return centred(kernel), bias
