"""Upstream-style and mmx give the same answers on the same samples, from tensors, from a data set, and from video."""

import pickle
import wave
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from mmx.benchmarks.contenders.bundles import BundleContender
from mmx.benchmarks.contenders.peers import open_peer
from mmx.benchmarks.contenders.upstream import upstream_inputs, upstream_module
from mmx.benchmarks.measure.parity import parity
from mmx.benchmarks.workload.sources import data_source
from mmx.benchmarks.workload.utterances import make_sample, utterance_of
from mmx.datasets.dataset import find_dataset
from mmx.datasets.processed import LABELS
from mmx.datasets.reading import read_image
from mmx.models.checkpoint import load_checkpoint
from mmx.models.repvgg import RepVGGBlock
from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import BadDataError, UsageError
from mmx.runtime.precisions import precisions

SAMPLES = [make_sample(utterance_of(seconds)) for seconds in (0.6, 2.0, 5.0)]


def test_eager_pads_the_text_and_mmx_does_not_and_both_agree(tiny_checkpoint, tiny_bundle, tmp_path):
    assert upstream_inputs(SAMPLES[0])["input_ids"].shape == (1, 100)
    eager = open_peer("eager", "ours", upstream_module("ours", checkpoint=tiny_checkpoint), 1, tmp_path)
    with torch.inference_mode():  # the training form itself, sample by sample
        original = load_checkpoint(tiny_checkpoint).module
        wanted = torch.cat(
            [original(**{k: torch.from_numpy(v) for k, v in upstream_inputs(s).items()})[0] for s in SAMPLES]
        ).numpy()
    assert parity(eager.run(SAMPLES), wanted)[0] < 1e-6
    bundle = Bundle.open(tiny_bundle)
    for precision in precisions(bundle, "onnxruntime"):
        mmx = BundleContender("ours", bundle, "onnxruntime", precision, 1)
        assert mmx.key == f"ours/onnxruntime/{precision}"
        assert parity(mmx.run(SAMPLES), wanted)[0] < 2e-5
        mmx.close()


def test_upstreams_form_is_deployed_and_computes_the_same():
    module = upstream_module("v2em", "tiny")
    blocks = [block for block in module.modules() if isinstance(block, RepVGGBlock)]
    assert blocks
    assert all(block.deployed for block in blocks)
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in module.modules())  # nothing else is folded


def test_parity_sees_what_is_wrong():
    right = np.array([[1.0, -2.0]], np.float32)
    assert parity(right, right) == (0.0, 0.0)
    error, shift = parity(right + 0.1, right)
    assert error == pytest.approx(0.05, rel=1e-4)
    assert 0.01 < shift < 0.03
    assert parity(np.array([[np.nan, 1.0]], np.float32), right) == (float("inf"), float("inf"))


def test_peers_that_do_not_exist_are_rejected(tmp_path):
    with pytest.raises(UsageError, match="tensorflow"):
        open_peer("tensorflow", "ours", torch.nn.Identity(), 1, tmp_path)


def write_jpeg(path: Path, pixels: np.ndarray) -> None:
    with av.open(str(path), "w", format="image2") as file:
        stream = file.add_stream("mjpeg", rate=1)
        stream.height, stream.width, stream.pix_fmt = *pixels.shape[:2], "yuvj444p"
        stream.time_base = Fraction(1, 1)
        frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


@pytest.fixture
def mosei(tmp_path):
    folder = tmp_path / "MOSEI_RAW_PROCESSED" / "abc_1"
    folder.mkdir(parents=True)
    for i in range(4):
        pixels = np.full((96, 128, 3), (200, 60, 20 * i), np.uint8)
        write_jpeg(folder / f"image_{i}.jpg", pixels)
    tone = (3000 * np.sin(np.arange(32000) / 5)).astype(np.int16)
    with wave.open(str(folder / "audio.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(tone.tobytes())
    meta = {"abc_1": {"text": "well hello there", "label": [0, 0, 0, 1, 0, 0]}}
    (folder.parent / "meta.pkl").write_bytes(pickle.dumps(meta))
    (tmp_path / "MOSEI_SPLIT").mkdir()
    (tmp_path / "MOSEI_SPLIT" / "test_split.txt").write_text("abc_1\n")
    return tmp_path


def test_a_processed_data_set_becomes_samples_and_targets(mosei, tiny_bundle):
    bundle = Bundle.open(tiny_bundle)
    with pytest.raises(UsageError, match="ang, exc"):  # it was trained on the other data set
        data_source(find_dataset(mosei), bundle)
    assert data_source(find_dataset(mosei), bundle, scored=False).targets is None
    bundle = replace(bundle, manifest=replace(bundle.manifest, labels=LABELS["mosei"]))
    source = data_source(find_dataset(mosei), bundle)
    (utterance,) = source.workload.utterances
    sample = source.make(0)
    assert utterance.duration == pytest.approx(2.0)
    assert sample.faces.shape == (4, 3, 48, 48)  # no face in them: the centre of the picture
    assert sample.faces[2, :, 24, 24] == pytest.approx([200, 60, 40], abs=4)
    assert len(sample.pieces) == utterance.pieces + 1 or len(sample.pieces) == utterance.pieces
    assert (sample.token_ids[0], sample.token_ids[-1]) == (2, 3)
    assert len(sample.token_ids) == utterance.tokens
    assert source.targets.tolist() == [[0, 0, 0, 1, 0, 0]]


def test_a_clip_that_cannot_be_read_is_left_out(mosei, tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("MMX_CACHE", str(tmp_path / "cache"))
    tone = mosei / "MOSEI_RAW_PROCESSED/abc_1/audio.wav"
    (tmp_path / "noise.wav").write_bytes(bytes(range(256)) * 9)
    rows = [f"{tone},0.5,1.5,happy,test", f"{tone},,0.4,sad,test", "noise.wav,0,1,sad,test"]
    (tmp_path / "clips.csv").write_text("\n".join(["file,start,end,label,split", *rows]))
    data = find_dataset(tmp_path / "clips.csv")
    bundle = Bundle.open(tiny_bundle)
    bundle = replace(bundle, manifest=replace(bundle.manifest, labels=("sad", "happy")))
    source = data_source(data, bundle)
    assert [utterance.duration for utterance in source.workload.utterances] == pytest.approx([1.0, 0.4])
    assert len(source.make(0).pieces) == 3 and len(source.make(0).faces) == 0
    assert source.labels == ("happy", "sad") and source.targets.tolist() == [[1, 0], [0, 1]]
    assert len(source.notes) == 1 and "clips.csv line 4 is left out" in source.notes[0]


def test_a_picture_that_is_none_names_its_file(tmp_path):
    (tmp_path / "image_0.jpg").write_bytes(b"\xff\xd8\xff but no more")
    with pytest.raises(BadDataError, match=r"image_0\.jpg"):
        read_image(tmp_path / "image_0.jpg")
