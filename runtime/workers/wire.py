"""How a worker and its parent talk: frames of a JSON head and raw arrays, over pipes.

What a process says that has read hostile media can be wrong, but it cannot run code here, nor fill the memory.

    4 bytes  length of the head, big-endian
    head     UTF-8 JSON object; "arrays" lists [name, dtype, shape] of what follows
    arrays   one after another, C order, the machine's byte order
"""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any, BinaryIO

import numpy as np

from mmx.runtime.errors import BadDataError
from mmx.runtime.preprocess import Segment
from mmx.runtime.types import Sample
from mmx.runtime.workers.segments import Arrays, about, segment_of

MAX_HEAD = 16 * 2**20
MAX_ARRAYS = 512 * 2**20
DTYPES: dict[str, np.dtype[Any]] = {"int64": np.dtype(np.int64), "float32": np.dtype(np.float32)}

Head = dict[str, Any]


def pack_frame(head: Head, arrays: Arrays | None = None) -> bytes:
    """One frame."""
    listed = [[name, array.dtype.name, list(array.shape)] for name, array in (arrays or {}).items()]
    text = json.dumps({**head, "arrays": listed}).encode()
    return b"".join([len(text).to_bytes(4, "big"), text, *(array.tobytes() for array in (arrays or {}).values())])


def read_frame(file: BinaryIO) -> Head | None:
    """The next frame's head, of a frame without arrays (what the parent sends); None when the pipe is closed."""
    length = file.read(4)
    if len(length) < 4:
        return None
    text = file.read(int.from_bytes(length, "big"))
    head: Head = json.loads(text)
    return head


async def receive_frame(reader: asyncio.StreamReader) -> tuple[Head, Arrays]:
    """The next frame.

    Raises:
        asyncio.IncompleteReadError: the other side ended. BadDataError: it said something that is no frame.
    """
    length = int.from_bytes(await reader.readexactly(4), "big")
    if length > MAX_HEAD:
        raise BadDataError("a worker sent a head that is too long")
    text = await reader.readexactly(length)
    try:
        head: Head = json.loads(text)
        shapes = {name: (DTYPES[dtype], tuple(map(int, shape))) for name, dtype, shape in head.pop("arrays")}
        sizes = {name: dtype.itemsize * math.prod(shape) for name, (dtype, shape) in shapes.items()}
        if any(side < 0 for _, shape in shapes.values() for side in shape) or sum(sizes.values()) > MAX_ARRAYS:
            raise ValueError("arrays of impossible sizes")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise BadDataError(f"a worker sent no frame: {e}") from e
    arrays: Arrays = {}
    for name, (dtype, shape) in shapes.items():
        arrays[name] = np.frombuffer(await reader.readexactly(sizes[name]), dtype).reshape(shape)
    return head, arrays


def pack_segment(segment: Segment, **more: Any) -> bytes:
    """The frame of a segment; ``more``: what else its head says."""
    sample = segment.sample
    arrays: Arrays = {"faces": sample.faces, "pieces": sample.pieces}
    if sample.token_ids is not None:
        arrays["token_ids"] = sample.token_ids
    return pack_frame({"kind": "segment", "about": about(segment), **more}, arrays)


def unpack_segment(head: Head, arrays: Arrays) -> Segment:
    """The segment of a frame. Raises BadDataError where something is missing or not what it should be."""
    try:
        sample = Sample(arrays.get("token_ids"), arrays["faces"], arrays["pieces"])
        return segment_of(head["about"], sample)
    except (KeyError, AttributeError) as e:
        raise BadDataError(f"a worker sent no segment: {e}") from e
