"""The exact chance of each emotion of the synthetic utterances on disk, from what they say, show and sound like."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmx.datasets.dataset import SYNTHETIC_MARKER
from mmx.runtime.errors import BadDataError
from mmx.training.synthetic.ideal import FIDELITY
from mmx.training.synthetic.sentences import EMOTIONS, WORDS, cue_chances
from mmx.training.synthetic.writer import random_of, say_and_show

Floats = NDArray[np.float64]


class Posteriors:
    """The exact posteriors of utterances of a set that ``mmx synth`` made.

    What a face shows and a voice expresses is drawn again from the set's seed; a network only sees the drawing and
    hears the synthesis of it, so the posterior of faces and sound is that of an ideal observer.

    Args:
        root: of the set. names: ``synth0003_00012``... emotions: of each.

    Raises:
        BadDataError: the set does not say what it was drawn from.
    """

    def __init__(self, root: Path, names: Sequence[str], emotions: Sequence[str]) -> None:
        try:
            seed = int(json.loads((root / SYNTHETIC_MARKER).read_text(encoding="utf-8"))["seed"])
            numbers = [int(name.rpartition("_")[2]) for name in names]
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise BadDataError(f"{root} does not say which seed it was drawn from", "mmx synth makes it again") from e
        chances = cue_chances()
        count = len(EMOTIONS)
        rows: dict[str, list[Floats]] = {"text": [], "visual": [], "audio": []}
        for number, emotion in zip(numbers, emotions, strict=True):
            shown, voiced, text = say_and_show(emotion, random_of(seed, number))
            cues = [word for word in text.lower().rstrip(".").split(", ") if word in WORDS]
            rows["text"].append(np.prod([chances[:, WORDS.index(word)] for word in cues], axis=0))
            for modality, expressed in (("visual", shown), ("audio", voiced)):
                right = FIDELITY[modality]
                row = np.full(count, (1 - right) / (count - 1))
                row[EMOTIONS.index(expressed)] = right
                rows[modality].append(row)
        self._likelihoods = {modality: np.array(each) for modality, each in rows.items()}

    def of(self, modalities: Collection[str], labels: Sequence[str] = EMOTIONS) -> Floats:
        """The posterior [utterances, labels] for an observer of these modalities."""
        likelihood = np.prod([self._likelihoods[modality] for modality in modalities], axis=0)
        posterior = likelihood / likelihood.sum(axis=1, keepdims=True)
        return np.asarray(posterior[:, [EMOTIONS.index(label) for label in labels]])


def divergence(exact: Floats, probabilities: Floats) -> float:
    """The mean Kullback-Leibler distance of each label's probability from the exact one, in nats; [samples, labels]."""
    q, p = np.clip(exact, 1e-12, 1 - 1e-12), np.clip(probabilities, 1e-12, 1 - 1e-12)
    return float(np.mean(q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))))
