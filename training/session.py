"""One training from a data set to a checkpoint folder: everything around the loop.

OUT/ckpt.pt          the best epoch so far, with its config, labels and the thresholds chosen on validation
OUT/spiece.model     the tokenizer it was trained with; mmx export finds it there
OUT/training.json    recipe, data, versions, and what each epoch came to
OUT/training.pt      the state that --resume goes on from
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from mmx.datasets.dataset import DataSet
from mmx.datasets.samples import Utterances
from mmx.datasets.tokenizer import train_tokenizer
from mmx.evaluation.scores import undecided
from mmx.export.assets import find_tokenizer
from mmx.export.face_nets import face_nets
from mmx.models.checkpoint import save_checkpoint
from mmx.models.config import FORMS, MultimodalConfig, to_dict
from mmx.models.multimodal import MultimodalSystem
from mmx.models.read_tensors import read_checkpoint_file
from mmx.models.registry import get_system
from mmx.runtime.errors import BadDataError, EnvironmentMissing, UsageError
from mmx.runtime.files import sha256_of, write_text
from mmx.runtime.manifest import Preprocessing
from mmx.runtime.media.text import Tokenizer
from mmx.training.parallel import Group, joined
from mmx.training.recipe import Recipe
from mmx.training.trainer import SAVE_EVERY, Epoch, Trainer

CHECKPOINT, STATE, RECORD = "ckpt.pt", "training.pt", "training.json"

Tick = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Plan:
    """What to train.

    Attributes:
        system, preset: of the registry. form: residual | reserved (rfam), None: the preset's own.
        tokenizer: a folder; None: beside ``init``, in the Hugging Face cache, else learned from the training texts.
        init: a checkpoint or state dict whose tensors of the same name and shape are taken over.
        device: cpu, cuda, or auto (a GPU where there is one). save_every: steps between states inside an epoch.
        compat: default, or upstream (the data set is read as the public loader reads it).
    """

    system: str = "ours"
    preset: str = "full"
    form: str | None = None
    tokenizer: Path | None = None
    init: Path | None = None
    device: str = "auto"
    save_every: int = SAVE_EVERY
    compat: str = "default"

    def config(self) -> MultimodalConfig:
        """The config of the system to train.

        Raises:
            UsageError: no such system, preset or form, or one that does not take media or cannot be trained.
        """
        spec = get_system(self.system)
        if spec.inputs != "media":
            raise UsageError(
                f"{self.system} takes extracted features, which this data set does not hold", "mmx systems"
            )
        config: MultimodalConfig = spec.config(preset=self.preset)
        forms = [form for form in FORMS[config.visual.block] if form != "deployed"]
        form = self.form or (config.visual.form if config.visual.form in forms else None)
        if form not in forms:
            raise UsageError(f"{self.system} is not trained in the form {form or config.visual.form!r}", f"use {forms}")
        return replace(config, visual=replace(config.visual, form=cast(Any, form)))


@dataclass(frozen=True)
class Trained:
    """What a training made: its checkpoint, epochs, and what the user should know."""

    checkpoint: Path
    history: tuple[Epoch, ...]
    notes: tuple[str, ...]


def train_system(
    data: DataSet,
    out: Path,
    plan: Plan,
    recipe: Recipe,
    *,
    resume: bool = False,
    cache: Path | None = None,
    tick: Tick | None = None,
    report: Callable[[Epoch], None] = lambda epoch: None,
) -> Trained:
    """Train a system on ``data`` and leave its checkpoint in ``out``.

    The same plan, recipe, data and machine give the same weights, also when the training is killed and resumed.

    Raises:
        UsageError: the plan makes no sense, ``out`` holds a training and ``resume`` is not set, or holds another one.
        BadDataError: the data set is damaged. EnvironmentMissing: no such device, or no face nets.
    """
    with joined(_device(plan.device)) as (group, device):
        return _train(data, out, plan, recipe, group, device, resume=resume, cache=cache, tick=tick, report=report)


def _train(
    data: DataSet,
    out: Path,
    plan: Plan,
    recipe: Recipe,
    group: Group,
    device: str,
    *,
    resume: bool,
    cache: Path | None,
    tick: Tick | None,
    report: Callable[[Epoch], None],
) -> Trained:
    """``train_system`` in one of the processes that train together; the first one writes."""
    config = replace(plan.config(), labels=len(data.labels))
    state = out / STATE
    if state.exists() and not resume:
        raise UsageError(f"{out} holds a training", "--resume goes on with it; --out names another folder")
    out.mkdir(parents=True, exist_ok=True)
    notes: list[str] = []
    splits = {}
    if not group.leads:
        group.wait()  # then the tokenizer is there, and the samples are in the cache
    texts = [item.text for item in data.items("train")]
    tokenizer = _tokenizer(out, plan, texts, config.text.vocabulary, notes, group.leads)
    nets = face_nets()
    for split in ("train", "valid"):
        splits[split] = Utterances(data.items(split), Preprocessing(compat=plan.compat), nets, tokenizer, cache=cache)
        notes += [f"{data.root} {why}" for why in splits[split].prepare(_part(tick, f"preparing {split}"))]
    if group.leads:
        group.wait()
    notes += filter(None, [undecided(splits["valid"].targets, data.labels)])
    with _deterministic(recipe.seed):
        module = cast(MultimodalSystem, get_system(plan.system).build(config))
        notes += _initialise(module, plan.init)
        trainer = Trainer(module, recipe, splits["train"], splits["valid"], device, plan.save_every, group)
        if group.size > 1:
            torch.manual_seed(recipe.seed + group.rank)  # of what each process drops out
        about = {"system": plan.system, "config": to_dict(config), "tokenizer": sha256_of(_model_file(out))}
        about |= {} if plan.compat == "default" else {"compat": plan.compat}
        if state.exists():
            trainer.load(state, about)
            if group.leads:
                _catch_up(out, trainer, plan, config, data, about)
        save = (lambda: trainer.save(state, about)) if group.leads else (lambda: None)
        for epoch in trainer.run(save, _part(tick, "training")):
            if not group.leads:
                continue
            if epoch.best:
                _write_checkpoint(out / CHECKPOINT, module, trainer, plan, config, data)
            _write_record(out / RECORD, trainer, about, data)
            report(epoch)
    return Trained(out / CHECKPOINT, tuple(trainer.history), tuple(notes))


@contextmanager
def _deterministic(seed: int) -> Iterator[None]:
    """Seed torch and ask it for deterministic algorithms; puts the global choice back."""
    before = torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS is not deterministic
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _part(tick: Tick | None, what: str) -> Callable[[int, int], None] | None:
    if tick is None:
        return None
    say = tick
    return lambda done, total: say(what, done, total)


def _device(asked: str) -> str:
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if asked.startswith("cuda") and not torch.cuda.is_available():
        raise EnvironmentMissing("PyTorch finds no GPU", "--device cpu, or install a CUDA build of torch and a driver")
    return asked


def _model_file(folder: Path) -> Path:
    """The tokenizer that ``_tokenizer`` put there."""
    return next(path for name in ("spiece.model", "tokenizer.json") if (path := folder / name).is_file())


def _tokenizer(
    out: Path, plan: Plan, texts: list[str], vocabulary: int, notes: list[str], leads: bool = True
) -> Tokenizer:
    found = find_tokenizer(plan.init or out / CHECKPOINT, plan.tokenizer)
    if not leads:
        pass  # the first process has put it there
    elif found is None:
        train_tokenizer(texts, out)
        notes.append(f"no ALBERT tokenizer was found: a small one was learned from the {len(texts)} training texts")
    elif found.parent != out:
        shutil.copyfile(found, out / found.name)
    tokenizer = Tokenizer.load(out, Preprocessing().text)
    largest = max(int(tokenizer.encode(text)[0].max()) for text in texts)
    if largest >= vocabulary:
        raise UsageError(
            f"{_model_file(out)} has ids up to {largest}, the system {vocabulary} embeddings", "--tokenizer"
        )
    return tokenizer


def _initialise(module: MultimodalSystem, init: Path | None) -> list[str]:
    """Equal fusion weights; then what ``init`` holds. Returns notes for the user.

    A bare ALBERT (Hugging Face's names) is taken for the text tower's.
    """
    nn.init.constant_(module.weighted_fusion.weight, 1 / 3)
    if init is None:
        return []
    tensors, _, _ = read_checkpoint_file(init)
    state = module.state_dict()
    taken = {}
    for name, value in tensors.items():
        target = f"T.{name}" if f"T.{name}" in state else name
        if target in state and state[target].shape == value.shape:
            taken[target] = value.to(state[target].dtype)
    if not taken:
        raise BadDataError(f"{init} has no tensor that fits", "the names or the preset differ: mmx inspect it")
    module.load_state_dict({**state, **taken})
    return [f"{len(taken)} of {len(state)} tensors come from {init}; the rest is fresh"]


def _catch_up(
    out: Path, trainer: Trainer, plan: Plan, config: MultimodalConfig, data: DataSet, about: dict[str, Any]
) -> None:
    """Write what a kill after the state was saved has kept from being written."""
    if trainer.best:
        module = copy.deepcopy(trainer.module)
        module.load_state_dict(trainer.best)
        _write_checkpoint(out / CHECKPOINT, module, trainer, plan, config, data)
        _write_record(out / RECORD, trainer, about, data)


def _write_checkpoint(
    path: Path, module: nn.Module, trainer: Trainer, plan: Plan, config: MultimodalConfig, data: DataSet
) -> None:
    save_checkpoint(
        path,
        module,
        plan.system,
        config,
        dataset=data.name,
        labels=data.labels,
        thresholds=trainer.best_thresholds,
        compat=plan.compat,
    )


def _write_record(path: Path, trainer: Trainer, about: dict[str, Any], data: DataSet) -> None:
    content = {
        "schema_version": 1,
        "data": {"name": data.name, "layout": data.layout, "labels": data.labels},
        **about,
        "recipe": asdict(trainer.recipe),
        "thresholds": trainer.best_thresholds,
        "epochs": [asdict(epoch) for epoch in trainer.history],
        "versions": {package: version(package) for package in ("mmx", "torch", "numpy")},
    }
    write_text(path, json.dumps(content, indent=2) + "\n")
