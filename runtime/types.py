"""The values that flow through the runtime: Span -> Sample -> Batch -> Prediction."""

from __future__ import annotations

from dataclasses import dataclass, field

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
class Batch:
    """Packed samples: the graph's inputs by name (see ``runtime.packing``), and how many samples they hold."""

    inputs: dict[str, NDArray]
    size: int


@dataclass(frozen=True)
class SeenFace:
    """A face in a frame at ``time`` (seconds); its box: left, top, right, bottom in fractions of the picture, 0..1."""

    time: float
    box: tuple[float, float, float, float]
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What the model says of one segment of one file.

    Attributes:
        file: path of the media file as the caller gave it.
        start, end: the segment, in seconds.
        probabilities: sigmoid of the fused logit, by label.
        labels: the labels whose probability is over their threshold, most probable first.
        logits: the fused logits, by label.
        modality_logits: logits of each modality that took part, by modality and label.
        contributions: fusion weight times logit, by modality and label; they sum to ``logits``.
        modalities: the modalities that took part in the fusion, in the system's order.
        left_out: why each of the others did not, by modality.
        faces_found, frames_seen: frames with a detected face, and frames looked at.
        faces: the largest face of each frame that has one, in time order.
        text: the transcript of the segment, if there was one.
        timings_ms: milliseconds by stage (decode, faces, mel, text, network).
        flags: quality flags, such as ``no_face`` or ``truncated_text``.
    """

    file: str
    start: float
    end: float
    probabilities: dict[str, float]
    labels: tuple[str, ...]
    logits: dict[str, float]
    modality_logits: dict[str, dict[str, float]]
    contributions: dict[str, dict[str, float]]
    modalities: tuple[str, ...]
    left_out: dict[str, str]
    faces_found: int
    frames_seen: int
    text: str | None
    timings_ms: dict[str, float] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    faces: tuple[SeenFace, ...] = ()
