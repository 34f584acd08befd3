"""``compat: upstream`` gives the tensors of the public loader, written here anew from what it is known to do."""

from __future__ import annotations

import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mmx.datasets.processed import Item, read_processed
from mmx.datasets.reading import read_utterance
from mmx.export.face_nets import face_nets
from mmx.runtime.errors import BadDataError
from mmx.runtime.manifest import Preprocessing, VideoSpec
from mmx.runtime.media.faces import FaceDetector
from mmx.runtime.media.mel import mel_pieces

UPSTREAM = Preprocessing(compat="upstream")


def public_frames(folder: Path, side: str | None) -> list[NDArray[np.float32]]:
    """What the public loader gives for an utterance's folder; ``side``: L or R for IEMOCAP, None for MOSEI."""
    files = len(list(folder.glob("*")))
    count = files - 1 if side is None else (files - 5) // 2
    prefix = "image_" if side is None else f"image_{side}_"
    frames = []
    for number in range(0, count, int(500 / 1000 * 30)):
        image = Image.open(folder / f"{prefix}{number}.jpg")
        if side is None:
            height, width = np.float32(image).shape[:2]
            if height > 360:
                height, width = height // 2, width // 2
                image = image.resize((width, height), Image.BILINEAR)
            padded = np.zeros((height + 720, width + 720, 3), np.float32)
            padded[360:-360, 360:-360] = np.float32(image)
            top, left = 360 + round((height - 360) / 2.0), 360 + round((width - 360) / 2.0)
            frames.append(padded[top : top + 360, left : left + 360])
        else:
            frames.append(np.float32(image))
    return frames


def public_fallback(frame: NDArray[np.float32]) -> NDArray[np.float32]:
    """The demo's cut from a frame without a face."""
    image = frame.transpose(2, 0, 1)
    off = (image.shape[1] - 48) // 2
    return image[:, off : off + 48, off - 24 : off + 24]


class NoFaces:
    """Stands in for the detector's nets: these pictures hold no face."""

    def extract(self, frames, no_face, times=None):
        from mmx.runtime.media.faces.crop import upstream_crop

        assert no_face == "upstream"
        return [type("Crop", (), {"pixels": upstream_crop(frame, UPSTREAM.faces)}) for frame in frames]


@pytest.mark.parametrize("dataset", ["iemocap", "mosei"])
def test_tensors_are_the_public_loaders(prepared, dataset) -> None:
    out, _ = prepared(dataset, "upstream")
    several = 0
    for split in ("train", "valid", "test"):
        for item in read_processed(out, dataset, split):
            side = item.audio.stem[-1] if dataset == "iemocap" else None
            frames = public_frames(item.audio.parent, side)
            sample = read_utterance(item, UPSTREAM, None, NoFaces())  # type: ignore[arg-type]
            assert len(sample.faces) == len(frames)
            for face, frame in zip(sample.faces, frames, strict=True):
                np.testing.assert_array_equal(face, public_fallback(frame))
            with wave.open(str(item.audio)) as file:
                sound = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
            np.testing.assert_array_equal(sample.pieces, mel_pieces(sound, UPSTREAM.mel))
            several += len(frames) > 1
    assert several or dataset == "mosei"


def test_the_real_detector_sees_the_public_loaders_frames(prepared) -> None:
    """Through the nets themselves: same crops from the item as from the public loader's own frames."""
    item = read_processed(prepared("iemocap", "upstream")[0], "iemocap", "train")[0]
    frames = [frame.astype(np.uint8) for frame in public_frames(item.audio.parent, item.audio.stem[-1])]
    detector = FaceDetector(face_nets(), UPSTREAM.faces)
    crops = [crop.pixels for crop in detector.extract(frames, "upstream")]
    np.testing.assert_array_equal(read_utterance(item, UPSTREAM, None, detector).faces, np.stack(crops))


def a_mosei_item(folder: Path, sizes: list[tuple[int, int]]) -> Item:
    """Images of noise of these (width, height), twenty of each."""
    random = np.random.default_rng(0)
    images = []
    for number in range(20 * len(sizes)):
        width, height = sizes[number // 20]
        coarse = random.integers(0, 256, (height // 20 + 1, width // 20 + 1, 3), np.uint8)
        path = folder / f"image_{number}.jpg"
        Image.fromarray(coarse).resize((width, height), Image.BICUBIC).save(path, quality=95)
        images.append(path)
    with wave.open(str(folder / "audio.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(bytes(32000))
    return Item("v_0", tuple(images), folder / "audio.wav", "words", (0,) * 6, 2.0, "mosei")


@pytest.mark.parametrize("size", [(640, 360), (1280, 720), (854, 480), (854, 481), (480, 360), (320, 240), (321, 241)])
def test_moseis_pictures_are_halved_and_cropped(tmp_path, size) -> None:
    item = a_mosei_item(tmp_path, [size])
    frames = public_frames(tmp_path, None)
    assert len(frames) == 2
    sample = read_utterance(item, UPSTREAM, None, NoFaces())  # type: ignore[arg-type]
    np.testing.assert_array_equal(sample.faces, [public_fallback(frame) for frame in frames])


def test_the_last_image_of_iemocap_is_never_taken(tmp_path) -> None:
    for count, taken in ((1, []), (2, [0]), (15, [0]), (16, [0]), (17, [0, 15]), (31, [0, 15]), (32, [0, 15, 30])):
        images = tuple(tmp_path / f"image_L_{number}.jpg" for number in range(count))
        item = Item("Ses01F_impro01_F000", images, tmp_path / "a.wav", "", (1, 0, 0, 0, 0, 0), 25.0, "iemocap")
        assert [path.stem for path in item.chosen(UPSTREAM)] == [f"image_L_{number}" for number in taken]
        assert len(item.chosen(replace(UPSTREAM, video=VideoSpec(interval_s=1.0)))) == len(range(0, count - 1, 30))


def test_what_is_no_jpeg_is_named(tmp_path) -> None:
    item = a_mosei_item(tmp_path, [(64, 64)])
    item.images[0].write_bytes(b"nonsense")
    with pytest.raises(BadDataError, match=r"image_0\.jpg can't be read"):
        read_utterance(item, UPSTREAM, None, NoFaces())  # type: ignore[arg-type]
