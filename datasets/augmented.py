"""Training samples with the faults that recordings have in use, drawn anew each epoch (``corruptions``).

Sound is harmed before its mel, words before their tokens; faces as crops, since looking for them again in every epoch
would take longer than training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mmx.datasets.corruptions import BABBLERS, Corruption, parse_corruptions
from mmx.datasets.samples import Utterances
from mmx.runtime.media.mel import mel_pieces
from mmx.runtime.types import MODALITIES, Sample

FLIP = "flip"


@dataclass(frozen=True)
class Augmentation:
    """What may be done to a sample.

    ``faults``: of which each modality suffers one, drawn evenly from its own, with the chance ``share``.
    ``flips``: whether all faces of an utterance are mirrored, half of the time.
    """

    faults: tuple[Corruption, ...]
    flips: bool
    share: float

    @classmethod
    def parse(cls, text: str, share: float) -> Augmentation:
        """``noise:10,blur,flip``: as ``parse_corruptions``, with ``flip``, which ``all`` includes.

        Raises:
            UsageError: it is not written so.
        """
        names = [part.strip() for part in text.split(",") if part.strip()]
        faults = [name for name in names if name != FLIP]
        flips = FLIP in names or "all" in names
        return cls(parse_corruptions(",".join(faults)) if faults or not flips else (), flips, share)


class Augmented:
    """``Utterances`` that are augmented; what is drawn depends on the seed, the epoch and the utterance's place."""

    def __init__(self, clean: Utterances, augmentation: Augmentation, seed: int, modalities: Sequence[str]) -> None:
        self._clean, self._what, self._seed = clean, augmentation, seed
        self._faults = {
            name: [fault for fault in augmentation.faults if fault.modality == name and name in modalities]
            for name in MODALITIES
        }

    def sample(self, index: int, epoch: int) -> Sample:
        """An utterance as this epoch hears, sees and reads it."""
        random = np.random.default_rng([self._seed, epoch, index])
        sample = self._clean[index]
        for name in MODALITIES:
            faults = self._faults[name]
            if faults and random.random() < self._what.share:
                sample = self._harmed(sample, index, faults[int(random.integers(len(faults)))], random)
        if self._what.flips and random.random() < 0.5:
            sample = replace(sample, faces=np.ascontiguousarray(sample.faces[..., ::-1]))
        return sample

    def _harmed(self, sample: Sample, index: int, fault: Corruption, random: np.random.Generator) -> Sample:
        clean = self._clean
        if fault.modality == "visual":
            crops = fault.frames(sample.faces.transpose(0, 2, 3, 1))
            return replace(sample, faces=np.ascontiguousarray(crops.transpose(0, 3, 1, 2)))
        if fault.modality == "text":
            if clean.tokenizer is None:
                return sample
            words = fault.words(clean.items[index].text, self._words, random)
            return replace(sample, token_ids=clean.tokenizer.encode(words)[0])
        sound, rate = clean.sound(index)
        if not len(sound):
            return sample
        others = []
        if fault.name == "babble":
            others = [
                clean.sound(int(place))[0] for place in random.permutation(len(clean))[: BABBLERS + 1] if place != index
            ]
        return replace(sample, pieces=mel_pieces(fault.sound(sound, rate, random, others), clean.spec.mel, rate))

    @cached_property
    def _words(self) -> list[str]:
        """The words of the data set, each as often as it is said."""
        return [word for item in self._clean.items for word in item.text.split()]


def balanced(targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """How likely each sample [samples] should be drawn so that labels are about equally frequent; sums to 1.

    A sample weighs the mean over its labels of one over the label's frequency; samples without a label are a class of
    their own. With one label each, all labels are exactly equally likely.
    """
    none = (targets.sum(axis=1, keepdims=True) == 0).astype(np.int64)
    classes = np.concatenate([targets, none], axis=1)
    rarity = classes / np.maximum(classes.sum(axis=0), 1)
    weight = rarity.sum(axis=1) / classes.sum(axis=1)
    return np.asarray(weight / weight.sum(), np.float64)
