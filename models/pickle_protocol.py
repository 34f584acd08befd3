"""A pickle of protocol 3 to 5 as one of protocol 2, which is all that PyTorch's weights-only reader knows.

Nothing is executed: opcodes become opcodes. What a file of tensors does not need is an error, as it is in the reader.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
from itertools import chain, pairwise
from typing import Any
from unittest import mock

from torch import _weights_only_unpickler as reader

LARGEST = 2**26  # bytes of the result; a checkpoint's pickle has some hundred for each tensor


class _Unpickler(reader.Unpickler):
    def __init__(self, file: io.BytesIO, **options: Any) -> None:
        content = file.read()
        super().__init__(io.BytesIO(to_protocol_2(content)), **options)


def newer_protocols_read() -> mock._patch[type]:
    """A context in which ``torch.load(weights_only=True)`` reads archives of newer pickle protocols."""
    return mock.patch.object(reader, "Unpickler", _Unpickler)


def to_protocol_2(data: bytes) -> bytes:
    """The same objects in protocol 2.

    Raises:
        pickle.UnpicklingError: no pickle, or one with opcodes that no file of tensors has.
    """
    if data[:1] != b"\x80" or data[1:2] <= b"\x02":
        return data
    out: list[bytes] = [b"\x80\x02"]
    strings: dict[int, str] = {}  # by place in the memo; they are written out again instead of being recalled
    pushed: dict[int, str] = {}  # strings by the place in ``out`` where they are pushed
    memo = size = 0
    opcodes: Any = chain(pickletools.genops(data), [(None, None, len(data))])
    for (opcode, argument, position), (_, _, end) in pairwise(opcodes):
        name, new = opcode.name, b""
        if name in ("PROTO", "FRAME"):
            continue
        if name == "MEMOIZE":
            if len(out) - 1 in pushed:
                strings[memo] = pushed[len(out) - 1]
            else:
                new = b"r" + struct.pack("<I", memo)
            memo += 1
        elif name in ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"):
            new = _string(pushed, len(out), str(argument))
        elif name in ("BINGET", "LONG_BINGET"):
            known = strings.get(int(argument))
            new = b"j" + struct.pack("<I", argument) if known is None else _string(pushed, len(out), known)
        elif name == "STACK_GLOBAL":
            places = (len(out) - 2, len(out) - 1)
            if any(place not in pushed for place in places):
                raise pickle.UnpicklingError(f"a global without a name at byte {position}")
            new = "c{}\n{}\n".format(*(pushed.pop(place) for place in places)).encode()
            del out[-2:]
        else:
            new = data[position:end]
        if new:
            out.append(new)
            size += len(new)
        if size > LARGEST:
            raise pickle.UnpicklingError("its pickle is larger than any checkpoint's")
    return b"".join(out)


def _string(pushed: dict[int, str], place: int, text: str) -> bytes:
    pushed[place] = text
    content = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(content)) + content
