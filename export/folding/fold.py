"""Ask every block of a system to fold itself, fold what BatchNorms are left, and say what was done and what was not."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from typing import get_args

from torch import nn

from mmx.export.folding.conv_bn import fold_pairs
from mmx.export.folding.record import FoldRecord
from mmx.export.folding.sign import input_is_nonnegative, speaks_for_itself
from mmx.export.folding.uses import Uses
from mmx.models.folding import Request, Residual, SelfFolding
from mmx.runtime.errors import UsageError

NEVER_FOLDED = {
    nn.LayerNorm: ("layer_norm", "it normalises by its own input's statistics: there is no constant to fold"),
}


def fold(system: nn.Module, residual: Residual = "auto") -> tuple[nn.Module, list[FoldRecord]]:
    """Fold a copy of ``system``, in eval mode, into fewer and plainer operations that compute the same.

    Only what is proved is folded (see ``uses``): a module with hooks, one that is called or whose weights are read
    from elsewhere, and one whose class has another forward than the fold knows stay as they are; the record says so.

    Args:
        system: any module tree; it is left as it is.
        residual: what becomes of residual-free blocks in training form. ``merge``: two plain convolutions; ``keep``:
            the shortcut stays, with its BatchNorms folded; ``auto``: the one that was faster where it was measured.

    Returns:
        The folded copy, without gradients, and a record of each fold that was done or could not be done.

    Raises:
        UsageError: an unknown ``residual``.
    """
    if residual not in get_args(Residual):
        raise UsageError(f"--residual {residual!r} does not exist", f"use one of {', '.join(get_args(Residual))}")
    root = copy.deepcopy(system).eval()
    root, unused = _drop_unused(root)
    root, blocks = _fold_blocks(root, residual)
    becomes, pairs = fold_pairs(Uses(root))
    root = _replaced(root, becomes)
    return root.requires_grad_(False), [*blocks, *pairs, *unused, *_left_alone(root)]


def _drop_unused(root: nn.Module) -> tuple[nn.Module, list[FoldRecord]]:
    """Put an Identity in the place of what a checkpoint carries but no output depends on.

    The published files hold the ImageNet heads of the audio trunks and ALBERT's pooler, and the paper counts them. A
    class names such children in ``unused``; that nothing calls them is proved.
    """
    uses, records = Uses(root), []
    becomes: dict[nn.Module, nn.Module] = {}
    for path, module in root.named_modules():
        for name in getattr(module, "unused", ()):
            child = module.get_submodule(name)
            if isinstance(child, nn.Identity):
                continue
            size = sum(p.numel() for p in child.parameters())
            reason = uses.obstacle(child) or ("it is called" if uses.calls(child) else "")
            if not reason:
                becomes[child] = nn.Identity()
            done = f"dropped: nothing reads this {type(child).__name__} ({size:,} parameters)"
            records.append(FoldRecord("unused_head", _join(path, name), not reason, reason or done))
    return _replaced(root, becomes), records


def _fold_blocks(root: nn.Module, residual: Residual) -> tuple[nn.Module, list[FoldRecord]]:
    """Ask the blocks, the outermost first; what stands inside one that folds is not asked."""
    uses, records = Uses(root), []
    becomes: dict[nn.Module, nn.Module] = {}
    inside: set[nn.Module] = set()
    alike: Counter[tuple[str, str, str, str]] = Counter()
    for path, module in root.named_modules():
        if module in inside or not isinstance(module, SelfFolding):
            continue
        if reason := _unknown(module) or uses.obstacle(module):
            records.append(FoldRecord(module.fold_name, path, False, reason))
            continue
        answer = module.folded(Request(residual, input_is_nonnegative(uses, module)))
        if answer.module is not module:
            becomes[module] = answer.module.eval()
            inside.update(module.modules())
        if answer.alike:
            alike[module.fold_name, path.partition(".")[0], type(module).__name__, answer.reason] += 1
        else:
            records.append(FoldRecord(module.fold_name, path, answer.applied, answer.reason))
    for (name, trunk, kind, reason), count in alike.items():
        records.append(FoldRecord(name, f"{trunk} ({count} {kind})".strip(), True, reason))
    return _replaced(root, becomes), records


def _unknown(module: nn.Module) -> str:
    """Why what the block's fold says may not be true of this one ("" = it is)."""
    if not speaks_for_itself(module, "folded"):
        return f"{type(module).__name__} has a forward of its own and no fold of its own"
    home = next(cls for cls in type(module).__mro__ if "folded" in vars(cls)).__module__.rpartition(".")[0]
    for part in module.modules():
        kind = type(part)
        if not kind.__module__.startswith("torch.nn.modules.") and kind.__module__.rpartition(".")[0] != home:
            return f"it holds a {kind.__name__}, which its fold does not know"
    return ""


def _replaced(root: nn.Module, becomes: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """The tree with each module that ``becomes`` names replaced, under every name that it has."""
    for module in list(root.modules()):
        for name, child in module._modules.items():
            if child is not None and child in becomes:
                module._modules[name] = becomes[child]
    return becomes.get(root, root)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _left_alone(folded: nn.Module) -> list[FoldRecord]:
    """One record per trunk and kind of layer that no fold exists for."""
    found = Counter(
        (path.partition(".")[0], type(module))
        for path, module in folded.named_modules()
        if type(module) in NEVER_FOLDED
    )
    return [
        FoldRecord(NEVER_FOLDED[kind][0], f"{trunk} ({count} {kind.__name__})".strip(), False, NEVER_FOLDED[kind][1])
        for (trunk, kind), count in found.items()
    ]
