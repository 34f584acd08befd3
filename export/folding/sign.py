"""A proof that a tensor cannot be negative, from the modules and functions that it went through."""

from __future__ import annotations

import torch
from torch import fx, nn

from mmx.export.folding.uses import Uses, is_altered
from mmx.models.folding import SelfFolding

NONNEGATIVE = (nn.ReLU, nn.ReLU6, nn.Sigmoid)

# Each output is a maximum, a mean with weights >= 0, or a copy.
KEEPS_SIGN = (
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Identity,
    nn.Dropout,
    nn.Flatten,
)
FUNCTIONS = (torch.relu, nn.functional.relu, torch.sigmoid)


def nonnegative(module: nn.Module, given: bool) -> bool:
    """Whether the output of one module is proved to be >= 0, by its exact type or by what its own class says.

    Args:
        module: an unknown module proves nothing, and neither does a subclass with a forward of its own.
        given: whether its input is proved to be >= 0.
    """
    if isinstance(module, SelfFolding):
        return speaks_for_itself(module, "nonnegative") and not is_altered(module) and module.nonnegative(given)
    known = type(module) in NONNEGATIVE or (type(module) in KEEPS_SIGN and given)
    return known and not is_altered(module)


def speaks_for_itself(module: nn.Module, method: str) -> bool:
    """Whether ``method`` comes from the class that the forward comes from, or from one that is nearer."""
    classes = type(module).__mro__
    where = {name: next(i for i, cls in enumerate(classes) if name in vars(cls)) for name in (method, "forward")}
    return where[method] <= where["forward"]


def input_is_nonnegative(uses: Uses, module: nn.Module) -> bool:
    """Whether what ``module`` is called with is proved to be >= 0, wherever it is called."""
    return _input(uses, module, frozenset())


def _input(uses: Uses, module: nn.Module, asked: frozenset[nn.Module]) -> bool:
    calls = uses.calls(module)
    if not calls or module in asked or isinstance(uses.graph(calls[0][0]), str):
        return False
    traced = all(not isinstance(uses.graph(caller), str) for caller in uses.above(module))
    return traced and all(
        len(node.args) == 1 and _value(uses, caller, node.args[0], asked | {module}) for caller, node in calls
    )


def _value(uses: Uses, caller: nn.Module, node: object, asked: frozenset[nn.Module]) -> bool:
    """Whether a value in the traced forward of ``caller`` is proved to be >= 0."""
    if not isinstance(node, fx.Node):
        return False
    if node.op == "placeholder":
        return len(uses.graph(caller).find_nodes(op="placeholder")) == 1 and _input(uses, caller, asked)  # type: ignore[union-attr]
    if node.op == "call_function":
        return node.target in FUNCTIONS
    if node.op != "call_module" or not node.args:
        return False
    module = caller.get_submodule(str(node.target))
    known = nonnegative(module, False) or (nonnegative(module, True) and _value(uses, caller, node.args[0], asked))
    if known or is_altered(module) or isinstance(module, SelfFolding) or not isinstance(module, nn.Sequential):
        return known
    graph = uses.graph(module)
    return not isinstance(graph, str) and _value(uses, module, graph.output_node().args[0], asked)
