"""The public layout is read as its own loaders read it, and a hostile meta.pkl builds nothing."""

import os
import pickle
import wave
from pathlib import Path

import numpy as np
import pytest

from mmx.datasets.plain_pickle import load_plain
from mmx.datasets.processed import read_processed
from mmx.runtime.errors import BadDataError
from mmx.runtime.manifest import Preprocessing, VideoSpec

EVERY_15TH = Preprocessing(VideoSpec(every_nth=15))


def write_wav(path: Path, seconds: float) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(np.zeros(int(16000 * seconds), np.int16).tobytes())


def write_utterance(folder: Path, images: int, sides: tuple[str, ...], seconds: float) -> None:
    folder.mkdir(parents=True)
    for side in sides:
        for i in range(images):
            (folder / f"image_{side}{i}.jpg").touch()
        write_wav(folder / (f"audio_{side.strip('_')}.wav" if side else "audio.wav"), seconds)


@pytest.fixture
def iemocap(tmp_path):
    raw = tmp_path / "IEMOCAP_RAW_PROCESSED"
    names = ["Ses01F_impro01_F000", "Ses01F_impro01_M001", "Ses03M_script01_1_M010"]
    for name in names:
        write_utterance(raw / "_".join(name.split("_")[:2]) / name, 61, ("L_", "R_"), 2.0)
    write_wav(raw / "Ses01F_impro01" / names[0] / "audio.wav", 2.0)
    entry = {"start_time": 1.0, "end_time": 3.0, "text": "Well, hello.", "sr": 16000, "fps": 29.97}
    meta = {name: {**entry, "label": label} for name, label in zip(names, ["ang", "sad", "exc"], strict=True)}
    (raw / "meta.pkl").write_bytes(pickle.dumps({**meta, "Ses09F_impro01_F000": {**entry, "label": "xxx"}}))
    (tmp_path / "IEMOCAP_SPLIT").mkdir()
    (tmp_path / "IEMOCAP_SPLIT" / "test_split.txt").write_text("\n".join(names) + "\n")
    return tmp_path


def test_iemocap_takes_the_side_that_speaks(iemocap):
    items = read_processed(iemocap, "iemocap")
    assert [item.audio.name for item in items] == ["audio_L.wav", "audio_R.wav", "audio_L.wav"]
    assert [item.target for item in items] == [(1, 0, 0, 0, 0, 0), (0, 0, 0, 0, 0, 1), (0, 1, 0, 0, 0, 0)]
    assert [image.name for image in items[1].chosen(Preprocessing())] == [
        f"image_R_{i}.jpg" for i in (0, 15, 30, 45, 60)
    ]
    assert items[0].chosen(EVERY_15TH) == items[0].chosen(Preprocessing())
    assert items[0].duration() == pytest.approx(2.0)
    assert items[0].text == "Well, hello."


def test_images_go_by_time_where_the_frame_rate_is_not_thirty(iemocap):
    path = iemocap / "IEMOCAP_RAW_PROCESSED" / "meta.pkl"
    meta = pickle.loads(path.read_bytes())
    meta["Ses01F_impro01_F000"]["fps"] = 25.0
    path.write_bytes(pickle.dumps(meta))
    chosen = read_processed(iemocap, "iemocap")[0].chosen(Preprocessing())
    assert [image.stem for image in chosen] == [f"image_L_{i}" for i in (0, 13, 25, 38, 50)]


def test_mosei_has_a_frame_each_half_second(tmp_path):
    raw = tmp_path / "MOSEI_RAW_PROCESSED"
    write_utterance(raw / "-6rXp3zJ3kc_3", 12, ("",), 6.0)
    (raw / "meta.pkl").write_bytes(pickle.dumps({"-6rXp3zJ3kc_3": {"text": "Fine", "label": [0, 0, 1, 0, 1, 0]}}))
    (tmp_path / "MOSEI_SPLIT").mkdir()
    (tmp_path / "MOSEI_SPLIT" / "test_split.txt").write_text("-6rXp3zJ3kc_3")
    (item,) = read_processed(tmp_path, "mosei")
    assert item.target == (0, 0, 1, 0, 1, 0)
    assert [image.name for image in item.chosen(Preprocessing())] == [f"image_{i}.jpg" for i in range(12)]
    assert len(item.chosen(EVERY_15TH)) == 1


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda root: (root / "IEMOCAP_SPLIT" / "test_split.txt").unlink(), "test_split.txt"),
        (lambda root: (root / "IEMOCAP_SPLIT" / "test_split.txt").write_text("../../etc"), "no utterance name"),
        (lambda root: (root / "IEMOCAP_SPLIT" / "test_split.txt").write_text("Ses09F_impro01_F000"), "no folder"),
        (lambda root: (root / "IEMOCAP_SPLIT" / "test_split.txt").write_text("Ses07F_impro01_F000"), "has no text"),
        (lambda root: (root / "IEMOCAP_RAW_PROCESSED" / "meta.pkl").write_bytes(b"nonsense"), "meta.pkl"),
        (lambda root: (root / "IEMOCAP_RAW_PROCESSED" / "meta.pkl").write_bytes(pickle.dumps([1])), "list"),
        (lambda root: next(root.glob("*/*/*/audio_L.wav")).unlink(), "audio_L.wav is missing"),
    ],
)
def test_a_broken_layout_names_the_file(iemocap, break_it, message):
    break_it(iemocap)
    with pytest.raises(BadDataError, match=message):
        read_processed(iemocap, "iemocap")


class Calls:
    """Unpickling one with pickle.load would create the file it names."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_hostile_pickle_runs_nothing(tmp_path, protocol):
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps({"a": Calls(tmp_path / "pwned")}, protocol))
    with pytest.raises(BadDataError, match=r"not a pickle of plain data.*mkdir"):
        load_plain(tmp_path / "meta.pkl")
    assert not (tmp_path / "pwned").exists()
    pickle.loads((tmp_path / "meta.pkl").read_bytes())  # the attack is real
    assert (tmp_path / "pwned").exists()


def test_plain_data_comes_back_as_it_was(tmp_path):
    data = {"a": {"text": "x", "label": [0, 1], "sr": 16000, "fps": 29.97, "t": (None, True, b"y")}}
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(data))
    assert load_plain(tmp_path / "meta.pkl") == data
    with pytest.raises(BadDataError, match="absent"):
        load_plain(tmp_path / "absent.pkl")
