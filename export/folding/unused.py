"""Drop what a checkpoint carries but no output depends on.

The published files hold the ImageNet heads of the audio trunks and ALBERT's pooler, and the paper counts them. The
systems' forward never calls them (``tests/folding`` proves it: they get no gradient), so removing them changes nothing.
"""

from __future__ import annotations

from torch import nn

from mmx.models.albert import Albert
from mmx.models.focalnet import FocalNet
from mmx.models.nest import Nest

UNUSED: dict[type[nn.Module], str] = {Albert: "pooler", FocalNet: "head", Nest: "head"}


def unused_child(module: nn.Module) -> str:
    """The name of the child that the module holds but never calls, "" if there is none."""
    name = UNUSED.get(type(module), "")
    return name if name and not isinstance(getattr(module, name), nn.Identity) else ""


def drop(module: nn.Module, name: str) -> str:
    """Put an Identity in the place of an unused child; returns what was there and how big it was."""
    child = module.get_submodule(name)
    size = sum(p.numel() for p in child.parameters())
    setattr(module, name, nn.Identity())
    return f"dropped: nothing reads this {type(child).__name__} ({size:,} parameters)"
