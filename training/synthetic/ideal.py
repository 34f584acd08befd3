"""How well anything can do on the synthetic set: exact Bayes accuracies, from the chances that it is drawn with.

The emotion is uniform over six. Words follow it directly (``sentences``). Face and voice express it with chance
``FIDELITY`` and otherwise one of the other five, each by itself: they are misleading together no more often than by
chance. What is expressed is taken as known, so the figures for face and voice (and all three) are upper
bounds: the drawing and the synthesis only add difficulty.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmx.training.synthetic.sentences import EMOTIONS, bags

FIDELITY = {"visual": 0.8, "audio": 0.75}


@dataclass(frozen=True)
class Ideal:
    """Share of utterances whose emotion an ideal observer of one modality, or of all three, names."""

    text: float
    visual: float
    audio: float
    all: float


def ideal() -> Ideal:
    """The exact figures; a sum over all bags of words and all expressions."""
    under, _ = bags()
    count = len(EMOTIONS)
    seen = {
        name: np.full((count, count), (1 - right) / (count - 1)) + np.eye(count) * (right - (1 - right) / (count - 1))
        for name, right in FIDELITY.items()
    }
    joint = np.einsum("be,ev,ea->bvae", under, seen["visual"], seen["audio"]) / count
    return Ideal(
        text=float((under / count).max(axis=1).sum()),
        visual=FIDELITY["visual"],
        audio=FIDELITY["audio"],
        all=float(joint.max(axis=3).sum()),
    )


def expressed(emotion: str, modality: str, random: np.random.Generator) -> str:
    """What a face or a voice shows of ``emotion``: mostly that."""
    if random.random() < FIDELITY[modality]:
        return emotion
    return str(random.choice([other for other in EMOTIONS if other != emotion]))
