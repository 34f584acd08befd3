"""Fold a BatchNorm into the convolution that feeds it.

Algebra. In eval mode BatchNorm is affine in each channel: with s = weight / sqrt(var + eps),

    BN(W * x + b) = s (W * x + b - mean) + bias = (s W) * x + (s (b - mean) + bias)

Exact for every s, negative and zero included: nothing is divided by the BatchNorm's weight. Computed in float64 and
rounded once.

Precondition, proved on the parent's traced forward: the BatchNorm has running statistics, is called once, and its input
is the output of a convolution, itself a plain child of the same parent, that is called once and read by nothing else.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


class _OneLevel(fx.Tracer):
    """Traces a forward with every child as one opaque call."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Never look inside a child."""
        return True


def scale_and_shift(bn: _BatchNorm) -> tuple[Tensor, Tensor]:
    """The affine map that ``bn`` is in eval mode, as float64 [channels]: BN(x) = scale * x + shift."""
    if bn.running_mean is None or bn.running_var is None:
        raise ValueError("this BatchNorm keeps no running statistics: it depends on the batch")
    scale = torch.rsqrt(bn.running_var.double() + bn.eps)
    if bn.affine:
        scale = scale * bn.weight.detach().double()
    shift = -bn.running_mean.double() * scale
    return scale, shift + bn.bias.detach().double() if bn.affine else shift


def fused_tensors(conv: Convolution, bn: nn.Module) -> tuple[Tensor, Tensor]:
    """The float64 kernel and bias of ``conv`` followed by ``bn`` in eval mode."""
    assert isinstance(bn, _BatchNorm)
    kernel = conv.weight.detach().double()
    scale, shift = scale_and_shift(bn)
    if conv.bias is not None:
        shift = shift + conv.bias.detach().double() * scale
    return kernel * scale.reshape(-1, *[1] * (kernel.ndim - 1)), shift


def fused(conv: Convolution, bn: nn.Module) -> Convolution:
    """A new convolution that computes ``bn(conv(x))`` in eval mode, in the type of ``conv``."""
    kernel, bias = fused_tensors(conv, bn)
    folded = copy.deepcopy(conv)
    folded.weight = nn.Parameter(kernel.to(conv.weight.dtype))
    folded.bias = nn.Parameter(bias.to(conv.weight.dtype))
    return folded


def candidates(parent: nn.Module) -> Iterator[tuple[str, str, str]]:
    """Each BatchNorm among ``parent``'s children: its name, its convolution's name, and why not ("" = it can)."""
    norms = [name for name, child in parent.named_children() if isinstance(child, _BatchNorm)]
    if not norms:
        return
    try:
        graph = _OneLevel().trace(parent)
    except Exception as e:  # tracing runs the module's own forward, which may raise anything
        for name in norms:
            yield name, "", f"the forward of {type(parent).__name__} cannot be traced: {e}"
        return
    calls: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls.setdefault(str(node.target), []).append(node)
    for name in norms:
        yield (name, *_examine(parent, name, calls))


def _examine(parent: nn.Module, name: str, calls: dict[str, list[fx.Node]]) -> tuple[str, str]:
    """The name of the convolution before BatchNorm ``name``, and why the two cannot be folded ("" = they can)."""
    bn = parent.get_submodule(name)
    if len(calls.get(name, ())) != 1:
        return "", f"it is called {len(calls.get(name, ()))} times"
    source = calls[name][0].args[0] if calls[name][0].args else None
    if not isinstance(source, fx.Node) or source.op != "call_module":
        return "", "its input is not the output of a convolution"
    before = str(source.target)
    conv = parent.get_submodule(before)
    if not isinstance(conv, Convolution):
        return "", f"its input comes from a {type(conv).__name__}, not from a convolution"
    obstacles = {
        "it keeps no running statistics: it depends on the batch": bn.running_var is None,
        f"its convolution {before} is called {len(calls[before])} times": len(calls[before]) != 1,
        f"the output of its convolution {before} is read elsewhere too": len(source.users) != 1,
        f"its convolution {before} belongs to another module": "." in before,
        "it or its convolution has two names": _names(parent, bn) != 1 or _names(parent, conv) != 1,
        "it or its convolution has hooks or parametrizations": _is_altered(bn) or _is_altered(conv),
    }
    return before, next((reason for reason, holds in obstacles.items() if holds), "")


def _names(parent: nn.Module, child: nn.Module) -> int:
    return sum(module is child for _, module in parent.named_modules(remove_duplicate=False))


def _is_altered(module: nn.Module) -> bool:
    """Whether calling the module does more than its type says."""
    return bool(module._forward_hooks or module._forward_pre_hooks or parametrize.is_parametrized(module))
