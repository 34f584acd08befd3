"""A data set's utterances with one fault at one severity: only what the fault harms is read and made again."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mmx.datasets.corruptions import BABBLERS, Corruption
from mmx.datasets.reading import faces_of, read_media
from mmx.datasets.samples import Utterances
from mmx.runtime.media.mel import mel_pieces
from mmx.runtime.types import Sample


class Corrupted:
    """``Utterances`` with a fault. What is drawn depends on the seed and the utterance's place alone.

    Frames are harmed before faces are looked for, so that faces are lost as they would be; sound before its mel.
    """

    def __init__(self, clean: Utterances, corruption: Corruption, seed: int = 0) -> None:
        self._clean, self._corruption, self._seed = clean, corruption, seed
        self.targets = clean.targets

    def __len__(self) -> int:
        return len(self._clean)

    def __getitem__(self, index: int) -> Sample:
        clean, fault, random = self._clean, self._corruption, np.random.default_rng([self._seed, index])
        item, sample = clean.items[index], clean[index]
        if fault.modality == "text":
            if clean.tokenizer is None:
                return sample
            return replace(sample, token_ids=clean.tokenizer.encode(fault.words(item.text, self._words, random))[0])
        media = read_media(item, clean.spec)
        if fault.modality == "visual":
            frames = [fault.frames(frame) for frame in media.frames]
            return replace(sample, faces=faces_of(frames, clean.spec, clean.detector))
        others = self._others(index, random) if fault.name == "babble" else []
        sound = fault.sound(media.sound, media.rate, random, others)
        return replace(sample, pieces=mel_pieces(sound, clean.spec.mel, media.rate))

    @cached_property
    def _words(self) -> list[str]:
        """The words of the data set, each as often as it is said."""
        return [word for item in self._clean.items for word in item.text.split()]

    def _others(self, index: int, random: np.random.Generator) -> list[NDArray[np.float32]]:
        """The sound of other utterances."""
        places = [place for place in range(len(self)) if place != index]
        chosen: list[int] = random.permutation(places)[:BABBLERS].tolist()
        return [read_media(self._clean.items[place], self._clean.spec).sound for place in chosen]
