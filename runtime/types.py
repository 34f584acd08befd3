"""The values that flow through the runtime: Span -> Sample -> Batch -> Prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MODALITIES = ("text", "visual", "audio")


@dataclass(frozen=True)
class Span:
    """A stretch of a media file, in seconds from its start, and what is said in it (None: not known)."""

    start: float
    end: float
    text: str | None = None


@dataclass(frozen=True)
class Tracks:
    """Which video and audio track to read, from 0 as FFmpeg's ``0:v:N`` and ``0:a:N``; None: the default one."""

    video: int | None = None
    audio: int | None = None


DEFAULT_TRACKS = Tracks()


@dataclass(frozen=True)
class Sample:
    """One utterance as the network takes it. A modality that is not there is None or has no rows.

    Attributes:
        token_ids: int64 [tokens], with [CLS] and [SEP]; None without a transcript.
        faces: float32 [faces, 3, 48, 48], RGB, 0..255, in time order.
        pieces: float32 [pieces, 128, 32], raw-power mel pieces, in time order.
    """

    token_ids: NDArray[np.int64] | None
    faces: NDArray[np.float32]
    pieces: NDArray[np.float32]

    @property
    def modalities(self) -> frozenset[str]:
        """The modalities this sample really has."""
        present = {"text": self.token_ids is not None, "visual": len(self.faces) > 0, "audio": len(self.pieces) > 0}
        return frozenset(name for name, there in present.items() if there)


@dataclass(frozen=True)
class FeatureSample(Sample):
    """A sample for systems on extracted features: ``features`` float32 [rows, size] by modality, beside its media."""

    features: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Batch:
    """Packed samples: the graph's inputs by name (see ``runtime.packing``), and how many samples they hold."""

    inputs: dict[str, NDArray]
    size: int
