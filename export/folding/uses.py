"""Who calls a module of a tree, and who reads its weights: the proof that it can be replaced.

Each forward above a module is traced with every child as one opaque call. A module that runs hooks, or whose forward
cannot be traced, may do anything with the modules in it: nothing in it is replaced. What no trace can show is a module
that is held outside of the tree, as in a plain list.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Iterator

from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

Call = tuple[nn.Module, fx.Node]
"""The module whose forward calls, and the node of its traced forward that is the call."""


class _OneLevel(fx.Tracer):
    proxy_buffer_attributes = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Never look inside a child."""
        return True


class Uses:
    """The calls and reads in one tree; made anew after the tree was changed."""

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self._parents: dict[nn.Module, set[nn.Module]] = defaultdict(set)
        self._traced: dict[nn.Module, fx.Graph | str] = {}
        for module in root.modules():
            for child in module.children():
                self._parents[child].add(module)

    def above(self, module: nn.Module) -> list[nn.Module]:
        """Every module of the tree that ``module`` is in."""
        found, pending = [], list(self._parents[module])
        while pending:
            if (parent := pending.pop()) not in found:
                found.append(parent)
                pending += self._parents[parent]
        return found

    def graph(self, module: nn.Module) -> fx.Graph | str:
        """The traced forward of ``module``, or why it proves nothing."""
        if module not in self._traced:
            self._traced[module] = is_altered(module) or _trace(module)
        return self._traced[module]

    def calls(self, module: nn.Module) -> list[Call]:
        """Every call of ``module`` in the traced forwards."""
        return [(caller, node) for caller, node, called in self._called(module) if called is module]

    def obstacle(self, module: nn.Module) -> str:
        """Why ``module`` must stay as it is ("" = it can be replaced by one that computes the same)."""
        inside = set(module.modules())
        for part in inside:
            if reason := is_altered(part):
                return reason if part is module else f"a {type(part).__name__} in it: {reason}"
        tensors = {id(tensor) for part in inside for tensor in _tensors(part)}
        for caller in self.above(module):
            graph = self.graph(caller)
            if isinstance(graph, str):
                return f"the forward of {type(caller).__name__}, which it is in, proves nothing: {graph}"
            for node in graph.nodes:
                if node.op == "get_attr" and id(_attribute(caller, str(node.target))) in tensors:
                    return f"{type(caller).__name__} reads {node.target} besides calling it"
        for caller, node, called in self._called(module):
            if called is not module and called in inside:
                return f"{type(caller).__name__} calls {node.target}, a part of it, by itself"
        return ""

    def _called(self, module: nn.Module) -> Iterator[tuple[nn.Module, fx.Node, nn.Module]]:
        for caller in self.above(module):
            graph = self.graph(caller)
            for node in () if isinstance(graph, str) else graph.nodes:
                if node.op == "call_module":
                    yield caller, node, caller.get_submodule(str(node.target))


def is_altered(module: nn.Module) -> str:
    """Why calling ``module`` does other than its class says ("" = it does not)."""
    if module._forward_hooks or module._forward_pre_hooks:
        return "it has hooks"
    if parametrize.is_parametrized(module):
        return "it has parametrizations"
    if "forward" in vars(module) or type(module).__call__ is not nn.Module.__call__:
        return "its forward was replaced"
    return ""


def _trace(module: nn.Module) -> fx.Graph | str:
    if type(module).forward is nn.Module.forward:  # ModuleList and the like: those above call what is in it
        return fx.Graph()
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(module.forward).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    try:
        graph = _OneLevel().trace(module)
    except Exception as e:  # tracing runs the module's own forward, which may raise anything
        return f"it cannot be traced ({str(e).splitlines()[0] if str(e) else type(e).__name__:.120})"
    try:
        bare = _OneLevel().trace(module, defaults) if defaults else graph
    except Exception:  # it needs what has a default
        return graph
    if [node.target for node in _uses(bare)] != [node.target for node in _uses(graph)]:
        return "what it calls depends on the arguments that it is given"
    return graph


def _uses(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op in ("call_module", "get_attr")]


def _attribute(module: nn.Module, path: str) -> object:
    *parents, name = path.split(".")
    return getattr(module.get_submodule(".".join(parents)), name, None)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)
