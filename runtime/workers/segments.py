"""Segments on their way from one process to another: plain data, checked where it arrives.

Between a worker and its parent (``wire``), Triton's models (``serving.packaging.triton_models``) and Ray's workers
(``serving.batch.chunks``) everything of a segment but its sample travels as JSON, the sample as arrays. What has read
hostile media may say anything; it cannot run code where it is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, get_type_hints

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.from_json import from_plain
from mmx.runtime.packing import FACE_SHAPE, PIECE_SHAPE
from mmx.runtime.preprocess import Segment
from mmx.runtime.types import Sample

Arrays = dict[str, NDArray[Any]]
ABOUT = {each.name: get_type_hints(Segment)[each.name] for each in fields(Segment) if each.name != "sample"}


def about(segment: Segment) -> dict[str, Any]:
    """Everything but the sample, as JSON has it."""
    plain: dict[str, Any] = json.loads(json.dumps({name: getattr(segment, name) for name in ABOUT}, default=asdict))
    return plain


def segment_of(plain: Mapping[str, Any], sample: Sample) -> Segment:
    """The segment of ``about`` and its sample. Raises BadDataError where a field is not what it should be."""
    known = {name: from_plain(kind, plain.get(name), f"a segment: {name}") for name, kind in ABOUT.items()}
    return Segment(sample=sample, **known)


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
        "SEGMENTS": np.array([json.dumps(about(segment)).encode() for segment in segments], np.object_),
    }


def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> list[Segment]:
    """The segments that ``to_arrays`` took apart; their samples are views of the arrays.

    Raises:
        BadDataError: see ``segment_of``.
    """
    tokens, faces, pieces, counts = (arrays[name] for name in ("TOKENS", "FACES", "PIECES", "COUNTS"))
    ends = np.cumsum(counts, axis=0)
    segments = []
    for (t0, f0, p0), (t1, f1, p1), line in zip(ends - counts, ends, arrays["SEGMENTS"], strict=True):
        sample = Sample(tokens[t0:t1] if t1 > t0 else None, faces[f0:f1], pieces[p0:p1])
        segments.append(segment_of(json.loads(line), sample))
    return segments


def _joined(arrays: Sequence[NDArray[Any]], shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
    filled = [array for array in arrays if len(array)]
    return np.concatenate(filled) if filled else np.zeros((1, *shape), dtype)
