"""Damaged releases: what is damaged is left out with a line, the rest is whole, and nothing is half-written."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path

import pytest
import releases
from PIL import Image

from mmx.datasets.plain_pickle import load_plain
from mmx.datasets.prepare import run
from mmx.datasets.prepare.run import Options, prepare
from mmx.datasets.prepare.worker import work
from mmx.datasets.processed import read_processed
from mmx.runtime.errors import BadDataError, MmxError
from mmx.runtime.media.decode import probe

QUICK, MANY = 25, 500  # of each data set


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two releases of a few utterances."""
    root = tmp_path_factory.mktemp("small")
    for number, name in enumerate(("Ses01F_impro01", "Ses01M_impro02", "Ses02F_script01_1")):
        spoken = [
            releases.said(f"{name}_{who}", 0.1, 0.5, label, "a: b") for who, label in (("F000", "neu"), ("M000", "sad"))
        ]
        releases.write_dialogue(root / "iemocap", name, spoken, seconds=0.7, fps=Fraction(10 + number))
    clips = []
    for video in ("aaa", "bbb", "ccc", "ddd"):
        frames = ((place, releases.blocks(place, 64, 64)) for place in range(12))
        releases.write_video(root / f"mosei/Videos/Full/Combined/{video}.mp4", frames, Fraction(1, 10), Fraction(10))
        releases.write_wav(root / f"mosei/Audio/WAV_16000/{video}.wav", releases.sound(19200, 1))
        mine = [releases.Clip(video, clip, clip / 2, clip / 2 + 0.6, "words", (1, 0, 0, 0, 0, 0)) for clip in range(2)]
        texts = root / "mosei/Transcript/Combined"
        texts.mkdir(parents=True, exist_ok=True)
        (texts / f"{video}.txt").write_text("".join(f"{video}___{c.clip}___{c.start}___{c.end}___w\n" for c in mine))
        clips += mine
    releases.write_tables(root / "mosei/Labels", clips)
    return {"iemocap": root / "iemocap", "mosei": root / "mosei"}


def remove(path: Path, chance: random.Random) -> None:
    path.unlink()


def empty(path: Path, chance: random.Random) -> None:
    path.write_bytes(b"")


def cut_short(path: Path, chance: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: chance.randrange(len(data) or 1)])


def flip(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes() or b"x")
    for _ in range(chance.choice([1, 5, 50])):
        data[chance.randrange(len(data))] = chance.randrange(256)
    path.write_bytes(data)


def flip_head(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes() or b"x")
    for _ in range(chance.choice([1, 3, 9])):
        data[chance.randrange(min(200, len(data)))] = chance.choice([0, 255, chance.randrange(256)])
    path.write_bytes(data)


def noise(path: Path, chance: random.Random) -> None:
    path.write_bytes(chance.randbytes(chance.choice([10, 1000, 100_000])))


def a_folder(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.mkdir()


def a_loop(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.symlink_to(path.name)


def no_folder(path: Path, chance: random.Random) -> None:
    shutil.rmtree(path.parent)


def other_file(path: Path, chance: random.Random) -> None:
    others = sorted(p for p in path.parent.parent.rglob("*") if p.is_file())
    path.write_bytes(chance.choice(others).read_bytes())


def odd_lines(path: Path, chance: random.Random) -> None:
    lines = path.read_bytes().split(b"\n")
    odd = [
        b"[a - b]\tx\ty",
        b"___",
        b"[1 - nan]",
        b"\xff\xfe\x81",
        b",,,,",
        b"[5.0 - 1.0]\tSes01F_impro01_F000\tneu\t[]",
        b"../../x___1___0___1___y",
    ]
    for _ in range(chance.choice([1, 4])):
        place = chance.randrange(len(lines))
        lines[place : place + chance.randrange(2)] = [chance.choice([*odd, lines[place][: len(lines[place]) // 2]])]
    path.write_bytes(b"\n".join(lines))


DAMAGES: list[Callable[[Path, random.Random], None]] = [
    remove,
    empty,
    cut_short,
    flip,
    flip_head,
    noise,
    a_folder,
    a_loop,
    no_folder,
    other_file,
    odd_lines,
]


def damage(release: Path, seed: int) -> str:
    """Damage one or two files; returns how."""
    chance = random.Random(seed)
    said = []
    for _ in range(chance.choice([1, 1, 2])):
        files = sorted(path for path in release.rglob("*") if path.is_file() and not path.name.startswith("._"))
        if files:
            path, how = chance.choice(files), chance.choice(DAMAGES)
            how(path, chance)
            said.append(f"{how.__name__} {path.relative_to(release)}")
    return ", ".join(said)


def check_whole(out: Path, dataset: str, account: run.Account) -> None:
    """All that is there is complete, and readable by whoever reads the layout."""
    upper = dataset.upper()
    meta = load_plain(out / f"{upper}_RAW_PROCESSED/meta.pkl")
    assert len(meta) == account.written > 0
    folders = {
        p.name: p for p in (out / f"{upper}_RAW_PROCESSED").glob("*/*" if dataset == "iemocap" else "*") if p.is_dir()
    }
    assert set(folders) == set(meta)
    seen: set[str] = set()
    for split in ("train", "valid", "test"):
        items = read_processed(out, dataset, split)
        names = {item.name for item in items}
        assert names and len(names) == len(items) and not names & seen
        seen |= names
        for item in items:
            assert item.duration() > 0 and item.images
            for path in item.images:
                with Image.open(path) as image:
                    image.load()
    assert {path.name for path in out.iterdir()} == {
        f"{upper}_RAW_PROCESSED",
        f"{upper}_SPLIT",
        f"prepare-{dataset}.json",
    }


def prepare_damaged(release: Path, folder: Path, dataset: str, seed: int) -> None:
    """Damage a copy of a release, prepare it, and check what came of it."""
    copy, out = folder / "copy", folder / "out"
    shutil.copytree(release, copy)
    how = damage(copy, seed)
    try:
        account = prepare(copy, out, Options(dataset, workers=2))
    except MmxError as e:
        assert e.exit_code == 5 and "\n" not in e.message, (seed, how)
        assert not list(folder.glob("out/*_*")), (seed, how)
    else:
        check_whole(out, dataset, account)
        total = {"iemocap": 6, "mosei": 8}[dataset]
        assert account.written == total or account.left_out, (seed, how)
        assert all("\n" not in item.why and str(folder) not in item.why for item in account.left_out), (seed, how)
    shutil.rmtree(copy)
    shutil.rmtree(out, ignore_errors=True)


def here(task: dict) -> dict:
    """The worker's work in this process: a few milliseconds instead of half a second to start one."""
    try:
        return json.loads(json.dumps(work({"patience_s": 0, **task})))
    except MmxError:
        raise
    except Exception as e:
        raise BadDataError(f"{type(e).__name__}: {e}") from e


def forked(task: dict) -> dict:
    """The same in a fork, which may crash."""
    fork = get_context("fork")
    answers, send = fork.Pipe(duplex=False)

    def work_there() -> None:
        try:
            send.send(here(task))
        except MmxError as e:
            send.send(e.message)

    child = fork.Process(target=work_there)
    child.start()
    send.close()
    try:
        answer = answers.recv()
    except EOFError:
        answer = "the decoder crashed on it"
    child.join()
    if isinstance(answer, dict):
        return answer
    raise BadDataError(answer)


@pytest.mark.parametrize("dataset", ["iemocap", "mosei"])
def test_some_damaged_releases(small, tmp_path, monkeypatch, dataset) -> None:
    monkeypatch.setattr(run, "run_confined", here)
    for seed in range(QUICK):
        prepare_damaged(small[dataset], tmp_path, dataset, seed)


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["iemocap", "mosei"])
def test_many_damaged_releases(small, tmp_path, monkeypatch, dataset) -> None:
    monkeypatch.setattr(run, "run_confined", forked)
    for seed in range(1000, 1000 + MANY):
        prepare_damaged(small[dataset], tmp_path, dataset, seed)


def test_a_truncated_video_keeps_what_comes_before(small, tmp_path) -> None:
    release = tmp_path / "release"
    name = "Ses01F_impro01"
    spoken = [releases.said(f"{name}_F00{i}", i / 2, i / 2 + 0.4, "neu", "x") for i in range(8)]
    releases.write_dialogue(release, name, spoken, seconds=4)
    video = release / f"Session1/dialog/avi/DivX/{name}.avi"
    data = video.read_bytes()
    video.write_bytes(data[: len(data) * 6 // 10])
    account = prepare(release, tmp_path / "out", Options("iemocap"))
    assert probe(video).duration and 3 <= account.written <= 6
    assert {item.why for item in account.left_out} == {"no image at its time"}
    check_whole(tmp_path / "out", "iemocap", account)
