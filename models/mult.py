"""MulT (Tsai et al. 2019): each modality attends to the two others, then to itself; the last rows are classified.

The public code has no lengths: it attends to padding and reads the last row even where that is padding, so
logits depend on the longest sample of the batch. Here each sample gets what the public code gives it alone, unpadded.
``original_padding = True`` brings the public code's behaviour back (in PyTorch only).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mmx.models.attention import MASKED, MultiHeadAttention
from mmx.models.config import MultConfig
from mmx.models.sequences import inside, last_row, trim


class Positions(nn.Module):
    """Sinusoidal positions from 1, [sin | cos]. A row whose first value is exactly 0 is padding and gets none."""

    _float_tensor: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("_float_tensor", torch.zeros(1))  # in the public files; read by nothing

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length, width] -> what to add to it, same shape."""
        half = self.width // 2
        place = torch.arange(1, x.shape[1] + 1, device=x.device, dtype=x.dtype)
        step = torch.arange(half, device=x.device, dtype=x.dtype) * -(math.log(10000.0) / (half - 1))
        angle = place[:, None] * step.exp()
        table = nn.functional.pad(torch.cat([angle.sin(), angle.cos()], dim=-1), (0, self.width - 2 * half))
        return table * (x[..., :1] != 0).to(x.dtype)


class CrossLayer(nn.Module):
    """Pre-norm layer: x = x + attention(norm(x), norm(source)); x = x + fc2(relu(fc1(norm(x))))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attn = MultiHeadAttention(width, heads)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.layer_norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))

    def forward(self, x: Tensor, source: Tensor | None, bias: Tensor) -> Tensor:
        """x: [batch, targets, width]; source: [batch, sources, width], None = x; bias as in ``attend``."""
        normed = self.layer_norms[0](x)
        x = x + self.self_attn(normed, normed if source is None else self.layer_norms[0](source), bias)
        return x + self.fc2(self.fc1(self.layer_norms[1](x)).relu())


class CrossEncoder(nn.Module):
    """A stack of layers that attend from one sequence to another one (or to itself), and a final norm."""

    version: Tensor

    def __init__(self, width: int, config: MultConfig) -> None:
        super().__init__()
        self.scale = math.sqrt(width)
        self.embed_positions = Positions(width)
        self.layers = nn.ModuleList(CrossLayer(width, config.heads) for _ in range(config.layers))
        self.layer_norm = nn.LayerNorm(width)
        self.register_buffer("version", torch.full((1,), 2.0))  # in the public files; read by nothing

    def forward(self, x: Tensor, source: Tensor | None, bias: Tensor) -> Tensor:
        """As ``CrossLayer``."""
        x = self.scale * x + self.embed_positions(x)
        if source is not None:
            source = self.scale * source + self.embed_positions(source)
        for layer in self.layers:
            x = layer(x, source, bias)
        return self.layer_norm(x)


class Mult(nn.Module):
    """Inputs as ``LateFusion``. Returns (logits,): MulT has no logits per modality.

    Attributes:
        original_padding: attend to padding and read the padded last row, as the public code does.
    """

    original_padding = False

    def __init__(self, config: MultConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        sizes = {"l": config.text, "a": config.audio, "v": config.visual}
        for key, size in sizes.items():
            self.add_module(f"proj_{key}", nn.Conv1d(size, width, 1, bias=False))
            for other in sizes:
                if other != key:
                    self.add_module(f"trans_{key}_with_{other}", CrossEncoder(width, config))
            self.add_module(f"trans_{key}_mem", CrossEncoder(2 * width, config))
        self.proj1 = nn.Linear(6 * width, 6 * width)
        self.proj2 = nn.Linear(6 * width, 6 * width)
        self.out_layer = nn.Linear(6 * width, config.labels)

    def forward(
        self, text: Tensor, audio: Tensor, visual: Tensor, text_len: Tensor, audio_len: Tensor, visual_len: Tensor
    ) -> tuple[Tensor]:
        """See the class."""
        hidden = self.features(text, audio, visual, text_len, audio_len, visual_len)
        return (self.out_layer(hidden + self.proj2(self.proj1(hidden).relu())),)

    def features(
        self, text: Tensor, audio: Tensor, visual: Tensor, text_len: Tensor, audio_len: Tensor, visual_len: Tensor
    ) -> Tensor:
        """The last rows of text, audio and visual, each after both of its cross-modal encoders: [batch, 6 * width]."""
        given = {"l": (text, text_len), "a": (audio, audio_len), "v": (visual, visual_len)}
        trimmed = {key: trim(x, length, self.original_padding) for key, (x, length) in given.items()}
        lengths = {key: length for key, (_, length) in trimmed.items()}
        x = {
            key: self.get_submodule(f"proj_{key}")(x.transpose(1, 2)).transpose(1, 2) for key, (x, _) in trimmed.items()
        }
        rows = []
        for key in x:
            crossed = [
                self.get_submodule(f"trans_{key}_with_{other}")(
                    x[key], x[other], self.bias(x[key], x[other], lengths[key], lengths[other])
                )
                for other in x
                if other != key
            ]
            joined = torch.cat(crossed, dim=-1)
            own = self.bias(joined, joined, lengths[key], lengths[key])
            rows.append(last_row(self.get_submodule(f"trans_{key}_mem")(joined, None, own), lengths[key]))
        return torch.cat(rows, dim=-1)

    def bias(self, x: Tensor, source: Tensor, length: Tensor, source_length: Tensor) -> Tensor:
        """Hide the sources past their length and, row i seeing up to row i + |length difference|, the future.

        Returns:
            [batch, 1, targets, sources], to add to the scores.
        """
        seen = inside(source_length, source)[:, None, :]
        if self.config.future_mask:
            target = torch.arange(x.shape[1], device=x.device)[None, :, None]
            column = torch.arange(source.shape[1], device=x.device)[None, None, :]
            seen = seen & (column - target <= (source_length - length).abs()[:, None, None])
        return ((1 - seen.to(x.dtype)) * MASKED)[:, None]
