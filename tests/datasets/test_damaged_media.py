"""Clips of a table whose files are damaged: each is read or left out with one line, whatever is wrong with it."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from mmx.datasets.check import check_table, look_into
from mmx.datasets.table import read_table
from mmx.runtime.errors import MmxError
from mmx.training.synthetic.writer import write_clip

QUICK, MANY = 10, 500


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips and a table of six stretches of them."""
    root = tmp_path_factory.mktemp("clips")
    lines = ["file,start,end,text,label,split"]
    for number, emotion in enumerate(("happy", "sad", "fear")):
        name = write_clip(root, emotion, number, 0).name
        split = ("train", "valid", "test")[number]
        lines += [f"{name},0,0.8,one,{emotion},{split}", f"{name},0.8,,two,{emotion},{split}"]
    (root / "clips.csv").write_text("\n".join(lines))
    return root


def damage(path: Path, chance: random.Random) -> None:
    """Cut short, overwritten in places, emptied, replaced by noise, or made a folder."""
    data = bytearray(path.read_bytes())
    kind = chance.randrange(6)
    if kind == 0:
        data = data[: chance.randrange(len(data))]
    elif kind in (1, 2):
        most = len(data) if kind == 1 else min(400, len(data))
        for _ in range(chance.choice([1, 10, 200])):
            data[chance.randrange(most)] = chance.randrange(256)
    elif kind == 3:
        data = bytearray()
    elif kind == 4:
        data = bytearray(chance.randbytes(5000))
    path.unlink()
    if kind == 5:
        path.mkdir()
    else:
        path.write_bytes(data)


def check(whole: Path, folder: Path, seed: int) -> None:
    copy, chance = folder / "copy", random.Random(seed)
    shutil.copytree(whole, copy)
    for path in chance.sample(sorted(copy.iterdir()), chance.choice([1, 1, 2])):
        damage(path, chance)
    try:
        table = read_table(copy / "clips.csv")
        lines = [*table.wrong, *check_table(table).problems, *look_into(table, 9, None).problems]
    except MmxError as e:
        assert e.exit_code in (2, 5) and "\n" not in e.message, seed
    else:
        assert all(line > 0 and why and "\n" not in why for line, why in lines), (seed, lines)
    shutil.rmtree(copy)


def test_some(whole: Path, tmp_path: Path) -> None:
    for seed in range(QUICK):
        check(whole, tmp_path, seed)


@pytest.mark.slow
def test_many(whole: Path, tmp_path: Path) -> None:
    for seed in range(1000, 1000 + MANY):
        check(whole, tmp_path, seed)
