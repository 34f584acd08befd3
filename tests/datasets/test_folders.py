"""Folders of one's own clips: as Hugging Face's ``datasets`` saves them, sorted by label, or looked up by a glob."""

from __future__ import annotations

import json
import random
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmx.datasets.dataset import find_dataset
from mmx.datasets.table import read_table
from mmx.runtime.errors import MmxError, UsageError

LABELS = ["angry", "happy"]


def sound(path: Path, number: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(np.random.default_rng(number).integers(-9000, 9000, 1600).astype("<i2").tobytes())
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMX_CACHE", str(tmp_path / "cache"))


def contents(path: Path) -> dict[str, Any]:
    """Every split's (label, words, bytes) of a data set."""
    found = find_dataset(path)
    return {
        split: [(found.labels[item.target.index(1)], item.text, item.path.read_bytes()) for item in items]  # type: ignore[union-attr]
        for split, items in found.table.splits.items()  # type: ignore[union-attr]
    }


def test_clips_sorted_by_label(tmp_path: Path) -> None:
    root = tmp_path / "clips"
    for number, name in enumerate(("train/happy/a.wav", "train/angry/b.wav", "dev/happy/c.wav", "test/angry/d.wav")):
        sound(root / name, number)
    (root / "train/happy/a.txt").write_text("Well done.\n")
    (root / "train/happy/notes.md").write_text("no media")
    sound(root / ".hidden/happy/x.wav")
    found = contents(root)
    assert [(label, words) for label, words, _ in found["train"]] == [("angry", ""), ("happy", "Well done.")]
    assert [len(mine) for mine in found.values()] == [2, 1, 1]
    sound(root / "train/e.wav")
    assert read_table(root).wrong == ((4, "e.wav is in no folder of a label"),)
    assert read_table(root, files="*/*/*.wav").wrong == ()


def test_clips_of_one_split_are_split(tmp_path: Path) -> None:
    for number, name in enumerate("abcdef"):
        sound(tmp_path / "all" / LABELS[number % 2] / f"{name}.wav", number)
    made = read_table(tmp_path / "all")
    assert made.drawn and all(made.splits.values()) and made.labels == ("angry", "happy")


def test_metadata_beside_the_media(tmp_path: Path) -> None:
    root = tmp_path / "hub"
    for number, split in enumerate(("train", "validation", "test")):
        sound(root / split / "a.wav", number)
        row = {"file_name": "a.wav", "transcription": "x", "label": LABELS[number % 2]}
        (root / split / "metadata.jsonl").write_text(json.dumps(row))
    assert [mine[0][:2] for mine in contents(root).values()] == [("angry", "x"), ("happy", "x"), ("angry", "x")]


def save_parquet(path: Path, table: Any) -> None:
    import pyarrow.parquet

    pyarrow.parquet.write_table(table, path.with_suffix(".parquet"))


def save_arrow(path: Path, table: Any) -> None:
    import pyarrow

    with (
        pyarrow.OSFile(str(path.with_suffix(".arrow")), "wb") as file,
        pyarrow.ipc.new_stream(file, table.schema) as out,
    ):
        out.write_table(table)


@pytest.mark.parametrize(("save", "name"), [(save_parquet, "data/{}-00000-of-00001"), (save_arrow, "{}/data-00000")])
def test_media_and_class_labels_inside_a_table(tmp_path: Path, save: Callable[[Path, Any], None], name: str) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    features = {"audio": {"_type": "Audio"}, "emotion": {"names": LABELS, "_type": "ClassLabel"}}
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    wanted = {}
    for number, split in enumerate(("train", "validation", "test")):
        content = sound(tmp_path / "a.wav", number).read_bytes()
        rows = [
            {"audio": {"bytes": content, "path": "../../a.wav"}, "file": "/nowhere.wav", "emotion": number % 2},
            {"audio": {"bytes": None, "path": None}, "file": "/nowhere.wav", "emotion": 0},
        ]
        path = tmp_path / "set" / name.format(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, pyarrow.Table.from_pylist(rows).replace_schema_metadata(about))
        wanted["valid" if split == "validation" else split] = [(LABELS[number % 2], "", content)]
    assert contents(tmp_path / "set") == wanted
    made = read_table(tmp_path / "set")
    assert [line for line, _ in made.wrong] == [2, 4, 6] and made.wrong[0][1] == "no file"
    for clips in made.splits.values():
        assert clips[0].path.parent == tmp_path / "cache" / "table-media" and clips[0].path.suffix == ".wav"


def test_files_are_looked_up_by_name(tmp_path: Path) -> None:
    for place in ("one/a.wav", "two/b.wav", "two/c.wav", "one/c.wav"):
        sound(tmp_path / "media" / place)
    table = tmp_path / "clips.csv"
    table.write_text("id,label,split\na,x,train\nsome/b.wav,y,valid\nc,y,test\nd,y,test\n")
    made = read_table(table, {"file": "id"}, files="media/**/*.wav")
    assert [clip.path.name for clips in made.splits.values() for clip in clips] == ["a.wav", "b.wav"]
    assert [line for line, _ in made.wrong] == [4, 5] and "may be" in made.wrong[0][1]
    with pytest.raises(UsageError, match="matches no file"):
        read_table(table, {"file": "id"}, files="nowhere/*")


def test_what_is_not_a_set_of_clips(tmp_path: Path) -> None:
    sound(tmp_path / "IEMOCAP_RAW_PROCESSED/Ses01F_impro01/Ses01F_impro01_F000/audio.wav")
    for folder in (tmp_path, tmp_path / "IEMOCAP_RAW_PROCESSED"):
        with pytest.raises(UsageError, match="holds no data set"):
            find_dataset(folder)


def test_damaged_parquet_is_one_line(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    rows = [{"file": str(sound(tmp_path / f"{n}.wav", n)), "label": "xyz"[n % 3]} for n in range(9)]
    for save, path in ((save_parquet, tmp_path / "set.parquet"), (save_arrow, tmp_path / "set.arrow")):
        save(path, pyarrow.Table.from_pylist(rows))
        whole = path.read_bytes()
        for seed in range(150):
            chance = random.Random(seed)
            data = bytearray(whole)
            for _ in range(chance.choice([1, 10])):
                data[chance.randrange(len(data))] = chance.randrange(256)
            path.write_bytes(data if seed % 3 else data[: chance.randrange(len(data))])
            try:
                made = read_table(path)
            except MmxError as e:
                assert e.exit_code in (2, 5) and "\n" not in e.message, seed
            else:
                assert all(line > 0 and why and "\n" not in why for line, why in made.wrong), seed
