"""Why voice alone learns little on the synthetic set: the rate, the mel's range, the trunk, or its first weights.

    python studies/voice.py raw-1e-3 log-1e-3 ...      (some of ``RUNS``)

840 utterances of 168 speakers to train on, 180 of 36 others each to validate and to test; sound alone, ``tiny``. What
was found: docs/training.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from mmx.evaluation.scores import scorecard
from mmx.models.multimodal import MultimodalSystem
from mmx.models.registry import get_system
from mmx.runtime.manifest import MelSpec
from mmx.runtime.media.mel import mel_pieces
from mmx.runtime.packing import FACE_SHAPE
from mmx.runtime.types import Sample
from mmx.training.recipe import TINY
from mmx.training.synthetic.emotions import PROSODIES
from mmx.training.synthetic.ideal import expressed
from mmx.training.synthetic.sentences import compose
from mmx.training.synthetic.voice import Voice, speak
from mmx.training.synthetic.writer import EMOTIONS, VOICE_SPREAD
from mmx.training.trainer import Trainer, predict

UTTERANCES, SPEAKERS = 1200, 240
ENDS = {"train": 168, "valid": 204, "test": 240}  # speakers


@dataclass(frozen=True)
class Run:
    """``rate``: Adam's. ``scale``: what is done to the mel's power. ``trunc``: FocalNet's authors' first weights."""

    rate: float
    epochs: int
    scale: Callable[[Tensor], Tensor] | None = None
    trunc: bool = False
    system: str = "ours"


def log_power(power: Tensor) -> Tensor:
    """Seven decades of power as about -2 to 3."""
    return (torch.log10(power + 1e-6) + 2) / 2


RUNS = {
    "raw-3e-3": Run(3e-3, 4),
    "log-3e-3": Run(3e-3, 4, log_power),
    "trunc-3e-3": Run(3e-3, 4, trunc=True),
    "raw-1e-3": Run(1e-3, 8),
    "log-1e-3": Run(1e-3, 8, log_power),
    "vgg-1e-3": Run(1e-3, 5, system="fe2e"),
}


class Voices:
    """What ``Utterances`` offers, of drawn voices alone."""

    def __init__(self, split: str) -> None:
        first = {"train": 0, "valid": ENDS["train"], "test": ENDS["valid"]}[split]
        speakers = np.arange(UTTERANCES) % SPEAKERS
        self._places = np.flatnonzero((speakers >= first) & (speakers < ENDS[split]))
        emotions = np.random.default_rng([0, 0]).permutation(np.arange(UTTERANCES) % len(EMOTIONS))
        self._emotions = emotions[self._places]
        self.targets = np.eye(len(EMOTIONS), dtype=np.int64)[self._emotions]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]

    def digest(self) -> str:
        """A name for what is drawn."""
        return f"voices {len(self)}"

    @cached_property
    def _samples(self) -> Sequence[Sample]:
        return [_sample(int(place), EMOTIONS[e]) for place, e in zip(self._places, self._emotions, strict=True)]


def _sample(place: int, emotion: str) -> Sample:
    speaker, random = np.random.default_rng([0, 1, place % SPEAKERS]), np.random.default_rng([0, 3, place])
    speaker.random(50)  # so that voices are as they were when it was measured
    voice, voiced = Voice.drawn(speaker), expressed(emotion, "audio", random)
    text = compose(emotion, random)
    sound = speak(text, voice, PROSODIES[voiced].moved(random, VOICE_SPREAD), random)
    whole = np.rint(sound * 32767).astype(np.float32) / np.float32(32768)
    return Sample(np.array([2, 3]), np.empty((0, *FACE_SHAPE), np.float32), mel_pieces(whole, MelSpec()))


def train(name: str, train_set: Voices, valid: Voices, test: Voices) -> None:
    """One run; prints each epoch and the scores of the best one on the test split."""
    run = RUNS[name]
    torch.manual_seed(0)
    spec = get_system(run.system)
    module = cast(MultimodalSystem, spec.build(spec.config(preset="tiny")))
    nn.init.constant_(module.weighted_fusion.weight, 1 / 3)
    if run.trunc:
        for part in (part for part in module.A.modules() if isinstance(part, nn.Linear)):
            nn.init.trunc_normal_(part.weight, std=0.02)
            nn.init.zeros_(part.bias)
    if run.scale is not None:
        scale, whole = run.scale, module.audio_input
        module.audio_input = lambda pieces: whole(scale(pieces))  # type: ignore[method-assign]
    recipe = replace(TINY, learning_rate=run.rate, epochs=run.epochs, modalities=("audio",), patience=run.epochs)
    trainer = Trainer(module, recipe, train_set, valid)  # type: ignore[arg-type]
    for epoch in trainer.run():
        print(f"{name:12} epoch {epoch.number}  loss {epoch.loss:.3f}  validation F1 {epoch.f1:.3f}", flush=True)
    module.load_state_dict(trainer.best)
    logits = predict(module, test, ("audio",))["logits"]  # type: ignore[arg-type]
    card = scorecard(logits, test.targets, trainer.best_thresholds, EMOTIONS)
    first = (logits.argmax(1) == test.targets.argmax(1)).mean()
    print(f"{name:12} test: F1 {card.mean('f1'):.3f}, AUC {card.mean('auc'):.3f}, most probable right {first:.3f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    splits = [Voices(split) for split in ENDS]
    for each in sys.argv[1:] or RUNS:
        train(each, *splits)
