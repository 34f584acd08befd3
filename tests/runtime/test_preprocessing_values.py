"""Every preprocessing value of a manifest changes what the network gets, or is rejected by its name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from mmx.runtime import Bundle, MediaArrays, Predictor
from mmx.runtime.errors import BadDataError
from mmx.runtime.manifest import Preprocessing
from mmx.runtime.packing import inputs_for
from mmx.runtime.preprocess import Preprocessor

RATE = 44100
CHANGED: dict[str, Any] = {
    "video.interval_s": 0.25,
    "video.every_nth": 2,
    "video.no_face": "skip",
    "faces.min_face": 47,
    "faces.thresholds": [0.6, 0.7, 1.0],
    "faces.factor": 0.5,
    "faces.margin": 20,
    "faces.resample": "torch",
    "mel.sample_rate": 8000,
    "mel.n_fft": 512,
    "mel.hop": 160,
    "mel.mix": "mean",
    "mel.own_rate": True,
    "text.max_tokens": 5,
    "text.lower_case": False,
    "max_segment_s": 0.6,
    "compat": "upstream",
}
REJECTED = {"faces.size": 64, "mel.n_mels": 64, "mel.columns": 64}
UNLIKE_THE_TOKENIZER = {"text.cls_id": 7, "text.sep_id": 8, "text.pad_id": 9}
ELSEWHERE = {  # what no media of this test can show
    "video.hdr": "tests/media/test_twins.py",
    "text.languages": "tests/speech",
    "quality.silence_dbfs": "tests/runtime/test_quality.py",
    "quality.noise_flatness": "tests/runtime/test_quality.py",
}


def leaves(kind: Any, where: str = "") -> Iterator[str]:
    for field in fields(kind):
        value = getattr(kind, field.name)
        if is_dataclass(value):
            yield from leaves(value, f"{where}{field.name}.")
        else:
            yield where + field.name


def test_no_value_is_forgotten() -> None:
    assert sorted([*CHANGED, *REJECTED, *UNLIKE_THE_TOKENIZER, *ELSEWHERE]) == sorted(leaves(Preprocessing()))


@pytest.fixture(scope="module")
def face(clip: tuple[Path, str]) -> MediaArrays:
    """A face, then none, then a face again; and sound of 44.1 kHz."""
    with av.open(clip[0]) as media:
        frame = next(iter(media.decode(video=0))).to_ndarray(format="rgb24")
    slope = np.broadcast_to(np.linspace(0, 255, frame.shape[1]).astype(np.uint8)[None, :, None], frame.shape)
    frames = np.stack([frame, slope, frame[:, ::-1]])
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, RATE * 3 // 2)
    sound *= np.where(np.arange(len(sound)) // 4410 % 2, 1.0, 0.2)  # steady noise would be left out
    return MediaArrays(frames, [0.0, 0.5, 1.0], sound.astype(np.float32), RATE)


@pytest.fixture(scope="module")
def surround(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sound of six channels, each of its own."""
    path = tmp_path_factory.mktemp("surround") / "a.wav"
    loudness = np.where(np.arange(RATE * 6) // (4410 * 6) % 2, 1.0, 0.2)  # steady noise would be left out
    sound = (loudness * np.random.default_rng(0).integers(-9000, 9000, (1, RATE * 6))).astype(np.int16)
    with av.open(path, "w") as out:
        stream = out.add_stream("pcm_s16le", rate=RATE, layout="5.1")
        frame = av.AudioFrame.from_ndarray(sound, format="s16", layout="5.1")
        frame.sample_rate = RATE
        out.mux([*stream.encode(frame), *stream.encode(None)])
    return path


@pytest.fixture(scope="module")
def copy(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("values") / "ckpt.mmx")


def changed(copy: Path, tiny_bundle: Path, name: str, value: Any) -> Path:
    """The copy with one value of its preprocessing changed."""
    content = json.loads((tiny_bundle / "manifest.json").read_text())
    *above, last = name.split(".")
    spec = content["preprocessing"]
    for each in above:
        spec = spec[each]
    assert spec[last] != value
    spec[last] = value
    (copy / "manifest.json").write_text(json.dumps(content))
    return copy


def seen(path: Path, media: Any, text: str) -> list[np.ndarray]:
    """All that the graph is given for one file, and for it beside a shorter text."""
    bundle = Bundle.open(path)
    segments = list(Preprocessor(bundle, threads=1).segments(media, text=text))
    short = list(Preprocessor(bundle, threads=1).segments(media, text="no"))
    samples = [segment.sample for segment in (*segments, short[0])]
    return list(inputs_for(bundle.manifest, samples).values())


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


TEXT = "Ever tried. Ever FAILED. No matter. Try again. Fail again. Fail better."


@pytest.fixture(scope="module")
def before(tiny_bundle: Path, face: MediaArrays, surround: Path) -> dict[str, list[np.ndarray]]:
    found = {"face": seen(tiny_bundle, face, TEXT), "surround": seen(tiny_bundle, surround, TEXT)}
    assert same(found["face"], seen(tiny_bundle, face, TEXT))
    return found


@pytest.mark.parametrize("name", CHANGED)
def test_a_changed_value_changes_what_the_network_gets(
    copy: Path, tiny_bundle: Path, face: MediaArrays, surround: Path, before: dict[str, Any], name: str
) -> None:
    path = changed(copy, tiny_bundle, name, CHANGED[name])
    media, what = (surround, "surround") if name == "mel.mix" else (face, "face")
    assert not same(seen(path, media, TEXT), before[what])


@pytest.mark.parametrize("name", REJECTED)
def test_a_value_that_cannot_be_honoured_is_rejected_by_name(copy: Path, tiny_bundle: Path, name: str) -> None:
    path = changed(copy, tiny_bundle, name, REJECTED[name])
    with pytest.raises(BadDataError, match=rf"preprocessing: {name.replace('.', ': ')}"):
        Predictor(path)


@pytest.mark.parametrize("name", UNLIKE_THE_TOKENIZER)
def test_an_id_that_is_not_the_tokenizers_is_rejected_when_text_is_read(
    copy: Path, tiny_bundle: Path, face: MediaArrays, name: str
) -> None:
    path = changed(copy, tiny_bundle, name, UNLIKE_THE_TOKENIZER[name])
    with pytest.raises(BadDataError, match=rf"gives .* the id \d, not {UNLIKE_THE_TOKENIZER[name]}"):
        seen(path, face, TEXT)
