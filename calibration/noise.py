"""Utterances of noise as long, as ragged and as loud as real ones: for weights that nobody trained.

They serve speed and error alone. Nothing is decoded, no face is searched, and everything follows from a seed.
"""

from __future__ import annotations

import hashlib

import numpy as np

from mmx.export.durations import duration_at
from mmx.export.precision.samples import utterances_of
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
        duration = duration_at(self._manifest.dataset, (index + 0.5) * 100 / self._count)
        return utterances_of(self._manifest, [duration], random)[0]

    def digest(self) -> str:
        """SHA-256 of what the samples follow from."""
        what = f"noise {self._manifest.dataset} {self._manifest.preprocessing} {self._count} {self._seed}"
        return hashlib.sha256(what.encode()).hexdigest()
