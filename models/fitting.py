"""The system a file's tensors belong to, and the config whose module has exactly these; or what does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmx.models.config import from_dict
from mmx.models.detect import Shapes, candidates, detect, forms_of, missing_modalities
from mmx.models.multimodal import MultimodalSystem
from mmx.models.registry import SYSTEMS, System, get_system
from mmx.runtime.errors import BadDataError

_LISTED = 5
_SAY_SYSTEM = "mmx systems lists the systems; --system NAME says which one it should be"


def find_system(path: Path, shapes: Shapes, asked: str | None, named: Any) -> System:
    """The system that was asked for, else the one that the file names, else the one that the tensors' names show.

    Raises:
        UsageError: no system is called what was asked for. BadDataError: the file's own says nothing that is known.
    """
    if asked is not None:
        return get_system(asked)
    if named is not None:
        if not isinstance(named, str) or named not in SYSTEMS:
            raise BadDataError(f"{path} says that its system is {named!r:.60}, which mmx does not know", _SAY_SYSTEM)
        return get_system(named)
    found = detect(shapes)
    if found is None:
        some = ", ".join(_quoted(list(shapes)[:2]))
        raise BadDataError(
            f"{path} is no checkpoint of a system that mmx knows: {len(shapes)} tensors, such as {some}",
            _SAY_SYSTEM,
        )
    return get_system(found)


def fitting(path: Path, spec: System, shapes: Shapes, configs: Sequence[Any]) -> tuple[Any, nn.Module]:
    """The config whose module has exactly these tensors; built on ``meta``, so without memory.

    Args:
        configs: plain data that says some of it or all, a later one before an earlier one; None says nothing.

    Raises:
        BadDataError: none fits; lists what is wrong with the one that comes closest.
    """
    given = [config for config in configs if config is not None]
    missing = missing_modalities(spec, shapes)
    best: tuple[int, str, str] | None = None
    for option in _options(path, spec, shapes, given):
        try:
            with torch.device("meta"):
                module = spec.build(option)
                fusion = tuple(module.state_dict().get("weighted_fusion.weight", torch.empty(0)).shape)
                if missing:
                    assert isinstance(module, MultimodalSystem)
                    module.keep([name for name in spec.modalities if name not in missing])
        except RuntimeError:  # sizes that not even a tensor without memory can have
            continue
        wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        if missing and shapes.get("weighted_fusion.weight") == fusion:
            wanted["weighted_fusion.weight"] = fusion  # its columns of what is missing are left out later
        count, problems = _compare(wanted, shapes)
        if not count:
            return option, module
        if best is None or count < best[0]:
            best = (count, problems, option.form)
    if best is None:
        raise BadDataError(f"{path}: no {spec.name} can have tensors of these sizes")
    hint = "mmx systems lists the systems; a config in the file says what shapes do not show, such as heads"
    if given:
        hint = (
            "the sizes are those that its config says (what it leaves out is as published): correct it, or leave it out"
        )
    raise BadDataError(f"{path} does not fit {spec.name} ({best[2]} form): {best[1]}", hint)


def _options(path: Path, spec: System, shapes: Shapes, given: Sequence[Any]) -> Iterator[Any]:
    """The candidates, with what was given written over each."""
    tried = []
    for option in candidates(spec, shapes):
        for config in given:
            try:
                option = from_dict(type(option), config, option)
            except BadDataError as e:
                raise BadDataError(f"{path}: {e.message}", e.hint) from e
        for form in forms_of(option) if given else [option]:
            if form not in tried:
                tried.append(form)
                yield form


def _compare(wanted: Shapes, found: Shapes) -> tuple[int, str]:
    """How many tensors do not fit, and which: missing, unexpected, misshapen."""
    missing = [name for name in wanted if name not in found]
    unexpected = [name for name in found if name not in wanted]
    misshapen = [name for name in wanted if name in found and found[name] != wanted[name]]
    parts = [
        f"{len(names)} {what} ({_listed(_quoted(names))})"
        for what, names in (("missing", missing), ("unexpected", unexpected))
        if names
    ]
    if misshapen:
        shapes = [f"{n} is {list(found[n])} and must be {list(wanted[n])}" for n in misshapen]
        parts.append(f"{len(misshapen)} misshapen ({_listed(shapes)})")
    return len(missing) + len(unexpected) + len(misshapen), "; ".join(parts)


def _quoted(names: Iterable[str]) -> list[str]:
    """Names fit for one line of output, whatever characters a file put in them."""
    return [name if name.isprintable() and len(name) < 100 else ascii(name)[:100] for name in names]


def _listed(items: Sequence[str]) -> str:
    more = len(items) - _LISTED
    return ", ".join(items[:_LISTED]) + (f", and {more} more" if more > 0 else "")
