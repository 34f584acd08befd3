"""Parameters and multiply-accumulates of a system, trunk by trunk, as the paper's Table 5 counts them.

A trunk's parameters are all that its modules hold, the unused heads included. Multiply-accumulates are those of
convolutions and matrix products, counted on meta tensors: nothing is computed, so a count takes a second or two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

TRUNKS = {
    "T": "text",
    "V": "visual",
    "A": "audio",
    "v_flatten": "encoders",
    "a_flatten": "encoders",
    "v_transformer": "encoders",
    "a_transformer": "encoders",
    "t_out": "fusion",
    "v_out": "fusion",
    "a_out": "fusion",
    "weighted_fusion": "fusion",
}
"""The part of a three-tower system that each of its modules belongs to; any other module is a part of its own."""


@dataclass(frozen=True)
class Count:
    """Parameters, and multiply-accumulates of one run on the example."""

    parameters: int
    macs: int

    def __add__(self, other: Count) -> Count:
        return Count(self.parameters + other.parameters, self.macs + other.macs)


def utterance(tokens: int = 16, faces: int = 10, pieces: int = 12) -> dict[str, Tensor]:
    """The inputs of one utterance for a three-tower system; the defaults are the size of IEMOCAP's mean one."""
    return {
        "input_ids": torch.zeros(1, tokens, dtype=torch.int64),
        "attention_mask": torch.ones(1, tokens, dtype=torch.int64),
        "faces": torch.zeros(faces, 3, 48, 48),
        "face_index": torch.arange(faces)[None],
        "pieces": torch.zeros(pieces, 128, 32),
        "piece_index": torch.arange(pieces)[None],
    }


def count(module: nn.Module, example: Mapping[str, Tensor] | None = None) -> dict[str, Count]:
    """Count each part of ``module``: text, visual, audio, encoders and fusion of a three-tower system.

    Args:
        module: a system. Of another module tree, each child is a part under its own name.
        example: the keyword arguments of its forward; only shapes and types matter. Default: ``utterance()``.

    Returns:
        Counts by part, in the module's order. Their sum is the whole module, but for products outside its children.
    """
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    with FlopCounterMode(display=False) as counter, torch.no_grad(), torch.device("meta"):
        inputs = {name: tensor.to("meta") for name, tensor in (example or utterance()).items()}
        functional_call(module, {name: tensor.to("meta") for name, tensor in state.items()}, (), inputs)
    flops = {path: sum(ops.values()) for path, ops in counter.get_flop_counts().items()}
    counts: dict[str, Count] = {}
    for name, child in module.named_children():
        part = TRUNKS.get(name, name)
        parameters = sum(p.numel() for p in child.parameters())
        macs = flops.get(f"{type(module).__name__}.{name}", 0) // 2
        counts[part] = counts.get(part, Count(0, 0)) + Count(parameters, macs)
    return {part: counted for part, counted in counts.items() if counted.parameters}
