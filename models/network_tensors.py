"""Which of a file's tensors are the network's: the state dict among other things, raw or averaged weights, without what
wrappers put before names and what training left beside the network. Whatever is left out or chosen is said."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from mmx.runtime.errors import BadDataError, UsageError

Weights = Literal["auto", "ema", "raw"]
STATE_KEYS = ("state_dict", "model_state_dict", "model_state", "model", "net", "weights")
CONVERT = "in the code that made it: torch.save(model.state_dict(), 'weights.pt')"
# What torch.compile, FSDP and activation checkpointing put into names, in front of them or in the middle.
_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_AVERAGED = re.compile(r"(?<![a-z])(ema|averaged|swa)(?![a-z])")
# A name that only a network of ours has, behind the prefix that its owner gave it.
_NETWORK = re.compile(
    r"((?:[^.]+\.){0,6}?)(?:T\.albert\.|[VA]\.\d+\.|rnns\.[tav]\.|transformers\.[tav]\.|trans_l_with_a\.)"
)
# What a loss, a metric or an average keeps beside the network.
_BESIDE = re.compile(
    r"(?:criterion|metrics?|\w*loss(?:_\w+)?|(?:train|val|valid|test)_\w+|\w+_metrics?|\w*(?:accuracy|f1|auroc)\w*)\."
    r"|(?:.*\.)?(?:pos_weight|class_weights?|n_averaged)$",
    re.IGNORECASE,
)
_LISTED = 3

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class NetworkTensors:
    """What of a file is the network.

    Attributes:
        tensors: by their names in the network. extra: the plain data beside the state dict.
        notes: what was left out or chosen, one sentence each.
    """

    tensors: Tensors
    extra: dict[str, Any]
    notes: list[str]


def network_tensors(path: Path, content: Mapping[Any, Any], weights: Weights = "auto") -> NetworkTensors:
    """Find the network in what a file holds (docs/checkpoints.md says what a file may hold).

    Args:
        content: a bare state dict, or a dictionary with one inside.
        weights: averaged (ema) or raw, where the file has both; auto: averaged, which is what trainers evaluate.

    Raises:
        BadDataError: no state dict is in it, a value that is no plain tensor, or the tensors of several networks.
        UsageError: averaged weights were asked for and there are none.
    """
    if weights not in get_args(Weights):
        raise UsageError(f"there are no weights {weights!r}", f"use one of {', '.join(get_args(Weights))}")
    notes: list[str] = []
    key = next((k for k in STATE_KEYS if isinstance(content.get(k), Mapping)), None)
    state, extra = content, {}
    if key is not None:
        state, extra = content[key], {str(k): v for k, v in content.items() if k != key}
    networks, others = _networks(_checked(path, state, notes))
    for name in [name for name, value in extra.items() if _is_averaged(name) and isinstance(value, (Mapping, list))]:
        networks[name] = _averaged_beside(path, name, extra.pop(name), notes)
    networks = {name: tensors for name, tensors in networks.items() if tensors} or {"": {}}
    chosen = _choose(path, networks, weights, notes)
    if chosen and chosen not in content:
        notes.append(f"took the prefix {chosen!r} off every name")
    tensors = networks[chosen] | others
    beside = [name for name in tensors if _BESIDE.match(name)]
    if beside:
        notes.append(f"left out what training keeps beside the network: {_listed(beside)}")
    return NetworkTensors({n: tensors[n] for n in tensors if n not in set(beside)}, extra, notes)


def _networks(state: Tensors) -> tuple[dict[str, Tensors], Tensors]:
    """The tensors of each network by the prefix of their names, and those that stand under none."""
    found = dict.fromkeys(match[1] for match in map(_NETWORK.match, state) if match) or {"": None}
    prefixes = sorted(found, key=len, reverse=True)
    networks: dict[str, Tensors] = {prefix: {} for prefix in found}
    others: Tensors = {}
    for name, tensor in state.items():
        prefix = next((p for p in prefixes if name.startswith(p)), None)
        (others if prefix is None else networks[prefix])[name.removeprefix(prefix or "")] = tensor
    return networks, others


def _choose(path: Path, networks: dict[str, Tensors], weights: Weights, notes: list[str]) -> str:
    """Which of ``networks`` to take; completes averaged weights with what has no average."""
    averaged = [name for name in networks if _is_averaged(name)]
    raw = [name for name in networks if name not in averaged]
    for several in (raw, averaged):
        if len(several) > 1:
            named = _listed([name or "no prefix" for name in several])
            raise BadDataError(f"{path} holds the weights of {len(several)} networks, under {named}", CONVERT)
    if weights == "ema" and not averaged:
        raise UsageError(f"{path} holds no averaged weights that can be read", "leave --weights out")
    if weights == "raw" and not raw:
        raise UsageError(f"{path} holds averaged weights alone", "leave --weights out")
    if not averaged or (raw and weights == "raw"):
        if averaged:
            notes.append(f"took the raw weights; --weights ema takes the averaged ones under {averaged[0]!r}")
        return raw[0]
    average = averaged[0]
    if raw:
        notes.append(f"took the averaged (EMA) weights under {average!r}; --weights raw takes the others")
        missing = {name: tensor for name, tensor in networks[raw[0]].items() if name not in networks[average]}
        missing = {name: tensor for name, tensor in missing.items() if not _BESIDE.match(name)}
        if missing:
            networks[average] |= missing
            notes.append(f"not averaged, so taken from the raw weights: {_listed(missing)}")
    else:
        notes.append(f"its weights are averaged (EMA): they stand under {average!r}")
    return average


def _averaged_beside(path: Path, name: str, value: Any, notes: list[str]) -> Tensors:
    """The averaged weights under a key of their own, empty where they have no names."""
    while isinstance(value, Mapping):
        inner = next((value[k] for k in ("shadow", "module", *STATE_KEYS) if isinstance(value.get(k), Mapping)), None)
        if inner is None:
            break
        value = inner
    if isinstance(value, Mapping) and value and all(isinstance(item, Tensor) for item in value.values()):
        networks, _ = _networks(_checked(path, value, []))
        if len(networks) == 1:
            return next(iter(networks.values()))
    notes.append(f"{ascii(name)[:60]} seems to hold averaged weights, but not by name: they cannot be used")
    return {}


def _is_averaged(name: str) -> bool:
    return bool(_AVERAGED.search(name.lower()))


def _checked(path: Path, state: Mapping[Any, Any], notes: list[str]) -> Tensors:
    """The tensors by name, each proved to be a plain one, and without wrappers in their names."""
    if not state:
        raise BadDataError(f"{path} holds no tensors", CONVERT)
    for name, value in state.items():
        if not isinstance(name, str):
            raise BadDataError(f"{path} is not a state dict: a key is a {type(name).__name__}, not a name", CONVERT)
        if not isinstance(value, Tensor):
            kind = type(value).__name__
            raise BadDataError(f"{path} is not a state dict: {ascii(name)[:80]} is a {kind}, not a tensor", CONVERT)
        _check_tensor(path, name, value)
    tensors = {_WRAPPERS.sub("", name): tensor for name, tensor in state.items()}
    if wrappers := {match[1] for name in state for match in _WRAPPERS.finditer(name)}:
        notes.append(f"took the prefix {', '.join(repr(f'{w}.') for w in sorted(wrappers))} out of the names")
    return tensors


def _check_tensor(path: Path, name: str, tensor: Tensor) -> None:
    """Plain, dense, on the CPU, and with the bytes that its shape needs (an expanded one can claim terabytes)."""
    plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout == torch.strided and not tensor.is_quantized
    if not plain or tensor.device.type != "cpu":
        raise BadDataError(f"{path}: {ascii(name)[:80]} is not a plain dense tensor", CONVERT)
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise BadDataError(f"{path}: {ascii(name)[:80]} declares {tuple(tensor.shape)}, more than the file holds of it")


def _listed(names: Iterable[str]) -> str:
    printable = [name if name.isprintable() and len(name) < 100 else ascii(name)[:100] for name in names]
    more = len(printable) - _LISTED
    return ", ".join(printable[:_LISTED]) + (f" and {more} more" if more > 0 else "")
