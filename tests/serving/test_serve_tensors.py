"""The reader of .npz archives against NumPy's own, and against archives that ask for more than they should get."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from mmx.serving.server.npz import BadArchive, TooManyRows, Wanted, read_npz
from mmx.serving.server.rejection import Rejection
from mmx.serving.server.tensors import TensorLimits, read_sample

WANTED = {
    "token_ids": Wanted(np.dtype(np.int64), (), 100),
    "faces": Wanted(np.dtype(np.float32), (3, 48, 48), 20),
}
GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3, 48, 48), }"
FACE = bytes(4 * 3 * 48 * 48)
MUCH = 64 * 2**20  # bytes that no reading may take


def npy(header: str | bytes, data: bytes = b"", version: int = 1, length: int | None = None) -> bytes:
    text = header.encode("latin-1") if isinstance(header, str) else header
    size = struct.pack("<H" if version == 1 else "<I", len(text) if length is None else length)
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + data


def packed(member: bytes, name: str = "faces.npy", method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr(name, member)
    return out.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_what_numpy_writes_is_read_as_numpy_reads_it(save, version: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    arrays = {"token_ids": np.arange(7), "faces": random.random((3, 3, 48, 48), np.float32)}
    out = io.BytesIO()
    save(out, **arrays)
    found = read_npz(out.getvalue(), WANTED)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        member = io.BytesIO()
        np.lib.format.write_array(member, array, version=version)
        alone = read_npz(packed(member.getvalue(), f"{name}.npy"), WANTED)
        np.testing.assert_array_equal(alone[name], array)


def test_headers_of_other_writers_are_read() -> None:
    header = '{"shape":(1,3,48,48),"fortran_order":False,"descr":"<f4"}\n'
    assert read_npz(packed(npy(header, FACE)), WANTED)["faces"].shape == (1, 3, 48, 48)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "{",
        "(" * 2000,
        "[" * 2000 + "]" * 2000,
        "{'descr': " * 200,
        "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "(" * 500,
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3, 48, 48), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1e9, 3, 48, 48), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "9" * 90 + ", 3, 48, 48), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3, 48 48), }",
        "{'descr': '<f4', 'fortran_order': True, 'shape': (1, 3, 48, 48), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1, 3, 48, 48), }",
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1, 3, 48, 48), }",
        "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1, 3, 48, 48), }",
        "{'descr': False, 'fortran_order': '<f4', 'shape': (1, 3, 48, 48), }",
        "{'fortran_order': False, 'shape': (1, 3, 48, 48), }",
        GOOD + "__import__('os')",
        "\x00" * 64,
        "\xff\xfe" * 64,
        "{'descr': '<f4'\n\\\n\t, 'fortran_order': False, 'shape': (1, 3, 48, 48), 'x': 0}",
    ],
)
def test_headers_that_numpy_does_not_write_are_rejected(header: str) -> None:
    with pytest.raises(BadArchive):
        read_npz(packed(npy(header, FACE)), WANTED)


def test_a_gigabyte_that_is_declared_is_not_taken() -> None:
    """A megabyte deflated: as header, as rows, as data beyond the header, and as many small members."""
    gigabyte = 2**30
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("faces.npy", "w") as file:
        file.write(npy(b"", version=2, length=gigabyte))
        for _ in range(256):
            file.write(bytes(2**20))
    beyond = io.BytesIO()
    with zipfile.ZipFile(beyond, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("faces.npy", "w") as file:
        file.write(npy(GOOD, FACE))
        for _ in range(256):
            file.write(bytes(2**20))
    many = io.BytesIO()
    with zipfile.ZipFile(many, "w") as archive:
        for number in range(20_000):
            archive.writestr(str(number), b"")
    rows = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (40000, 3, 48, 48), }", bytes(2**20))
    hostile = [(bomb.getvalue(), BadArchive), (beyond.getvalue(), BadArchive), (packed(rows), TooManyRows)]
    for data, error in [*hostile, (many.getvalue(), BadArchive)]:
        tracemalloc.start()
        try:
            with pytest.raises(error):
                read_npz(data, WANTED)
            assert tracemalloc.get_traced_memory()[1] < MUCH
        finally:
            tracemalloc.stop()


def test_damage_is_noticed() -> None:
    good = packed(npy(GOOD, FACE))
    for data in (b"", good[:-1], good[10:], good + b"x", packed(npy(GOOD, FACE[1:])), packed(npy(GOOD, FACE + b"x"))):
        with pytest.raises(BadArchive):
            read_npz(data, WANTED)
    stored = bytearray(packed(npy(GOOD, FACE), method=zipfile.ZIP_STORED))
    stored[500] ^= 1  # in the data: only the checksum shows it
    with pytest.raises(BadArchive):
        read_npz(bytes(stored), WANTED)


def test_anything_at_all_is_a_sample_or_an_error() -> None:
    """Seeded damage anywhere in the archive, its checksums made right again or not."""
    limits = TensorLimits(100, 20, 20, 1000, ("text", "visual", "audio"))
    random = np.random.default_rng(0)
    out = io.BytesIO()
    np.savez(out, token_ids=np.arange(5), faces=np.zeros((1, 3, 48, 48), np.float32))
    whole, header = out.getvalue(), npy(GOOD)
    answers = {"sample": 0, "error": 0}
    for number in range(2000):
        if number % 2:
            data = bytearray(whole)
            places = np.concatenate([random.integers(0, 300, 2), random.integers(len(data) - 300, len(data), 2)])
            for place in places[: random.integers(1, 5)]:
                data[place] = random.integers(256)
        else:
            text = bytearray(header)
            for place in random.integers(0, len(text), random.integers(1, 4)):
                text[place] = random.integers(256)
            data = bytearray(packed(bytes(text) + FACE, method=zipfile.ZIP_STORED))
        try:
            read_sample(bytes(data), limits)
            answers["sample"] += 1
        except Rejection as e:
            assert e.status in (413, 422)
            answers["error"] += 1
    assert answers["error"] > 500, answers
