"""A system as the public code runs it: which form its modules have, and what inputs it gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from mmx.models.checkpoint import load_checkpoint, seeded_module
from mmx.models.registry import get_system
from mmx.models.repvgg import RepVGGBlock
from mmx.runtime.manifest import TextSpec
from mmx.runtime.packing import pack
from mmx.runtime.types import Sample

SEED = 0
PADDED_TOKENS = 100

Inputs = dict[str, NDArray[Any]]


def upstream_module(system: str, preset: str = "full", checkpoint: Path | None = None) -> nn.Module:
    """The system with the checkpoint's weights, or with seeded ones, in the form that upstream evaluates."""
    if checkpoint is not None:
        return upstream_form(load_checkpoint(checkpoint, system=system).module)
    return upstream_form(seeded_module(system, get_system(system).config(preset=preset), SEED))


def upstream_form(module: nn.Module) -> nn.Module:
    """The module as V2EM's trainer evaluates it: each RepVGG block in its deployed form, nothing else folded."""
    for name, child in module.named_children():
        if isinstance(child, RepVGGBlock) and not child.deployed:
            setattr(module, name, child.deployed_form())
        else:
            upstream_form(child)
    return module.eval()


def upstream_inputs(sample: Sample) -> Inputs:
    """One sample's inputs with the text padded to 100 tokens, as the public tokenizer call pads it."""
    inputs = dict(pack([sample]).inputs)
    short = PADDED_TOKENS - inputs["input_ids"].shape[1]
    inputs["input_ids"] = np.pad(inputs["input_ids"], ((0, 0), (0, short)), constant_values=TextSpec().pad_id)
    inputs["attention_mask"] = np.pad(inputs["attention_mask"], ((0, 0), (0, short)))
    return inputs
