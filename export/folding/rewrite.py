"""Whole modules in a form that engines run faster: which, by what, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from mmx.export.folding.first_token import FirstTokenAlbert, FirstTokenLayers
from mmx.export.folding.record import FoldRecord
from mmx.export.folding.simam import NormalisedSimAM
from mmx.export.folding.tokens import TokenFocalNet, TokenNest
from mmx.models.albert import AlbertEncoder
from mmx.models.encoder import Layers
from mmx.models.focalnet import FocalNet
from mmx.models.nest import Nest
from mmx.models.simam import SimAM


@dataclass(frozen=True)
class Rewrite:
    """``make(module)`` computes what ``module`` does; ``name`` and ``reason`` go into the fold record."""

    name: str
    make: Callable[[Any], nn.Module]
    reason: str


_FIRST = "the last layer computes [CLS] alone: nothing reads the other tokens"
_TOKENS = "over [rows, tokens, channels], with a product for each part of a split and for each patch convolution"

REWRITES: dict[type[nn.Module], Rewrite] = {
    AlbertEncoder: Rewrite("first_token", FirstTokenAlbert, _FIRST),
    Layers: Rewrite("first_token", FirstTokenLayers, _FIRST),
    FocalNet: Rewrite("tokens", TokenFocalNet, _TOKENS),
    Nest: Rewrite("tokens", TokenNest, _TOKENS),
    SimAM: Rewrite("simam", NormalisedSimAM, "its statistics became one normalisation"),
}


def rewrite(root: nn.Module) -> tuple[nn.Module, list[FoldRecord]]:
    """Rewrite every module of ``REWRITES`` in ``root``, which is changed; a record for each trunk and kind."""
    found: Counter[tuple[str, type[nn.Module]]] = Counter()
    for path, module in list(root.named_modules()):
        if (known := REWRITES.get(type(module))) is None:
            continue
        made = known.make(module).train(module.training)
        parent, _, name = path.rpartition(".")
        if path:
            setattr(root.get_submodule(parent), name, made)
        else:
            root = made
        found[path.partition(".")[0], type(module)] += 1
    return root, [
        FoldRecord(REWRITES[kind].name, f"{trunk} ({count} {kind.__name__})".strip(), True, REWRITES[kind].reason)
        for (trunk, kind), count in found.items()
    ]
