"""Fold a BatchNorm into the convolution that feeds it (the algebra: ``models.folding.fused_tensors``).

Precondition, proved on the traced forwards: a plain BatchNorm with running statistics is called once, and its input is
the output of a plain convolution that is called once and read by nothing else.
"""

from __future__ import annotations

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmx.export.folding.record import FoldRecord
from mmx.export.folding.uses import Uses
from mmx.models.folding import CONVOLUTIONS, fused, why_not_affine


def fold_pairs(uses: Uses) -> tuple[dict[nn.Module, nn.Module], list[FoldRecord]]:
    """What each convolution and BatchNorm of the tree that can be folded becomes, and a record for each BatchNorm."""
    names = {module: name for name, module in reversed([*uses.root.named_modules()])}
    becomes: dict[nn.Module, nn.Module] = {}
    records = []
    for name, bn in uses.root.named_modules():
        if not isinstance(bn, _BatchNorm):
            continue
        found = _convolution(uses, bn)
        if isinstance(found, str):
            records.append(FoldRecord("conv_bn", name, False, found))
            continue
        becomes[found], becomes[bn] = fused(found, bn), nn.Identity()  # type: ignore[arg-type]
        last = names[found].rpartition(".")[2]
        into = last if last.isidentifier() else names[found]  # V.0, but conv1 of each block it is in
        records.append(FoldRecord("conv_bn", name, True, f"folded into {into}"))
    return becomes, records


def _convolution(uses: Uses, bn: nn.Module) -> nn.Module | str:
    """The convolution that ``bn`` can be folded into, or why there is none."""
    if obstacle := uses.obstacle(bn):
        return obstacle
    calls = uses.calls(bn)
    if len(calls) != 1:
        return f"it is called {len(calls)} times"
    caller, node = calls[0]
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or source.op != "call_module":
        return "its input is not the output of a convolution"
    conv, name = caller.get_submodule(str(source.target)), source.target
    if obstacle := uses.obstacle(conv):
        return f"{name}, which feeds it: {obstacle}"
    if type(conv) not in CONVOLUTIONS:
        return f"its input comes from a {type(conv).__name__}, not from a plain convolution"
    if reason := why_not_affine(bn):
        return reason
    if times := len(uses.calls(conv)) - 1:
        return f"its convolution {name} is called {times + 1} times"
    if len(source.users) != 1:
        return f"the output of its convolution {name} is read elsewhere too"
    return conv
