"""How to train: the paper's recipe as defaults, and one for the tiny preset."""

from __future__ import annotations

from dataclasses import dataclass

from mmx.runtime.errors import UsageError
from mmx.runtime.types import MODALITIES


@dataclass(frozen=True)
class Recipe:
    """The numbers of a training. Defaults: the paper's, section 4 (its text does not give the patience).

    Attributes:
        learning_rate: Adam's. text_factor: what ALBERT's is multiplied with.
        batch_size, epochs: the paper's. patience: epochs without a better validation F1 before it ends.
        modality_loss: weight of each modality's own loss beside the fused one (0: the fused alone, as published).
        modalities: those that take part; the others' fusion weights are 0 and stay so.
        seed: of the weights and of the order of the samples.
        mixed: bfloat16 where it saves time without a loss scale; weights and sums stay FP32.
        balanced: draw samples, with repetition, so that labels are about equally frequent; else each once an epoch.
        augment: faults to train with, as ``datasets.augmented.Augmentation.parse`` reads them ("": none), and the share
            of the samples (of each modality) that get one.
    """

    learning_rate: float = 4.5e-6
    text_factor: float = 0.1
    batch_size: int = 8
    epochs: int = 30
    patience: int = 5
    modality_loss: float = 0.0
    modalities: tuple[str, ...] = MODALITIES
    seed: int = 0
    mixed: bool = False
    balanced: bool = False
    augment: str = ""
    augment_share: float = 0.5

    def __post_init__(self) -> None:
        if not (self.learning_rate > 0 and self.text_factor >= 0 and self.modality_loss >= 0):
            raise UsageError("learning rate, text factor and modality loss must not be negative")
        if min(self.batch_size, self.epochs, self.patience) < 1:
            raise UsageError("batch size, epochs and patience must be 1 or more")
        if not 0 < self.augment_share <= 1:
            raise UsageError("the share that is augmented is over 0 and at most 1")
        if not self.modalities or any(name not in MODALITIES for name in self.modalities):
            raise UsageError(f"modalities are {', '.join(MODALITIES)}", "name one or more of them")


TINY = Recipe(learning_rate=3e-3, text_factor=1.0, batch_size=16, epochs=15, patience=5, modality_loss=0.3)
"""For narrow systems that start from nothing: faster, and each modality is taught by itself as well."""


def recipe_for(preset: str) -> Recipe:
    """The recipe that goes with a system's preset."""
    return TINY if preset.startswith("tiny") else Recipe()
