"""A made-up MOSEI release, in both layouts and with both kinds of labels, is cut to the frame and the sample."""

from __future__ import annotations

import math
import pickle
import wave
from pathlib import Path

import numpy as np
import pytest
import releases
from PIL import Image

from mmx.datasets.prepare.pictures import _by_count, mosei_shots, on_screen
from mmx.datasets.prepare.plan import Utterance
from mmx.datasets.prepare.run import Options, prepare


def expected_frames(clip: releases.Clip, compat: str) -> list[int]:
    """The numbers of the frames that its images show."""
    if compat == "upstream" and clip.video.endswith("_"):
        return []  # the notebook takes a part of the name for the clip's number, and finds no such video
    rate, places = releases.FRAMES[clip.video]
    end = (places[-1] + 1) / rate
    first, last = math.floor(2 * max(0, clip.start)), math.floor(2 * clip.end)
    if compat == "upstream":
        taken = list(range(len(places)))[:: int(np.round(0.5 * float(len(places) / end)))]
        return taken[int(2 * clip.start) : int(2 * clip.end)]
    wanted = [k / 2 for k in range(first, last)] or [(clip.start + clip.end) / 2]
    return [max(n for n, place in enumerate(places) if place / rate <= at) for at in wanted if at < end]


def check(out: Path, clips: dict[str, releases.Clip], compat: str) -> None:
    """Every image and sample of every clip."""
    raw = out / "MOSEI_RAW_PROCESSED"
    written = {name: clip for name, clip in clips.items() if expected_frames(clip, compat)}
    assert {path.name for path in raw.iterdir()} == {*written, "meta.pkl"}
    for name, clip in written.items():
        expected = expected_frames(clip, compat)
        assert {path.name for path in (raw / name).iterdir()} == {
            "audio.wav",
            *(f"image_{number}.jpg" for number in range(len(expected))),
        }, name
        shown = []
        for number in range(len(expected)):
            with Image.open(raw / name / f"image_{number}.jpg") as image:
                assert (image.size, image.mode) == ((320, 180), "RGB")
                shown.append(releases.read_blocks(np.array(image)))
        assert shown == expected, name
        whole = releases.sound(9 * releases.RATE, 2)[:, :1]
        with wave.open(str(raw / name / "audio.wav")) as file:
            assert (file.getframerate(), file.getsampwidth(), file.getnchannels()) == (16000, 2, 1)
            samples = whole[int(16000 * max(0, clip.start)) : int(16000 * clip.end)]
            assert file.readframes(file.getnframes()) == samples.tobytes(), name


@pytest.mark.parametrize("compat", ["correct", "upstream"])
def test_every_frame_and_sample(prepared, mosei, compat) -> None:
    check(prepared("mosei", compat)[0], mosei[1], compat)


def test_images_of_a_part_of_the_frame(tmp_path, mosei, prepared) -> None:
    """The right half: the same images, each cut at the middle (JPEG's error apart)."""
    options = Options("mosei", workers=2, people="right")
    prepare(mosei[0], tmp_path / "data", options)
    whole, half = prepared("mosei", "correct")[0], tmp_path / "data"
    images = sorted(path.relative_to(whole) for path in whole.glob("MOSEI_RAW_PROCESSED/*/*.jpg"))
    assert images == sorted(path.relative_to(half) for path in half.glob("MOSEI_RAW_PROCESSED/*/*.jpg")) and images
    for name in images[::7]:
        with Image.open(whole / name) as all_of_it, Image.open(half / name) as right:
            assert right.size == (160, 180)
            off = np.abs(np.array(all_of_it, np.int16)[:, 160:] - np.array(right, np.int16))
        assert off.mean() < 4
    assert '"people": "right"' in (half / "prepare-mosei.json").read_text()


def test_a_steady_video_would_not_show_the_drift(mosei) -> None:
    """How upstream and correct differ in these releases: 25 frames a second, and a video that jerks."""
    differ = {c.name for c in mosei[1].values() if expected_frames(c, "upstream") != expected_frames(c, "correct")}
    assert "230165_8" in differ and "-aB_3dEfGh1_1" in differ


def test_words_and_labels(prepared, mosei) -> None:
    meta = pickle.loads((prepared("mosei", "correct")[0] / "MOSEI_RAW_PROCESSED/meta.pkl").read_bytes())
    assert set(meta) == set(mosei[1])
    for name, clip in mosei[1].items():
        assert meta[name] == {"text": clip.words, "label": list(clip.label)}
        assert all(type(value) is int for value in meta[name]["label"])


def test_upstream_loses_the_words_after_a_separator(prepared) -> None:
    meta = pickle.loads((prepared("mosei", "upstream")[0] / "MOSEI_RAW_PROCESSED/meta.pkl").read_bytes())
    assert meta["-aB_3dEfGh1_1"]["text"] == "Two"
    assert not [name for name in meta if "under_score" in name]  # it takes a part of the name for the clip


def test_no_video_is_in_two_splits(prepared, mosei) -> None:
    out, account = prepared("mosei", "correct")
    lists = [
        (out / f"MOSEI_SPLIT/{split}_split.txt").read_text("ascii").splitlines() for split in ("train", "valid", "test")
    ]
    assert sorted(name for names in lists for name in names) == sorted(mosei[1])
    videos = [{name.rpartition("_")[0] for name in names} for names in lists]
    assert all(lists) and not (videos[0] & videos[1] or videos[0] & videos[2] or videos[1] & videos[2])
    assert not any(account.shared.values())


@pytest.mark.parametrize(("full", "csd"), [(True, False), (False, True)])
def test_the_other_layout_and_the_other_labels_give_the_same(tmp_path, prepared, full, csd) -> None:
    if csd:
        pytest.importorskip("h5py")
    releases.write_mosei(tmp_path / "release", full=full, csd=csd)
    account = prepare(tmp_path / "release", tmp_path / "out", Options("mosei", workers=2))
    first, _ = prepared("mosei", "correct")
    files = [path.relative_to(first) for path in sorted(first.rglob("*")) if path.is_file() and path.suffix != ".json"]
    assert files == [
        path.relative_to(tmp_path / "out")
        for path in sorted((tmp_path / "out").rglob("*"))
        if path.is_file() and path.suffix != ".json"
    ]
    assert all((first / file).read_bytes() == (tmp_path / "out" / file).read_bytes() for file in files)
    assert account.written == len(releases.FRAMES) * 2


def test_upstream_reads_no_further_than_280_seconds() -> None:
    """At 25 frames a second the notebook takes each 12th of the first 7000 frames and calls that two a second."""
    said = Utterance("v_0", 285.0, 295.0, "", (0,) * 6)
    frames = ((number / 25, number) for number in range(25 * 300))
    shots = mosei_shots(0, said, 25.0, "upstream")
    shown = [frame for frame, _ in on_screen(_by_count(frames, 2, 12, 25 * 280), shots)]  # type: ignore[arg-type]
    assert shown == list(range(0, 7000, 12))[570:590]
    assert [shot.time for shot in mosei_shots(0, said, 25.0, "correct")] == [k / 2 for k in range(570, 590)]
