"""Run every fold on a copy of a system, and say what was folded and what was not."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Literal, get_args

from torch import nn

from mmx.export.folding import conv_bn, repvgg, residual_free, unused
from mmx.export.folding.record import FoldRecord
from mmx.export.folding.residual_free import Residual
from mmx.export.folding.rewrite import rewrite
from mmx.export.folding.sign import is_sequential, nonnegative
from mmx.models.repvgg import RepVGGBlock
from mmx.models.residual_free import PlainBlock, ReservedBlock, ResidualBlock
from mmx.runtime.errors import UsageError

AUTO: Literal["merge", "keep"] = "keep"
"""What ``auto`` picks: the faster form in studies/results/residual.json (a test holds the two together)."""

AUTO_REASON = "auto: merging made the trunk 1.5 times slower in ONNX Runtime (python studies/residual.py)"

NEVER_FOLDED = {
    nn.LayerNorm: ("layer_norm", "it normalises by its own input's statistics: there is no constant to fold"),
}


def fold(system: nn.Module, residual: Residual = "auto") -> tuple[nn.Module, list[FoldRecord]]:
    """Fold a copy of ``system``, in eval mode, into fewer and plainer operations that compute the same.

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
    records: list[FoldRecord] = []
    folded = _fold_blocks(copy.deepcopy(system).eval(), "", residual, False, records)
    for path, module in list(folded.named_modules()):
        for bn, conv, reason in conv_bn.candidates(module):
            if not reason:
                setattr(module, conv, conv_bn.fused(getattr(module, conv), getattr(module, bn)))
                setattr(module, bn, nn.Identity())
            into = conv if conv.isidentifier() else _join(path, conv)  # V.0, but conv1 of each block it is in
            records.append(FoldRecord("conv_bn", _join(path, bn), not reason, reason or f"folded into {into}"))
        if name := unused.unused_child(module):
            records.append(FoldRecord("unused_head", _join(path, name), True, unused.drop(module, name)))
    folded, rewritten = rewrite(folded)
    return folded.requires_grad_(False), [*records, *rewritten, *_left_alone(folded)]


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _fold_blocks(module: nn.Module, path: str, residual: Residual, given: bool, records: list[FoldRecord]) -> nn.Module:
    """Fold the RepVGG and residual-free blocks in ``module``, whose input is proved to be >= 0 if ``given``."""
    if isinstance(module, RepVGGBlock):
        return _fold_repvgg(module, path, records)
    if isinstance(module, ResidualBlock | ReservedBlock):
        return _fold_residual(module, path, residual, given, records)
    if isinstance(module, PlainBlock):
        records.append(FoldRecord("residual_free", path, False, "it is merged already: the deployed form"))
        return module
    in_order = is_sequential(module)
    for name, child in list(module.named_children()):
        known = given and in_order  # elsewhere a child's input is not known
        setattr(module, name, _fold_blocks(child, _join(path, name), residual, known, records))
        given = nonnegative(child, known)
    return module


def _fold_repvgg(block: RepVGGBlock, path: str, records: list[FoldRecord]) -> RepVGGBlock:
    reason = repvgg.why_not(block)
    branches = 2 if block.rbr_identity is None else 3
    done = f"{branches} branches became one 3x3 convolution"
    records.append(FoldRecord("repvgg", path, not reason, reason or done))
    return block if reason else repvgg.fold_repvgg(block)


def _fold_residual(
    block: residual_free.Block, path: str, residual: Residual, given: bool, records: list[FoldRecord]
) -> nn.Module:
    def record(applied: bool, reason: str) -> None:
        records.append(FoldRecord("residual_free", path, applied, reason))

    if reason := residual_free.why_not(block):
        record(False, reason)
        return block
    because = "asked for"
    if (AUTO if residual == "auto" else residual) == "keep":
        kept = residual_free.keep(block)
        if kept is not None:
            record(False, "shortcut kept: " + (AUTO_REASON if residual == "auto" else "asked for"))
            return kept
        because = "it has no residual form: its reserved half was trained"
    elif residual == "auto":
        because = AUTO_REASON
    merged = residual_free.merge(block, given)
    if isinstance(merged.act, nn.ReLU):
        between = "ReLU between, as its input cannot be negative"
    else:
        between = "PReLU between, as " + ("its slopes were trained" if given else "its input may be negative")
    record(True, f"merged into two convolutions ({because}); {between}")
    return merged


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
