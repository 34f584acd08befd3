"""A table of one's own clips: columns, labels, splits, wrong rows, label mapping, and what is read of its media."""

from __future__ import annotations

import json
import random
import re
import wave
from pathlib import Path

import av
import numpy as np
import pytest

from mmx.cli.main import main
from mmx.datasets.dataset import find_dataset
from mmx.datasets.labels import parse_map
from mmx.datasets.reading import read_utterance
from mmx.datasets.samples import Utterances
from mmx.datasets.table import read_table
from mmx.runtime.errors import BadDataError, MmxError, UsageError
from mmx.runtime.manifest import Preprocessing
from mmx.runtime.media.mel import mel_pieces
from mmx.training.synthetic.writer import write_clip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three sound files of three seconds, of different samples."""
    for number, name in enumerate(("a.wav", "b.wav", "c.wav")):
        with wave.open(str(tmp_path / name), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16000)
            samples = np.random.default_rng(number).integers(-9000, 9000, 48000)
            file.writeframes(samples.astype("<i2").tobytes())
    return tmp_path


def write(path: Path, *lines: str, encoding: str = "utf-8") -> Path:
    path.write_bytes("\r\n".join(lines).encode(encoding))
    return path


def test_rows_labels_and_splits(folder) -> None:
    table = write(
        folder / "clips.csv",
        "Path,Start_Time,END,Transcript,Emotions,Set,speaker_id",
        'a.wav,0.5,1.25,"Well, done",happy|proud,train,ana',
        "a.wav,1.25,3,No.,angry,dev,ana",
        "b.wav,,,caf\xe9,happy;angry,testing,ben",
        encoding="cp1252",
    )
    found = find_dataset(table)
    assert (found.layout, found.name, found.labels) == ("table", "clips", ("angry", "happy", "proud"))
    (train,), (valid,), (test,) = (found.items(split) for split in ("train", "valid", "test"))
    assert (train.start, train.end, train.text, train.target) == (0.5, 1.25, "Well, done", (0, 1, 1))
    assert valid.target == (1, 0, 0)
    assert (test.start, test.end, test.text, test.target, test.speaker) == (None, None, "caf\xe9", (1, 1, 0), "ben")


def test_json_lines_and_parquet_hold_the_same(folder) -> None:
    rows = [
        {"file": f"{name}.wav", "start": 0.0, "end": 1.0, "label": labels, "split": split, "text": "x"}
        for name, labels, split in (("a", ["joy"], "train"), ("b", ["joy", "fear"], "valid"), ("c", ["fear"], "test"))
    ]
    lines = write(folder / "clips.jsonl", *map(json.dumps, rows), "{broken")
    made = read_table(lines)
    assert made.labels == ("fear", "joy") and made.wrong == ((4, "not a JSON object"),)
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "clips.parquet")
    assert read_table(folder / "clips.parquet").splits == made.splits


def test_wrong_rows_are_left_out_with_their_lines(folder) -> None:
    table = write(
        folder / "clips.csv",
        "file,start,end,label,split",
        "a.wav,0,1,x,train",
        "nowhere.wav,0,1,x,train",
        "a.wav,2,1,x,train",
        "a.wav,zero,1,x,train",
        "a.wav,0,1,y,train",
        "a.wav,1,2,,train",
        "a.wav,1,2,y,holdout",
        "b.wav,0,1,y,test",
    )
    found = read_table(table)
    assert [line for line, _ in found.wrong] == [3, 4, 5, 6, 7, 8]
    why = " / ".join(reason for _, reason in found.wrong)
    for part in ("does not exist", "ends at 1 s", "'zero'", "same stretch", "no label", "'holdout' is no split"):
        assert part in why
    with pytest.raises(BadDataError, match="no row in the valid split"):
        find_dataset(table).items("valid")


@pytest.mark.parametrize("column", ["speaker", "nothing"])
def test_drawn_splits_keep_speakers_or_files_together(folder, column) -> None:
    rows = [
        f"{name}.wav,{start},{start + 0.4},{'xy'[start % 2]},{name}{column}" for name in "abc" for start in range(3)
    ]
    found = read_table(write(folder / "clips.csv", f"file,start,end,label,{column}", *rows))
    assert found.drawn and all(found.splits.values())
    assert sorted(len({clip.path for clip in clips}) for clips in found.splits.values()) == [1, 1, 1]


def test_named_columns(folder) -> None:
    table = write(folder / "clips.csv", "where,what", "a.wav,x", "b.wav,y", "c.wav,y")
    with pytest.raises(BadDataError, match="no column of files; it has where, what"):
        read_table(table)
    assert read_table(table, {"file": "where", "label": "what"}).labels == ("x", "y")
    with pytest.raises(UsageError, match="no column 'who'"):
        read_table(table, {"file": "where", "label": "who"})


def test_labels_are_merged_renamed_and_dropped(folder) -> None:
    rows = ["a.wav,0,1,happy,train", "a.wav,1,2,exc,train", "a.wav,2,3,neu,train", "b.wav,0,1,neu|sad,train"]
    found = find_dataset(write(folder / "clips.csv", "file,start,end,label,split", *rows))
    mapped = found.mapped(parse_map("happy=joy, exc=joy,neu="))
    assert mapped.labels == ("joy", "sad")
    assert [item.target for item in mapped.items("train")] == [(1, 0), (1, 0), (0, 1)]
    with pytest.raises(UsageError, match="no label 'hapy'"):
        found.mapped({"hapy": "joy"})
    with pytest.raises(UsageError, match="drops every label"):
        found.mapped(dict.fromkeys(found.labels, ""))
    with pytest.raises(UsageError, match="not a mapping of labels"):
        parse_map("happy")


class NoFaces:
    def extract(self, frames, no_face):
        return []


def test_a_stretch_of_sound_is_read_to_the_sample(folder) -> None:
    table = write(folder / "clips.csv", "file,start,end,label,split", "a.wav,0.5,1.25,x,train", "b.wav,,,y,train")
    part, whole = find_dataset(table).items("train")
    with wave.open(str(folder / "a.wav")) as file:
        samples = np.frombuffer(file.readframes(48000), "<i2").astype(np.float32) / 32768
    spec = Preprocessing()
    sample = read_utterance(part, spec, None, NoFaces())  # type: ignore[arg-type]
    np.testing.assert_allclose(sample.pieces, mel_pieces(samples[8000:20000], spec.mel), rtol=1e-6)
    assert len(read_utterance(whole, spec, None, NoFaces()).pieces) == 8  # type: ignore[arg-type]


def test_two_stretches_of_a_file_are_two_samples_of_the_cache(folder) -> None:
    rows = ["a.wav,0,1,x,train", "a.wav,1,3,y,train"]
    items = find_dataset(write(folder / "clips.csv", "file,start,end,label,split", *rows)).items("train")
    made = Utterances(items, Preprocessing(), {}, None, cache=folder / "cache")
    made.detector = NoFaces()  # type: ignore[assignment]
    assert [len(made[0].pieces), len(made[1].pieces)] == [3, 6]


def test_damaged_tables_are_one_line(folder) -> None:
    """Either it is read, with what is wrong listed by line, or one line says why not."""
    good = "file,start,end,text,label,split\n" + "".join(
        f'{"abc"[i % 3]}.wav,{i / 10},{i / 10 + 0.1},"w, {i}",{"xyz"[i % 3]},{("train", "valid", "test")[i % 3]}\n'
        for i in range(20)
    )
    path = folder / "clips.csv"
    for seed in range(300):
        chance = random.Random(seed)
        data = bytearray(good.encode())
        for _ in range(chance.choice([1, 3, 30])):
            place = chance.randrange(max(1, len(data)))
            kind = chance.randrange(4)
            if kind == 0 and data:
                data[place] = chance.randrange(256)
            elif kind == 1:
                del data[place : place + chance.randrange(40)]
            elif kind == 2:
                data[place:place] = chance.choice([b'"', b",,", b"\n", b"\0", b"\xff\xfe", b"nan", b"1e999"])
            else:
                data = data[: max(place, 1)]
        path.write_bytes(bytes(data))
        try:
            table = read_table(path)
        except MmxError as e:
            assert e.exit_code in (2, 5) and "\n" not in e.message, seed
        else:
            assert all(line > 0 and why and "\n" not in why for line, why in table.wrong), seed
            assert all(clip.path.is_file() for clips in table.splits.values() for clip in clips)


def test_data_check_says_what_is_in_a_table_and_what_is_wrong(folder, capsys) -> None:
    (folder / "d.wav").write_bytes(b"RIFF no wave")
    with wave.open(str(folder / "quiet.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(bytes(64000))
    (folder / "copy.wav").write_bytes((folder / "a.wav").read_bytes())
    rows = [
        "a.wav,0,1,Hello there,x,train,ana",
        "copy.wav,1,2,hello  THERE,y,test,ana",
        "b.wav,,,Bye,x,valid,ben",
        "c.wav,2,9,,y,train,cy",
        "d.wav,0,1,,y,train,cy",
        "e.wav,0,1,,y,train,cy",
        "quiet.wav,,,,y,train,cy",
    ]
    table = write(folder / "clips.csv", "file,start,end,text,label,split,speaker", *rows)
    assert main(["data", "check", str(table)]) == 5
    said = capsys.readouterr()
    for part in (
        "6 rows, 4 train, 1 valid, 1 test",
        "minutes in all",
        "3 rows have none",
        "no video 5",
        "silence     5 (lines 2, 3, 4, ...) of 6 clips",  # the fixture's sounds are noise
        "line 2: steady noise",
        "1 files are in train and test: a.wav",
        "1 speakers are in train and test: ana",
        "1 texts are in train and test: hello there",
        "it ends at 9 s and c.wav at 3.00 s",
        "e.wav does not exist",
        "d.wav cannot be read as media",
    ):
        assert part in said.out, (part, said.out)
    assert "3 rows that cannot be used" in said.err
    good = write(folder / "good.csv", "file,label,split", "a.wav,x,train", "b.wav,y,valid", "quiet.wav,y,test")
    assert main(["data", "check", str(good)]) == 0
    assert "line 4: silence (-120 dBFS)" in capsys.readouterr().out
    assert main(["data", "check", str(good), "--samples", "0"]) == 0
    assert "silence" not in capsys.readouterr().out


def test_data_check_finds_faces_and_their_absence(folder, capsys) -> None:
    """Drawn people have faces; a grey picture has none."""
    for number, emotion in enumerate(("happy", "sad")):
        write_clip(folder, emotion, number, 0)
    grey = np.full((120, 160, 3), 128, np.uint8)
    with av.open(str(folder / "grey.mp4"), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = 120, 160, "yuv420p"
        for _ in range(10):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(grey, "rgb24")))
        file.mux(stream.encode(None))
    rows = ["happy_0.mp4,x,train", "sad_1.mp4,y,valid", "grey.mp4,y,test"]
    assert main(["data", "check", str(write(folder / "clips.csv", "file,label,split", *rows))]) == 0
    said = capsys.readouterr().out
    assert "no face at all in 1 (lines 4) of 3 clips" in said
    found, frames = map(int, re.search(r"faces +(\d+) of (\d+) frames", said).groups())  # type: ignore[union-attr]
    assert 2 <= found <= frames - 2
