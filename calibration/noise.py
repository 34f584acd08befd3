"""Utterances of noise as long, as ragged and as loud as real ones: for weights that nobody trained.

They serve speed and error alone. Nothing is decoded, no face is searched, and everything follows from a seed.
"""

from __future__ import annotations

import hashlib

import numpy as np

from mmx.export.durations import duration_at, sizes, text_size
from mmx.export.precision.samples import FIRST_WORD, mel_powers, pictures
from mmx.runtime.manifest import Manifest
from mmx.runtime.types import Sample


class Noise:
    """``count`` utterances whose durations are spread over the data set's, each made anew when it is asked for."""

    def __init__(self, manifest: Manifest, count: int, seed: int) -> None:
        self._manifest, self._count, self._seed = manifest, count, seed
        self.targets = None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self._count:
            raise IndexError(index)
        random = np.random.default_rng([self._seed, index])
        lengths = sizes(duration_at(self._manifest.dataset, (index + 0.5) * 100 / self._count), self._manifest)
        face, mel, text = (getattr(self._manifest.preprocessing, name) for name in ("faces", "mel", "text"))
        ids = random.integers(FIRST_WORD, text_size(self._manifest, "vocabulary", 30000), lengths.tokens)
        ids[0], ids[-1] = text.cls_id, text.sep_id
        return Sample(
            token_ids=ids,
            faces=pictures(lengths.faces, face.size, random),
            pieces=mel_powers(lengths.pieces, mel.n_mels, mel.columns, random),
        )

    def digest(self) -> str:
        """SHA-256 of what the samples follow from."""
        what = f"noise {self._manifest.dataset} {self._manifest.preprocessing} {self._count} {self._seed}"
        return hashlib.sha256(what.encode()).hexdigest()
