"""The training loop: BCE on the fused logits, Adam, early stopping on validation F1; it can be killed and resumed.

torch alone: a trainer library would not save code here, because batches are ragged and the state must be one file
that is read back without unpickling objects.
"""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmx.datasets.augmented import Augmentation, Augmented, balanced
from mmx.datasets.samples import Utterances
from mmx.evaluation.scores import choose_thresholds, scorecard
from mmx.models.multimodal import MultimodalSystem
from mmx.runtime.errors import BadDataError, UsageError
from mmx.runtime.files import write_bytes
from mmx.runtime.packing import pack, split
from mmx.runtime.types import MODALITIES, Sample
from mmx.training.parallel import ALONE, Group
from mmx.training.recipe import Recipe

STATE_VERSION = 1
SAVE_EVERY = 200  # steps: full-size epochs take an hour on a CPU


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to: mean training loss; mean validation F1 and accuracy at thresholds chosen there."""

    number: int
    loss: float
    f1: float
    accuracy: float
    best: bool


class Trainer:
    """A system under training, and everything that its future depends on.

    Args:
        module: fresh or initialised; it is moved to ``device`` and trained in place.
        train, valid: the splits. device: a torch device. save_every: steps between states inside an epoch.
        group: the processes that train together; each has a trainer like this one.

    Attributes: ``best``: a copy of the module's state at its best epoch, with ``best_thresholds``; ``history``.
    """

    def __init__(
        self,
        module: MultimodalSystem,
        recipe: Recipe,
        train: Utterances,
        valid: Utterances,
        device: str = "cpu",
        save_every: int = SAVE_EVERY,
        group: Group = ALONE,
    ) -> None:
        self.module = module.to(device)
        self.recipe, self.train, self.valid, self.device = recipe, train, valid, torch.device(device)
        self._save_every, self._group = save_every, group
        self._run = group.over(self.module)
        what = Augmentation.parse(recipe.augment, recipe.augment_share) if recipe.augment else None
        self._augmented = Augmented(train, what, recipe.seed, recipe.modalities) if what else None
        self._chances = torch.from_numpy(balanced(train.targets)) if recipe.balanced else None
        self._chosen = torch.tensor([name in recipe.modalities for name in MODALITIES], device=device)
        text = [value for name, value in module.named_parameters() if name.startswith("T.")]
        rest = [value for name, value in module.named_parameters() if not name.startswith("T.")]
        rate = recipe.learning_rate
        groups = [{"params": text, "lr": rate * recipe.text_factor}, {"params": rest, "lr": rate}]
        self.optimizer = torch.optim.Adam(groups, lr=rate)
        positives = train.targets.sum(axis=0)
        if self._chances is not None:  # as many as there will be in an epoch
            positives = len(train) * self._chances.numpy() @ train.targets
        weight = (len(train) - positives) / np.maximum(positives, 1)
        self._loss = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(weight, dtype=torch.float32, device=device))
        self.history: list[Epoch] = []
        self.best: dict[str, Tensor] = {}
        self.best_thresholds: tuple[float, ...] = ()
        self._epoch = self._step = 0
        self._total = 0.0

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or validation F1 has not risen for as long as the recipe waits."""
        if self._epoch >= self.recipe.epochs:
            return True
        best = max((epoch.number for epoch in self.history if epoch.best), default=0)
        return self._epoch - best >= self.recipe.patience

    def run(
        self, save: Callable[[], None] = lambda: None, step: Callable[[int, int], None] | None = None
    ) -> Iterator[Epoch]:
        """Train to the end, yielding each epoch once its validation is known.

        Args:
            save: called when the state should be kept, between steps and after each epoch.
            step: called with the samples done and all samples of the epoch.
        """
        while not self.finished:
            order = self._order()
            batches = [order[i : i + self.recipe.batch_size] for i in range(0, len(order), self.recipe.batch_size)]
            while self._step < len(batches):
                batch = batches[self._step]
                self._total += self._learn(batch) * len(batch)
                self._step += 1
                if self._step % self._save_every == 0:
                    save()
                if step:
                    step(min(self._step * self.recipe.batch_size, len(order)), len(order))
            yield self._validate(self._total / len(order), save)

    def _order(self) -> list[int]:
        """The samples of this epoch."""
        if self._chances is None:
            order = torch.randperm(len(self.train), generator=self._generator())
        else:
            order = torch.multinomial(self._chances, len(self.train), replacement=True, generator=self._generator())
        return [int(place) for place in order]

    def _sample(self, index: int) -> Sample:
        made = self.train[index] if self._augmented is None else self._augmented.sample(index, self._epoch)
        return only(made, self.recipe.modalities)

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(1_000_003 * self.recipe.seed + self._epoch)

    def _learn(self, batch: Sequence[int]) -> float:
        """One step; returns the loss."""
        self._run.train()
        batch, part = self._group.share(batch)
        target = torch.from_numpy(self.train.targets[batch]).to(self.device, torch.float32)
        mixed = torch.autocast(self.device.type, torch.bfloat16) if self.recipe.mixed else nullcontext()
        with mixed:
            samples = [self._sample(i) for i in batch]
            fused, *each = self._run(**tensors(samples, self.device))
        loss = self._loss(fused.float(), target)
        if self.recipe.modality_loss:
            own = [self._loss(logits.float(), target) for logits, on in zip(each, self._chosen, strict=True) if on]
            loss = loss + self.recipe.modality_loss * torch.stack(own).sum()
        loss = loss * part
        mean = float(self._group.mean(loss.detach()))
        if not math.isfinite(mean):
            raise BadDataError(f"the loss is {mean} in epoch {self._epoch + 1}", "lower the learning rate")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self._hold_fusion()
        return mean

    def _hold_fusion(self) -> None:
        """Keep the modalities that take no part out of the fused logits."""
        with torch.no_grad():
            self.module.weighted_fusion.weight.mul_(self._chosen)

    def _validate(self, loss: float, save: Callable[[], None]) -> Epoch:
        self._group.agree(self.module)
        mine = range(self._group.rank, len(self.valid), self._group.size)
        logits = predict(self.module, self.valid, self.recipe.modalities, mine)["logits"]
        logits = self._group.gather(logits, len(self.valid))
        thresholds = choose_thresholds(logits, self.valid.targets)
        card = scorecard(logits, self.valid.targets, thresholds, range_names(logits))
        f1 = card.mean("f1")
        best = f1 > max((epoch.f1 for epoch in self.history), default=-1.0)
        if best:
            self.best = copy.deepcopy({name: value.cpu() for name, value in self.module.state_dict().items()})
            self.best_thresholds = thresholds
        self._epoch, self._step, self._total = self._epoch + 1, 0, 0.0
        epoch = Epoch(self._epoch, loss, f1, card.mean("accuracy"), best)
        self.history.append(epoch)
        save()
        return epoch

    def save(self, path: Path, about: dict[str, Any]) -> None:
        """Write the state; the file is whole or not there. ``about``: plain data that must be the same to resume."""
        content = {
            "version": STATE_VERSION,
            "about": about,
            "recipe": asdict(self.recipe),
            "data": self.train.digest() + self.valid.digest(),
            "epoch": self._epoch,
            "step": self._step,
            "total": self._total,
            "history": [asdict(epoch) for epoch in self.history],
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "best_thresholds": list(self.best_thresholds),
            "random": torch.get_rng_state(),
        }
        data = io.BytesIO()
        torch.save(content, data)
        write_bytes(path, data.getbuffer())

    def load(self, path: Path, about: dict[str, Any]) -> None:
        """Go on where the state at ``path`` stopped.

        Raises:
            UsageError: it is the state of another training; says in what it differs. BadDataError: it is no state.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            if state["version"] != STATE_VERSION:
                raise BadDataError(f"{path} was written by another mmx", "start again without --resume")
            same = {"recipe": asdict(self.recipe), "data": self.train.digest() + self.valid.digest(), **about}
            found = {"recipe": state["recipe"], "data": state["data"], **state["about"]}
            for name, value in same.items():
                if _plain(found.get(name)) != _plain(value):
                    raise UsageError(
                        f"{path} belongs to a training with another {name}{_differing(found.get(name), value)}",
                        "start again with another --out",
                    )
            self.module.load_state_dict(state["module"])
            self.optimizer.load_state_dict(state["optimizer"])
            self._epoch, self._step, self._total = state["epoch"], state["step"], state["total"]
            self.history = [Epoch(**epoch) for epoch in state["history"]]
            self.best, self.best_thresholds = state["best"], tuple(state["best_thresholds"])
            torch.set_rng_state(state["random"])
            if self._group.size > 1:  # the state is the first process's
                torch.manual_seed(1_000_003 * self.recipe.seed + 1000 * self._epoch + self._step + self._group.rank)
        except (BadDataError, UsageError):
            raise
        except Exception as e:  # a damaged file fails in whatever way its bytes lead to
            raise BadDataError(f"{path} is no training state: {e}", "start again without --resume") from e


def range_names(logits: NDArray[np.float32]) -> list[str]:
    """Stand-ins for label names where only means are wanted."""
    return [str(i) for i in range(logits.shape[1])]


def _differing(theirs: Any, ours: Any) -> str:
    """The entries in which two dictionaries differ, for an error; nothing for other values."""
    if not (isinstance(theirs, dict) and isinstance(ours, dict)):
        return ""
    differing = [key for key, value in ours.items() if _plain(theirs.get(key)) != _plain(value)]
    said = [f"{key} {theirs.get(key)}, not {ours[key]}" for key in differing]
    return f" ({'; '.join(said)})"


def _plain(value: Any) -> Any:
    """Tuples as lists, as they come back from a file."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def tensors(samples: Sequence[Sample], device: torch.device) -> dict[str, Tensor]:
    """Samples packed as the graph's inputs, on ``device``."""
    return {name: torch.from_numpy(array).to(device) for name, array in pack(samples).inputs.items()}


def only(sample: Sample, modalities: Sequence[str]) -> Sample:
    """The sample without the modalities that take no part: their towers then have nothing to compute."""
    return Sample(
        token_ids=sample.token_ids if "text" in modalities else None,
        faces=sample.faces if "visual" in modalities else sample.faces[:0],
        pieces=sample.pieces if "audio" in modalities else sample.pieces[:0],
    )


def predict(
    module: nn.Module,
    utterances: Utterances,
    modalities: Sequence[str] = MODALITIES,
    places: Sequence[int] | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Logits float32 [utterances, labels], fused and by modality (``logits``, ``logits_text``...), in eval mode.

    The fused logits are those of the graph: a sum over all modalities, also those that a sample has not.
    ``places``: these utterances alone.
    """
    module.eval()
    chosen = range(len(utterances)) if places is None else places
    device = next(module.parameters()).device
    rows: list[list[NDArray[np.float32]]] = []
    with torch.no_grad():
        for group in split(only(utterances[i], modalities) for i in chosen):
            rows.append([output.cpu().numpy() for output in module(**tensors(group, device))])
    names = ("logits", *(f"logits_{modality}" for modality in MODALITIES))
    return {name: np.concatenate(parts) for name, parts in zip(names, zip(*rows, strict=True), strict=True)}
