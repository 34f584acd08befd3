"""The segments of a file as five flat arrays, to travel between Triton's models or Ray's workers, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.packing import FACE_SHAPE, PIECE_SHAPE
from mmx.runtime.preprocess import Segment
from mmx.runtime.types import Sample, SeenFace, Span

Arrays = dict[str, NDArray[Any]]


def to_arrays(segments: Sequence[Segment]) -> Arrays:
    """All segments' tokens, faces and pieces one after another, how many each has, and the rest of each as JSON.

    Returns:
        ``TOKENS`` int64 [tokens], ``FACES`` float32 [faces, 3, 48, 48], ``PIECES`` float32 [pieces, 128, 32],
        ``COUNTS`` int64 [segments, 3], ``SEGMENTS`` object (bytes) [segments]. One of the first three that would be
        empty has one row of zeros, which no segment counts.
    """
    samples = [segment.sample for segment in segments]
    tokens = [s.token_ids if s.token_ids is not None else np.empty(0, np.int64) for s in samples]
    counts = [[len(ids), len(s.faces), len(s.pieces)] for ids, s in zip(tokens, samples, strict=True)]
    return {
        "TOKENS": _joined(tokens, (), np.int64),
        "FACES": _joined([s.faces for s in samples], FACE_SHAPE, np.float32),
        "PIECES": _joined([s.pieces for s in samples], PIECE_SHAPE, np.float32),
        "COUNTS": np.array(counts, np.int64).reshape(-1, 3),
        "SEGMENTS": np.array([_about(segment) for segment in segments], np.object_),
    }


def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> list[Segment]:
    """The segments that ``to_arrays`` took apart; their samples are views of the arrays."""
    tokens, faces, pieces, counts = (arrays[name] for name in ("TOKENS", "FACES", "PIECES", "COUNTS"))
    ends = np.cumsum(counts, axis=0)
    segments = []
    for (t0, f0, p0), (t1, f1, p1), line in zip(ends - counts, ends, arrays["SEGMENTS"], strict=True):
        known = json.loads(line)
        known["sample"] = Sample(tokens[t0:t1] if t1 > t0 else None, faces[f0:f1], pieces[p0:p1])
        known["span"] = Span(**known["span"])
        known["faces"] = tuple(SeenFace(**{**face, "box": tuple(face["box"])}) for face in known["faces"])
        known["flags"] = tuple(known["flags"])
        segments.append(Segment(**known))
    return segments


def _about(segment: Segment) -> bytes:
    """Everything but the sample."""
    known = {field.name: getattr(segment, field.name) for field in fields(segment) if field.name != "sample"}
    return json.dumps(known, default=asdict).encode()


def _joined(arrays: Sequence[NDArray[Any]], shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
    filled = [array for array in arrays if len(array)]
    return np.concatenate(filled) if filled else np.zeros((1, *shape), dtype)
