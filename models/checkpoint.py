"""Checkpoints: from a file that may be anything to a system with its weights in, or one line that says why not."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmx.models.config import to_dict
from mmx.models.detect import untold
from mmx.models.fitting import find_system, fitting
from mmx.models.labels import DATASETS, labels_for
from mmx.models.network_tensors import Weights, network_tensors
from mmx.models.read_tensors import read_checkpoint_file
from mmx.models.registry import get_system
from mmx.runtime.errors import BadDataError, UsageError
from mmx.runtime.manifest import COMPATS

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that fits its system.

    Attributes:
        path: where it was read. sha256: of the file.
        system: registry name. form: of the visual trunk (training, deployed, residual, reserved), or training.
        config: what the module was built from, as plain data.
        dataset: iemocap, mosei, another name the file gives, or "unknown" (then the labels are label_1...).
        labels, thresholds: in the order of the logits; thresholds are 0.5 where the file has none.
        compat: which preprocessing it was trained with: default, or upstream (docs/prepare.md).
        module: eval mode, float32, weights in.
        notes: what was dropped, converted or assumed, one sentence each.
        assumptions: what neither the file nor its tensors show, by path in the config (``text.heads``), with the value
            that was assumed. Another value would give other answers from the same weights.
        untrained: whether the weights show no training: it has BatchNorms, and none has ever seen a batch.
    """

    path: Path
    system: str
    form: str
    config: dict[str, Any]
    dataset: str
    labels: tuple[str, ...]
    thresholds: tuple[float, ...]
    module: nn.Module
    sha256: str
    notes: tuple[str, ...] = ()
    assumptions: dict[str, Any] = field(default_factory=dict)
    compat: str = "default"
    untrained: bool = False


def load_checkpoint(
    path: Path | str,
    *,
    system: str | None = None,
    dataset: str | None = None,
    weights: Weights = "auto",
    described: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Read a checkpoint, detect its system and form, and load it strictly.

    Modalities of which the file has no tensor at all are left out of the module.

    Args:
        path: a bare state dict, or a dictionary with ``state_dict`` and any of ``config``, ``system``, ``dataset``,
            ``labels``, ``thresholds``, ``compat``; or a safetensors file (docs/checkpoints.md).
        system, dataset: what the file is, where it does not say or says it wrongly.
        weights: averaged (ema) or raw, where the file has both; auto: averaged.
        described: ``config``, ``labels`` and ``thresholds`` from elsewhere; they go before the file's own. A config may
            be partial: what it leaves out follows from the tensors, or from the file's own config.

    Raises:
        BadDataError: the file is no such checkpoint; the message lists what does not fit.
        UsageError: ``system`` is not in the registry; ``weights`` that the file does not have.
    """
    path = Path(path)
    network = network_tensors(path, read_checkpoint_file(path), weights)
    extra, notes = {**network.extra}, network.notes
    tensors = _without_unknown(network.tensors, notes)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    spec = find_system(path, shapes, system, extra.get("system"))
    configs = [extra.get("config") if extra.get("system") in (None, spec.name) else None]  # else it is another system's
    configs.append((described or {}).get("config"))
    config, module = fitting(path, spec, shapes, configs)
    kept = getattr(module, "modalities", spec.modalities)
    if absent := [name for name in spec.modalities if name not in kept]:
        _drop_fusion_weights(tensors, [spec.modalities.index(name) for name in kept], len(spec.modalities))
        notes.append(f"it has no weights of {' and '.join(absent)}: that modality is left out")
    assumptions = untold(to_dict(config), [given for given in configs if given is not None], tensors)
    if assumptions:
        listed = ", ".join(f"{name} = {value}" for name, value in assumptions.items())
        notes.append(f"assumed what neither the file nor its tensors say: {listed}; --model-config FILE says otherwise")
    module.load_state_dict(_values(path, tensors, module, notes), strict=True, assign=True)
    said = {**extra, **{k: v for k, v in (described or {}).items() if k in ("labels", "thresholds")}}
    asked = None if described and "labels" in described else dataset
    name, labels = _labels(path, asked, said, config.labels, notes)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Checkpoint(
        path=path,
        system=spec.name,
        form=config.form,
        config=to_dict(config),
        dataset=dataset or name,
        labels=labels,
        thresholds=_thresholds(path, said.get("thresholds"), config.labels),
        module=module.eval().requires_grad_(False),
        sha256=digest,
        notes=tuple(notes),
        compat=_compat(path, extra.get("compat")),
        assumptions=assumptions,
        untrained=_is_untrained(tensors),
    )


def _is_untrained(tensors: Mapping[str, Tensor]) -> bool:
    """Whether each BatchNorm still counts no batch; False where none counts."""
    counts = [tensor for name, tensor in tensors.items() if name.endswith(".num_batches_tracked")]
    return bool(counts) and not any(bool(count.any()) for count in counts)


def _drop_fusion_weights(tensors: dict[str, Tensor], kept: list[int], columns: int) -> None:
    """Keep these of the fusion's columns, where it still has all of them."""
    fusion = tensors.get("weighted_fusion.weight")
    if fusion is not None and fusion.shape == (1, columns):
        tensors["weighted_fusion.weight"] = fusion[:, kept]


def save_checkpoint(
    path: Path | str,
    module: nn.Module,
    system: str,
    config: Any,
    *,
    dataset: str | None = None,
    labels: Sequence[str] | None = None,
    thresholds: Sequence[float] | None = None,
    compat: str = "default",
) -> None:
    """Write a checkpoint that says what it is; the file appears whole or not at all.

    Args:
        config: a config object or plain data (``Checkpoint.config``).
    """
    path = Path(path)
    content: dict[str, Any] = {
        "system": system,
        "config": dict(config) if isinstance(config, Mapping) else to_dict(config),
        "dataset": dataset,
        "labels": None if labels is None else list(labels),
        "thresholds": None if thresholds is None else list(thresholds),
        "compat": None if compat == "default" else compat,
        "state_dict": module.state_dict(),
    }
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:  # given a path, torch.save writes its name into the file
            torch.save({key: value for key, value in content.items() if value is not None}, file)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def seeded_module(system: str, config: Any = None, seed: int = 0) -> nn.Module:
    """A system with seeded random weights: untrained, but with activations of a sensible size and no trivial BatchNorm.

    The weights depend on the seed and on the order of the parameters, not on threads.

    Returns:
        The module in eval mode.
    """
    with torch.device("meta"):
        module = get_system(system).build(config)
    generator = torch.Generator().manual_seed(seed)
    state = {name: _seeded(name, tensor, generator) for name, tensor in module.state_dict().items()}
    module.load_state_dict(state, strict=True, assign=True)
    return module.eval()


def _seeded(name: str, like: Tensor, generator: torch.Generator) -> Tensor:
    """He-normal kernels, unit-scale norms, small biases."""
    leaf, shape = name.rsplit(".", 1)[-1], tuple(like.shape)
    if not like.is_floating_point():
        return torch.zeros(shape, dtype=like.dtype)
    if leaf in ("version", "_float_tensor"):  # MulT's constants
        return torch.full(shape, 2.0 if leaf == "version" else 0.0)
    normal = torch.randn(shape, generator=generator)
    if leaf == "running_var":
        return 0.5 + torch.rand(shape, generator=generator)
    if leaf == "weight" and name == "weighted_fusion.weight":
        return 1 / 3 + 0.05 * normal
    if "bias" in leaf or leaf == "running_mean":
        return 0.05 * normal
    if like.ndim <= 1:
        return 0.25 * normal.abs() if "prelu" in name else 1 + 0.1 * normal
    if "emb" in name and "mapping" not in name:
        return 0.1 * normal if leaf == "pos_embed" else normal
    gain = 2.0 if like.ndim == 4 else 1.0
    if name.endswith(("modulation.proj.weight", "mlp.fc2.weight")):
        gain = 0.1  # what a block adds to its input; at 1, 24 blocks amplify float32's rounding a hundredfold
    return normal * (gain / (like.numel() / shape[0])) ** 0.5


def _without_unknown(tensors: dict[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    """Drop what public files hold beside the network, and say so."""
    detector = [name for name in tensors if name.startswith("mtcnn.")]
    if detector:
        notes.append(f"dropped {len(detector)} mtcnn.* tensors: the face detector runs before the graph")
    positions = [name for name in tensors if name.endswith("embeddings.position_ids")]
    if positions:
        notes.append(f"dropped {positions[0]}: a constant that older transformers versions saved")
    dropped = {*detector, *positions}
    return {name: tensor for name, tensor in tensors.items() if name not in dropped}


def _values(path: Path, tensors: dict[str, Tensor], module: nn.Module, notes: list[str]) -> dict[str, Tensor]:
    """The tensors in the module's dtypes, proved finite. Shapes are known to fit by now."""
    values: dict[str, Tensor] = {}
    converted: dict[str, int] = {}
    for name, like in module.state_dict().items():
        value = tensors[name]
        counts = name.endswith("num_batches_tracked") and value.dtype != like.dtype  # half the world saves v.half()
        if counts or name.endswith("_float_tensor"):  # nothing reads them; MulT saves memory that it never filled
            value = torch.zeros(value.shape, dtype=like.dtype)
        if value.dtype != like.dtype:
            if value.is_floating_point() != like.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
                raise BadDataError(
                    f"{path}: {name} is {value.dtype} and must be {like.dtype}", "save the weights again"
                )
            kind = str(value.dtype).removeprefix("torch.")
            converted[kind] = converted.get(kind, 0) + 1
            value = value.to(like.dtype)
        if value.is_floating_point() and (bad := int((~torch.isfinite(value)).sum())):
            raise BadDataError(f"{path}: {name} holds {bad} values that are NaN or infinite", "the training diverged")
        if name.endswith("running_var") and bool((value < 0).any()):
            raise BadDataError(f"{path}: {name} holds a negative variance", "the file is damaged")
        values[name] = value.contiguous()
    notes.extend(f"converted {count} tensors from {kind} to float32" for kind, count in converted.items())
    return values


def _labels(
    path: Path, asked: str | None, extra: Mapping[str, Any], count: int, notes: list[str]
) -> tuple[str, tuple[str, ...]]:
    """The data set's name and its labels: what was asked for, else what the file says, else what its name says."""
    name, given = asked or extra.get("dataset"), None if asked else extra.get("labels")
    if name is not None and (not isinstance(name, str) or not name.isprintable() or len(name) > 100):
        raise BadDataError(f"{path}: its dataset is {name!r:.80}, not a name")
    if given is not None:
        fits = isinstance(given, (list, tuple)) and len(given) == len({*map(str, given)}) == count
        if not fits or any(not isinstance(g, str) or not g.isprintable() or not 0 < len(g) <= 100 for g in given):
            raise BadDataError(f"{path}: its labels must be {count} different names")
        return name or UNKNOWN, tuple(given)
    if name is None:
        mentioned = [known for known in DATASETS if known in path.name.lower()]
        if len(mentioned) == 1:
            name = mentioned[0]
            notes.append(f"took {name}'s labels because of the file's name; --dataset says otherwise")
    if name is not None and (labels := labels_for(name, count)):
        return name, labels
    if asked:
        raise UsageError(f"no data set {asked!r:.80} with {count} labels is known", f"use one of {', '.join(DATASETS)}")
    notes.append(f"the file does not say what its {count} outputs are called; --dataset {'|'.join(DATASETS)} does")
    return name or UNKNOWN, tuple(f"label_{i + 1}" for i in range(count))


def _compat(path: Path, given: Any) -> str:
    if given not in (None, *COMPATS):
        raise BadDataError(f"{path}: its compat is {given!r:.80}", f"one of {', '.join(COMPATS)}")
    return given or "default"


def _thresholds(path: Path, given: Any, count: int) -> tuple[float, ...]:
    if given is None:
        return (0.5,) * count
    numbers = isinstance(given, (list, tuple)) and all(type(g) in (int, float) and 0 <= g <= 1 for g in given)
    if not numbers or len(given) != count:
        raise BadDataError(f"{path}: its thresholds must be {count} numbers from 0 to 1")
    return tuple(map(float, given))
