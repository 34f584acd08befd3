"""A sample sent as tensors: what one may hold, and what no preprocessing makes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.manifest import Manifest
from mmx.runtime.packing import FACE_SHAPE, PIECE_SHAPE
from mmx.runtime.types import Sample
from mmx.serving.server.npz import BadArchive, TooManyRows, Wanted, read_npz
from mmx.serving.server.rejection import Rejection

CONTENT_TYPE = "application/x-npz"
ARCHIVE_BYTES = 64 * 1024  # beside the arrays' own
LARGEST_PIXEL = 255.01  # resampling rounds: the crop of a white face has 255.00001525878906
LARGEST_POWER = 1e12  # of a mel bin; full-scale sound reaches about 1e4


@dataclass(frozen=True)
class TensorLimits:
    """The most of each array, from what one segment of a bundle can have; ``vocabulary``: token ids are below it."""

    tokens: int
    faces: int
    pieces: int
    vocabulary: int
    modalities: tuple[str, ...]

    @classmethod
    def of(cls, manifest: Manifest) -> TensorLimits:
        """The limits that follow from a bundle's preprocessing."""
        spec = manifest.preprocessing
        piece_s = spec.mel.hop * spec.mel.columns / spec.mel.sample_rate
        text = manifest.config.get("text")
        return cls(
            tokens=spec.text.max_tokens,
            faces=math.ceil(spec.max_segment_s / spec.video.interval_s) + 1,
            pieces=math.ceil(spec.max_segment_s / piece_s) + 1,
            vocabulary=int(text["vocabulary"]) if isinstance(text, dict) and "vocabulary" in text else 0,
            modalities=manifest.modalities,
        )

    @property
    def max_bytes(self) -> int:
        """Of an archive."""
        floats = self.faces * math.prod(FACE_SHAPE) + self.pieces * math.prod(PIECE_SHAPE)
        return 4 * floats + 8 * self.tokens + ARCHIVE_BYTES


def read_sample(data: bytes, limits: TensorLimits) -> Sample:
    """The sample in an archive of any of ``token_ids.npy`` int64 [tokens], with [CLS] and [SEP], ``faces.npy`` float32
    [faces, 3, 48, 48], 0..255, and ``pieces.npy`` float32 [pieces, 128, 32], mel powers.

    Raises:
        Rejection: 413 for more rows than a segment can have, 422 for whatever else it is not.
    """
    wanted = {
        "token_ids": Wanted(np.dtype(np.int64), (), limits.tokens),
        "faces": Wanted(np.dtype(np.float32), FACE_SHAPE, limits.faces),
        "pieces": Wanted(np.dtype(np.float32), PIECE_SHAPE, limits.pieces),
    }
    try:
        arrays = read_npz(data, wanted)
    except TooManyRows as e:
        raise Rejection(413, "too_many_rows", str(e), "send fewer rows, or a sample for each segment") from e
    except BadArchive as e:
        raise _bad(str(e)) from e
    _check_values(arrays, limits)
    return Sample(
        arrays.get("token_ids"),
        arrays.get("faces", np.empty((0, *FACE_SHAPE), np.float32)),
        arrays.get("pieces", np.empty((0, *PIECE_SHAPE), np.float32)),
    )


def _check_values(arrays: dict[str, NDArray[Any]], limits: TensorLimits) -> None:
    """Reject what no preprocessing makes: it could read beyond the engine's tables or overflow in it."""
    if not any(len(array) for array in arrays.values()):
        raise _bad("there is nothing in it: give token_ids, faces or pieces")
    for name, modality in (("token_ids", "text"), ("faces", "visual"), ("pieces", "audio")):
        if name in arrays and modality not in limits.modalities:
            raise _bad(f"this system takes no {name}")
    for name, largest in (("faces", LARGEST_PIXEL), ("pieces", LARGEST_POWER)):
        array = arrays.get(name)
        if array is not None and len(array) and not (array.min() >= 0 and array.max() <= largest):  # NaN fails, too
            raise _bad(f"{name} has values outside 0 to {round(largest):g}")
    ids = arrays.get("token_ids")
    if ids is None:
        return
    if not len(ids):
        raise _bad("token_ids is empty; leave it out where there is no text")
    if not limits.vocabulary:
        raise _bad("this bundle does not say how many token ids there are, so none can be taken")
    if ids.min() < 0 or ids.max() >= limits.vocabulary:
        raise _bad(f"token_ids has ids outside 0 to {limits.vocabulary - 1}")


def _bad(message: str) -> Rejection:
    return Rejection(422, "bad_tensors", f"the tensors cannot be read: {message}")
