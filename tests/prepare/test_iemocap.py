"""A made-up IEMOCAP release is cut to the frame and the sample, with the right words, labels and splits."""

from __future__ import annotations

import math
import pickle
import wave
from pathlib import Path

import numpy as np
import pytest
import releases
from PIL import Image

from mmx.datasets.prepare.iemocap import speaker_of
from mmx.datasets.processed import read_processed

LAST = {  # where each dialogue's media end, in frames
    "Ses01F_impro01": int(4 * releases.NTSC),
    "Ses01M_script01_1b": int(4 * releases.NTSC),
    "Ses02F_script02_2": int(4 * releases.NTSC),
    "Ses02M_impro03": 100,
}
DROPPED = {"Ses02F_script02_2": (*range(10, 14), 55, 56, 80)}
WRITTEN = {
    "correct": {"Ses01F_impro01_F002", "Ses01F_impro01_F004", "Ses02F_script02_2_M001"},
    "upstream": {"Ses01F_impro01_F002", "Ses01F_impro01_F004", "Ses02F_script02_2_M001"},
}  # all but these


def dialogue(name: str) -> str:
    return name.rpartition("_")[0]


def folder(out: Path, name: str) -> Path:
    return out / "IEMOCAP_RAW_PROCESSED" / "_".join(name.split("_")[:2]) / name


def expected_frames(said: releases.Said, compat: str) -> list[int]:
    """The numbers of the frames that its images show."""
    of = dialogue(said.name)
    fps = 25.0 if of == "Ses02M_impro03" else float(releases.NTSC)
    wanted = range(math.floor(fps * said.start), math.floor(fps * said.end))
    there = [n for n in range(LAST[of]) if n not in DROPPED.get(of, ())]
    if compat == "upstream":  # the notebook counts the frames that it reads
        return there[wanted.start : wanted.stop]
    return [max(n for n in there if n <= k) for k in wanted if k <= there[-1]]


@pytest.mark.parametrize("compat", ["correct", "upstream"])
def test_every_frame_is_where_and_when_it_should_be(prepared, iemocap, compat) -> None:
    out, _ = prepared("iemocap", compat)
    for said in iemocap[1].values():
        expected = [] if said.name in WRITTEN[compat] else expected_frames(said, compat)
        for side, more in (("L", 0), ("R", 1000)):
            files = {int(path.stem.rpartition("_")[2]): path for path in folder(out, said.name).glob(f"image_{side}_*")}
            assert sorted(files) == list(range(len(expected))), said.name
            shown = []
            for number in sorted(files):
                with Image.open(files[number]) as image:
                    assert (image.size, image.mode, image.format) == ((224, 224), "RGB", "JPEG")
                    rgb = np.array(image)
                shown.append(releases.read_blocks(rgb[..., 1]) - more)
                colour = rgb[40:180, 5:22].mean((0, 1))
                assert (colour[0] if side == "L" else colour[2]) > 200
                # the panel's own edge: what was cut out is the panel to the pixel
                gray = releases.blocks(shown[-1] + more, 224, 224)[..., 1].astype(float)
                assert np.abs(rgb[..., 1] - gray)[:, 40:].mean() < 6
            assert shown == expected, said.name


@pytest.mark.parametrize("compat", ["correct", "upstream"])
def test_every_sample_is_the_sources(prepared, iemocap, compat) -> None:
    out, _ = prepared("iemocap", compat)
    whole = releases.sound(4 * releases.RATE, 2)
    for said in iemocap[1].values():
        if said.name in WRITTEN[compat]:
            continue
        part = whole[int(16000 * said.start) : int(16000 * said.end)]
        for name, channels in (("audio", part), ("audio_L", part[:, :1]), ("audio_R", part[:, 1:])):
            with wave.open(str(folder(out, said.name) / f"{name}.wav")) as file:
                assert (file.getframerate(), file.getsampwidth(), file.getnchannels()) == (16000, 2, channels.shape[1])
                assert file.readframes(file.getnframes()) == channels.tobytes(), said.name


def test_words_labels_and_times(prepared, iemocap) -> None:
    out, _ = prepared("iemocap", "correct")
    meta = pickle.loads((out / "IEMOCAP_RAW_PROCESSED" / "meta.pkl").read_bytes())
    assert set(meta) == set(iemocap[1]) - WRITTEN["correct"]
    for name, entry in meta.items():
        said = iemocap[1][name]
        assert list(entry) == ["start_time", "end_time", "label", "text", "sr", "fps"]
        assert (entry["start_time"], entry["end_time"], entry["label"]) == (said.start, said.end, said.label)
        assert entry["text"] == said.line.split("]:", 1)[1].strip()
        assert entry["sr"] == 16000 and type(entry["sr"]) is int and type(entry["fps"]) is float
        assert entry["fps"] == (25.0 if "Ses02M" in name else 30000 / 1001)
    assert meta["Ses01M_script01_1b_M000"]["text"] == "caf\xe9 \xa31"
    assert meta["Ses01M_script01_1b_F000"]["text"] == "A ]: in the words: yes"


def test_upstream_loses_what_stands_before_the_last_colon(prepared) -> None:
    meta = pickle.loads((prepared("iemocap", "upstream")[0] / "IEMOCAP_RAW_PROCESSED" / "meta.pkl").read_bytes())
    assert meta["Ses01F_impro01_F000"]["text"] == "[LAUGHTER] no."
    assert meta["Ses01M_script01_1b_F000"]["text"] == "yes"
    assert meta["Ses01F_impro01_M000"]["text"] == "Over\u2014lapping."


@pytest.mark.parametrize("compat", ["correct", "upstream"])
def test_each_trained_utterance_is_in_one_split(prepared, iemocap, compat) -> None:
    out, account = prepared("iemocap", compat)
    lists = [
        (out / "IEMOCAP_SPLIT" / f"{s}_split.txt").read_bytes().decode("ascii") for s in ("train", "valid", "test")
    ]
    assert all(text.endswith("\n") and "\n\n" not in text for text in lists)
    names = [name for text in lists for name in text.splitlines()]
    trained = {name for name, said in iemocap[1].items() if said.label in ("ang", "exc", "fru", "hap", "neu", "sad")}
    assert sorted(names) == sorted(trained - WRITTEN[compat])
    assert all(text.strip() for text in lists)
    assert account.unused == 2  # xxx and sur
    people = [{speaker_of(name) for name in text.splitlines()} for text in lists]
    assert account.shared["train and test"] == sorted(people[0] & people[2])


def test_folders_hold_nothing_else(prepared) -> None:
    out, _ = prepared("iemocap", "correct")
    assert {path.name for path in out.iterdir()} == {"IEMOCAP_RAW_PROCESSED", "IEMOCAP_SPLIT", "prepare-iemocap.json"}
    for said in (out / "IEMOCAP_RAW_PROCESSED").glob("*/*"):
        images = sum(path.suffix == ".jpg" for path in said.iterdir())
        assert images % 2 == 0 and len(list(said.iterdir())) == images + 3


def test_the_account_says_what_was_left_out_and_why(prepared) -> None:
    _, account = prepared("iemocap", "correct")
    why = {item.what: item.why for item in account.left_out}
    assert why == {
        "Ses01F_impro01_F002": "no line in the transcript",
        "Ses01F_impro01_F004": "no image and no sound at its time",
        "Ses02F_script02_2_M001": "no image at its time",
    }
    assert (account.recordings, account.written) == (4, 13)


def test_the_reader_takes_what_was_made(prepared) -> None:
    items = read_processed(prepared("iemocap", "correct")[0], "iemocap", "train")
    assert all(item.images and item.audio.exists() for item in items)
