"""A bundle exported without a modality: its inputs and tower are not there, and the rest answers as before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from mmx.cli.main import main
from mmx.export.exporter import choose_modalities, export_bundle
from mmx.models.checkpoint import load_checkpoint, save_checkpoint, seeded_module
from mmx.models.registry import get_system
from mmx.runtime.bundle import Bundle
from mmx.runtime.packing import MODALITY_INPUTS, pack
from mmx.runtime.predictor import Predictor
from mmx.runtime.types import MODALITIES, Sample

TOWERS = {"text": ("T.", "t_out"), "visual": ("V.", "v_"), "audio": ("A.", "a_")}


def samples() -> list[Sample]:
    """Three ragged utterances; the second has no face, the last no sound."""
    random = np.random.default_rng(5)
    return [
        Sample(
            token_ids=random.integers(5, 900, tokens),
            faces=random.uniform(0, 255, (faces, 3, 48, 48)).astype(np.float32),
            pieces=random.exponential(1.0, (pieces, 128, 32)).astype(np.float32),
        )
        for tokens, faces, pieces in ((7, 2, 3), (3, 0, 1), (12, 4, 0))
    ]


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ("audio,text", ("text", "audio")),
        ("visual", ("visual",)),
        pytest.param("text", ("text",), marks=pytest.mark.slow),
        pytest.param("audio", ("audio",), marks=pytest.mark.slow),
        pytest.param("visual,audio", ("visual", "audio"), marks=pytest.mark.slow),
        pytest.param("text,visual", ("text", "visual"), marks=pytest.mark.slow),
    ],
)
def test_the_rest_answers_as_the_whole_system_does(
    tiny_checkpoint: Path, tokenizer_dir: Path, tmp_path: Path, asked: str, kept: tuple[str, ...]
) -> None:
    """Each modality's logits are the whole PyTorch system's; the fused ones are the weighted sum of those kept."""
    out = tmp_path / "part.mmx"
    tokenizer = ["--tokenizer", str(tokenizer_dir)] if "text" in kept else []
    assert main(["export", str(tiny_checkpoint), "--out", str(out), "--modalities", asked, *tokenizer]) == 0
    bundle = Bundle.open(out)
    manifest, whole = bundle.manifest, load_checkpoint(tiny_checkpoint).module
    assert manifest.modalities == kept and tuple(manifest.fusion_weights) == kept
    assert manifest.provenance["command"] == f"mmx export tiny.pt --modalities {asked}"
    assert (bundle.tokenizer_dir is None, bundle.face_nets is None) == ("text" not in kept, "visual" not in kept)

    graph = onnx.load(bundle.graph().path).graph
    assert [value.name for value in graph.input] == [name for m in kept for name in MODALITY_INPUTS[m]]
    held = " ".join([node.name for node in graph.node] + [tensor.name for tensor in graph.initializer])
    for modality, prefixes in TOWERS.items():
        assert all((f" {prefix}" in f" {held}") == (modality in kept) for prefix in prefixes), modality

    inputs = {name: torch.from_numpy(array) for name, array in pack(samples()).inputs.items()}
    expected = dict(zip(MODALITIES, whole(**inputs)[1:], strict=True))
    weights = dict(zip(MODALITIES, whole.weighted_fusion.weight[0], strict=True))
    with Predictor(bundle, threads=1) as predictor:
        found = predictor.network.logits(samples())
    assert set(found) == {"logits", *(f"logits_{modality}" for modality in kept)}
    for modality in kept:
        wanted = expected[modality].numpy()
        assert np.abs(found[f"logits_{modality}"] - wanted).max() <= 2e-5 * np.abs(wanted).max(), modality
    fused = sum(weights[modality] * expected[modality] for modality in kept).numpy()
    assert np.abs(found["logits"] - fused).max() <= 2e-5 * np.abs(fused).max()


def test_a_part_reads_media_files_and_says_what_it_looked_at(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One export of the voice alone goes through every command that takes a bundle."""
    from mmx.training.synthetic.writer import write_synthetic

    monkeypatch.chdir(tmp_path)
    export_bundle(tiny_checkpoint, "voice.mmx", modalities=["audio"])
    write_synthetic(tmp_path / "data", 30, seed=1, clips=1)
    clip = str(tmp_path / "data" / "clips" / "anger_0.mp4")
    capsys.readouterr()
    assert main(["predict", "voice.mmx", clip, "--backend", "onnxruntime", "--json"]) == 0
    assert '"modalities": ["audio"]' in capsys.readouterr().out.replace("\n", " ").replace("[ ", "[")
    assert main(["inspect", "voice.mmx"]) == 0
    output = capsys.readouterr().out
    assert "fusion      audio " in output and "faces" not in output.split("files:")[0]
    assert main(["profile", "voice.mmx", "--backend", "onnxruntime", "--runs", "1", "--duration", "1"]) == 0


def test_what_cannot_be_left_out_is_said(tiny_checkpoint: Path, tokenizer_dir: Path, tmp_path: Path, capsys) -> None:
    config = get_system("lf-lstm").presets["tiny"]
    features = tmp_path / "lf.pt"
    save_checkpoint(features, seeded_module("lf-lstm", config), "lf-lstm", config, dataset="mosei")
    for checkpoint, options, said in (
        (tiny_checkpoint, ["--modalities", "smell"], "no modality 'smell'"),
        (tiny_checkpoint, ["--modalities", ""], "no modality ''"),
        (features, ["--modalities", "text"], "needs all of its modalities"),
        (tiny_checkpoint, ["--modalities", "audio", "--tokenizer", str(tokenizer_dir)], "takes no text"),
    ):
        assert main(["export", str(checkpoint), "--out", str(tmp_path / "x.mmx"), *options]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "x.mmx").exists()


def test_a_modality_without_weight_is_pointed_out(tmp_path: Path) -> None:
    """What ``mmx train --modalities text,audio`` leaves: the export says how to drop the tower that nothing reads."""
    config = get_system("ours").presets["tiny"]
    module = seeded_module("ours", config)
    module.get_parameter("weighted_fusion.weight").data[0, 1] = 0
    save_checkpoint(tmp_path / "c.pt", module, "ours", config, dataset="iemocap")
    loaded = load_checkpoint(tmp_path / "c.pt")
    assert choose_modalities(loaded, None) == [
        "the fusion gives visual no weight: --modalities text,audio leaves it out"
    ]
    assert loaded.module.modalities == MODALITIES
