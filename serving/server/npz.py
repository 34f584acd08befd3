"""A NumPy .npz archive, read with a parser of its own: no pickle, no evaluation of text, no size that is believed.

NumPy's reader takes the length of a header that a file declares (up to 1 GiB) before it checks it, and evaluates the
header as Python (``ast.literal_eval``), which hostile text can crash. Format: numpy.lib.format's docstring; PKZIP
APPNOTE 4.3.16 (end of central directory).
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

HEADER_BYTES = 4096  # of one array's header
DIRECTORY_BYTES = 4096  # of the archive's list of its members
MAGIC = b"\x93NUMPY"
LENGTH_OF = {1: struct.Struct("<H"), 2: struct.Struct("<I"), 3: struct.Struct("<I")}  # major version -> header length
DESCR = {np.dtype("<f4"): "<f4", np.dtype("<i8"): "<i8"}
DIRECTORY_END = struct.Struct("<4s4H2LH")
# One "key: value" of the header, a Python dict of exactly three.
_ITEM = re.compile(
    r"""\s*(?P<q>['"])(?P<key>descr|fortran_order|shape)(?P=q)\s*:\s*
    (?: (?P<r>['"])(?P<descr>[<>|=]?[A-Za-z]\d{0,4})(?P=r) | (?P<order>True|False) | \((?P<shape>[\d,\ ]{0,99})\) )
    \s*(?:,|(?=\}))""",
    re.VERBOSE,
)
_SIDE = re.compile(r"\d{1,15}")


class BadArchive(ValueError):
    """It is not an .npz archive, or not one of the arrays that are taken."""


class TooManyRows(Exception):
    """An array has more rows than are taken."""


@dataclass(frozen=True)
class Wanted:
    """An array that is taken: its dtype, the shape of a row, and how many rows there may be."""

    dtype: np.dtype[Any]
    row: tuple[int, ...]
    rows: int


def read_npz(data: bytes, wanted: Mapping[str, Wanted]) -> dict[str, NDArray[Any]]:
    """The arrays of an archive, by name. Memory: what ``wanted`` allows, whatever the archive declares.

    Raises:
        BadArchive: it is damaged, or holds another array, another dtype or shape. TooManyRows.
    """
    _check_directory(data)
    arrays: dict[str, NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.infolist():
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others may take gigabytes
                    raise BadArchive("its compression is none that NumPy uses")
                name = member.filename.removesuffix(".npy")
                if name not in wanted or name in arrays:
                    raise BadArchive(f"an array is none of {', '.join(wanted)}, or is there twice")
                with archive.open(member) as file:
                    arrays[name] = _read_array(name, file, wanted[name])
    except BadArchive:
        raise
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, NotImplementedError, RuntimeError,
            struct.error) as e:  # fmt: skip
        raise BadArchive("it is not an .npz archive, or a broken one") from e
    return arrays


def _check_directory(data: bytes) -> None:
    """The list of members is short: ``zipfile`` would build an object for each of hundreds of thousands."""
    end = data[-DIRECTORY_END.size :]
    if len(end) < DIRECTORY_END.size or not end.startswith(b"PK\x05\x06"):
        raise BadArchive("it is not an .npz archive, or a broken one")
    directory_bytes = DIRECTORY_END.unpack(end)[5]
    zip64 = data[-DIRECTORY_END.size - 20 :].startswith(b"PK\x06\x07")  # its locator, which has other sizes
    if zip64 or directory_bytes > DIRECTORY_BYTES:
        raise BadArchive("it lists more than the arrays that are taken")


def _read_array(name: str, file: IO[bytes], wanted: Wanted) -> NDArray[Any]:
    """Read one array: its header first, and its data only if the header asks for what is allowed."""
    descr, fortran, shape = _read_header(name, file)
    if descr != DESCR[wanted.dtype] or len(shape) != len(wanted.row) + 1 or shape[1:] != wanted.row or fortran:
        sides = "".join(f", {side}" for side in wanted.row)
        raise BadArchive(f"{name} is {descr} {list(shape)}, not {wanted.dtype.name} [rows{sides}] in C order")
    if shape[0] > wanted.rows:
        raise TooManyRows(f"{name} has {shape[0]} rows; {wanted.rows} at most are taken")
    size = math.prod(shape) * wanted.dtype.itemsize
    data = file.read(size)
    if len(data) != size:
        raise BadArchive(f"{name} ends early")
    if file.read(1):  # the end is also where the checksum is compared
        raise BadArchive(f"{name} has more data than its header says")
    return np.frombuffer(data, wanted.dtype).reshape(shape)


def _read_header(name: str, file: IO[bytes]) -> tuple[str, bool, tuple[int, ...]]:
    """The header's dtype, whether it is in Fortran order, and its shape."""
    magic = file.read(len(MAGIC) + 2)
    length_of = LENGTH_OF.get(magic[-2]) if magic.startswith(MAGIC) and len(magic) == len(MAGIC) + 2 else None
    if length_of is None:
        raise BadArchive(f"{name} is no .npy array, or of an unknown version")
    (length,) = length_of.unpack(file.read(length_of.size))
    if length > HEADER_BYTES:
        raise BadArchive(f"{name} has a header of {length} bytes")
    text = file.read(length).decode("latin-1").strip()
    found: dict[str, Any] = {}
    at = 1
    while text.startswith("{") and (item := _ITEM.match(text, at)):
        key, at = item["key"], item.end()
        value = {"descr": item["descr"], "fortran_order": item["order"], "shape": item["shape"]}[key]
        if key in found or value is None:
            break
        found[key] = value
    if len(found) != 3 or text[at:].strip() != "}":
        raise BadArchive(f"{name} has a header that NumPy does not write")
    sides = [side.strip() for side in found["shape"].split(",") if side.strip()]
    if not all(_SIDE.fullmatch(side) for side in sides):
        raise BadArchive(f"{name} has a shape that NumPy does not write")
    return found["descr"], found["fortran_order"] == "True", tuple(map(int, sides))
